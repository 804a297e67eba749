"""Closed forms of the scores."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from s2kd.metrics import (
    annuli,
    band_masks,
    pixel_scores,
    pixel_sums,
    power,
    radial_power,
    spectral_scores,
    spectral_sums,
    wavenumbers,
    windowed_transform,
)

SHAPE = (3, 2, 2, 16, 32)  # batch time channel height width
RANGE = torch.tensor([[0, -2], [2, 3]], dtype=torch.float64)  # minimum and maximum of each channel: spans 2 and 5


def random(seed: int, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def waves(k: float) -> torch.Tensor:
    """A sine along x of k cycles a cell in every field."""
    return torch.sin(2 * math.pi * k * torch.arange(32, dtype=torch.float64) + 0.3).expand(SHAPE).clone()


def test_constant_error_has_the_scores_of_its_closed_form():
    truth = random(0)
    scores = pixel_scores(pixel_sums(truth + 3, truth, RANGE, None), RANGE)
    assert scores["mse"] == pytest.approx(9)
    assert scores["mae"] == pytest.approx(3)
    assert scores["rmse"] == pytest.approx(3)
    assert scores["psnr"] == pytest.approx((10 * math.log10(4 / 9) + 10 * math.log10(25 / 9)) / 2)


def test_rmse_is_the_root_of_the_pooled_mse():
    truth = torch.zeros(SHAPE, dtype=torch.float64)
    forecast = truth.clone()
    forecast[0] = 6  # one window of three is wrong by 6: a mean of roots would be 2
    assert pixel_scores(pixel_sums(forecast, truth, RANGE, None), RANGE)["rmse"] == pytest.approx(math.sqrt(12))


def test_active_cells_leave_out_the_others():
    truth = torch.zeros(SHAPE, dtype=torch.float64)
    active = torch.zeros((2, 16, 32), dtype=torch.bool)
    active[0, :2], active[1, :1] = True, True
    forecast = truth + active * 2.0
    forecast[:, :, 0, 0] = 0  # half of channel 0's active cells are right
    scores = pixel_scores(pixel_sums(forecast, truth, RANGE, active), RANGE)
    assert scores["mse_active"] == pytest.approx((32 * 4 + 32 * 4) / 96)
    assert scores["mse"] == pytest.approx((32 * 4 + 32 * 4) / 1024)


def test_exact_forecast():
    truth = random(1)
    scores = pixel_scores(pixel_sums(truth, truth, RANGE, None), RANGE)
    assert (scores["mse"], scores["mae"], scores["ssim"]) == (0, 0, pytest.approx(1))
    assert math.isinf(scores["psnr"])
    assert set(spectral_scores(spectral_sums(truth, truth)).values()) == {0.0}


def test_ssim_of_two_constant_images_is_its_luminance_term_above_the_minimum():
    a, b, low, high = 281.0, 280.5, 280.0, 282.0  # 0.5 and 0.25 of the range
    first, second = (torch.full((1, 1, 1, 16, 32), value, dtype=torch.float64) for value in (a, b))
    value_range = torch.tensor([[low], [high]], dtype=torch.float64)
    ssim = pixel_scores(pixel_sums(first, second, value_range, None), value_range)["ssim"]
    assert ssim == pytest.approx((2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4), rel=1e-4)


@pytest.mark.parametrize("grid", [(7, 7), (16, 32), (33, 9)])
def test_ssim_is_that_of_torchmetrics(grid):
    shape = (3, 2, 2, *grid)
    truth = random(7, shape)
    forecast = truth + 0.3 * random(8, shape)
    forecast[0] = truth[0]
    forecast[1] = 0.5  # flat
    low, high = RANGE[:, :, None, None]
    images = [((x - low) / (high - low)).reshape(-1, 1, *grid) for x in (forecast, truth)]
    ssim = structural_similarity_index_measure(
        *images, gaussian_kernel=False, kernel_size=7, data_range=1.0, reduction="none"
    )
    expected = ssim.reshape(3, 2, 2).sum(0)
    torch.testing.assert_close(pixel_sums(forecast, truth, RANGE, None)["ssim"], expected, rtol=0, atol=1e-5)


def test_small_grid_has_no_ssim_and_no_low_band():
    truth = random(2, (2, 1, 2, 4, 4))
    assert math.isnan(pixel_scores(pixel_sums(truth + 1, truth, RANGE, None), RANGE)["ssim"])
    scores = spectral_scores(spectral_sums(truth + random(3, truth.shape), truth))
    assert math.isnan(scores["band_error_low"])
    assert math.isnan(scores["error_power_low"])
    assert math.isfinite(scores["band_error_mid"])


def test_parseval_power_of_all_coefficients_is_the_windowed_variance():
    field = random(4, (16, 32))
    window = torch.outer(*(torch.hann_window(n, periodic=True, dtype=torch.float64) for n in (16, 32)))
    mean = (window * field).sum() / window.sum()
    expected = (window * (field - mean)).square().sum() / window.square().mean()
    powers = power(windowed_transform(field))
    assert powers.sum().item() == pytest.approx(expected.item())
    assert powers[0, 0].item() == pytest.approx(0, abs=1e-20)


def test_bands_and_annuli_hold_each_coefficient_but_the_mean_once():
    bands = band_masks(16, 32).sum(0)
    assert bands[0, 0] == 0
    assert bands.sum() == 16 * 32 - 1
    assert bands.max() == 1
    centres, index = annuli(16, 32)
    assert index[0, 0] == -1
    assert (index >= 0).sum() == 16 * 32 - 1
    half = (centres[1] - centres[0]) / 2
    inside = index >= 0
    assert ((wavenumbers(16, 32) - centres[index]).abs()[inside] <= half + 1e-12).all()
    assert len(annuli(256, 256)[0]) == 48


@pytest.mark.parametrize(("k", "band"), [(2 / 32, "low"), (6 / 32, "mid"), (11 / 32, "high")])
def test_a_sine_lies_in_its_band(k, band):
    truth = waves(k)
    scores = spectral_scores(spectral_sums(torch.zeros_like(truth), truth))
    powers = {name: scores[f"error_power_{name}"] for name in ("low", "mid", "high")}
    assert powers[band] == pytest.approx(0.5, rel=0.05)  # the mean square of a sine
    assert powers[band] / sum(powers.values()) > 0.99  # the Hann window spreads it over neighbouring coefficients only
    table = radial_power(spectral_sums(truth, truth), 16, 32)
    assert table["wavenumber"][table["power_truth"].nan_to_num().argmax()].item() == pytest.approx(k, abs=1 / 32)


def test_doubled_amplitude_and_constant_forecast_have_band_error_one():
    truth = random(5)
    for forecast in (2 * truth, torch.full_like(truth, 7.0)):
        scores = spectral_scores(spectral_sums(forecast, truth))
        assert [scores[f"band_error_{band}"] for band in ("low", "mid", "high")] == pytest.approx([1, 1, 1])


def test_a_shifted_wave_counts_as_wrong_though_its_power_is_right():
    truth = waves(2 / 32)
    forecast = waves(2 / 32).roll(8, -1)  # half a wavelength: the negative
    assert spectral_scores(spectral_sums(forecast, truth))["band_error_low"] == pytest.approx(4)
    table = radial_power(spectral_sums(forecast, truth), 16, 32)
    assert torch.allclose(table["power_forecast"], table["power_truth"], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_white_noise_keeps_its_variance_in_the_annuli_beyond_the_mean():
    noise = random(6, (200, 1, 1, 16, 32)) * 3
    powers = radial_power(spectral_sums(noise, noise), 16, 32)["power_truth"]
    assert (powers[2:][~powers[2:].isnan()] / 9 - 1).abs().max() < 0.1
