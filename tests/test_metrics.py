"""Closed forms of the scores."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from s2kd.metrics import (
    annuli,
    anomaly_scores,
    anomaly_sums,
    band_masks,
    latitude_weights,
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


def test_latitude_weights_are_the_areas_of_cells_on_both_grids_of_weatherbench():
    """WeatherBench 2 weighs by the sine between the edges of a cell; the ends reach to the poles."""
    for n_rows in (32, 128):  # 5.625° and 1.40625°
        edges = torch.linspace(-90, 90, n_rows + 1, dtype=torch.float64)
        areas = edges.deg2rad().sin().diff()
        weights = latitude_weights(((edges[1:] + edges[:-1]) / 2).tolist())
        torch.testing.assert_close(weights, areas / areas.mean())
    assert latitude_weights([0.0, 60.0]).tolist() == pytest.approx([4 / 3, 2 / 3])
    assert latitude_weights([60.0, 0.0]).tolist() == pytest.approx([2 / 3, 4 / 3])  # whichever way the rows run


def two_rows(*rows: float) -> torch.Tensor:
    """One window of one frame of one channel, whose rows of three cells lie at the equator and at 60° north."""
    return torch.tensor(rows, dtype=torch.float64).reshape(1, 1, 1, 2, 1).expand(1, 1, 1, 2, 3).clone()


def anomaly_correlation(forecast, truth, usual, weights=None) -> dict[str, float]:
    return anomaly_scores(anomaly_sums(forecast, truth, usual, weights))


def test_scores_by_latitude_of_two_rows_by_hand():
    weights = latitude_weights([0.0, 60.0])  # 4/3 and 2/3
    usual, truth, forecast = two_rows(10, 10), two_rows(12, 11), two_rows(11, 13)  # anomalies 2, 1 and 1, 3
    value_range = RANGE[:, :1]
    scores = pixel_scores(pixel_sums(forecast, truth, value_range, None, weights), value_range)
    assert scores["rmse"] == pytest.approx(math.sqrt((1 + 4) / 2))
    assert scores["rmse_latitude"] == pytest.approx(math.sqrt((4 / 3 * 1 + 2 / 3 * 4) / 2))
    assert anomaly_correlation(forecast, truth, usual, weights) == pytest.approx(
        {
            "acc": (2 * 1 + 1 * 3) / math.sqrt((4 + 1) * (1 + 9)),
            "acc_latitude": (2 * 2 * 1 + 1 * 3) / math.sqrt((2 * 4 + 1) * (2 * 1 + 9)),
        }
    )
    without = pixel_scores(pixel_sums(forecast, truth, value_range, None), value_range)
    assert "rmse_latitude" not in without
    assert set(anomaly_correlation(forecast, truth, usual)) == {"acc"}


def test_anomaly_correlation_of_perfect_opposite_and_usual_forecasts():
    truth, usual, weights = random(10), random(11), latitude_weights(torch.linspace(80, -80, 16).tolist())
    for factor, correlation in ((1, 1), (0.5, 1), (-1, -1), (-3, -1)):
        scores = anomaly_correlation(usual + factor * (truth - usual), truth, usual, weights)
        assert scores == pytest.approx({"acc": correlation, "acc_latitude": correlation})
    assert all(math.isnan(score) for score in anomaly_correlation(usual, truth, usual, weights).values())
    chance = anomaly_correlation(usual + random(12), truth, usual)
    assert chance["acc"] == pytest.approx(0, abs=0.1)


def test_anomaly_correlation_does_not_let_a_channel_with_large_numbers_decide():
    truth, usual = random(13), torch.zeros(SHAPE, dtype=torch.float64)
    forecast = truth * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)  # one channel perfect, one opposite
    scale = torch.tensor([1.0, 1e4]).reshape(2, 1, 1)
    assert anomaly_correlation(forecast * scale, truth * scale, usual)["acc"] == pytest.approx(0)


def test_a_truth_that_is_missing_by_half_is_scored_over_the_other_half():
    truth, forecast, usual = random(14), random(15), random(16)
    value_range, weights = RANGE, latitude_weights(torch.linspace(80, -80, 16).tolist())
    active = random(17, (2, 16, 32)) > 0
    masked = truth.clone()
    masked[..., 16:] = math.nan
    half = [frames[..., :16] for frames in (forecast, truth)]
    wanted = pixel_scores(pixel_sums(*half, value_range, active[..., :16], weights), value_range)
    wanted |= anomaly_scores(anomaly_sums(*half, usual[..., :16], weights))
    for unseen in (0.0, 1e3):
        forecast[..., 16:] = unseen  # what is forecast where nothing is known changes nothing
        found = pixel_scores(pixel_sums(forecast, masked, value_range, active, weights), value_range)
        found |= anomaly_scores(anomaly_sums(forecast, masked, usual, weights))
        assert found | {"ssim": 0} == pytest.approx(wanted | {"ssim": 0}, rel=1e-12)


def test_images_with_holes_take_the_forecast_there_and_missing_images_do_not_count():
    truth, forecast = random(18), random(19)
    masked = truth.clone()
    masked[..., 3:9, 5:20] = math.nan
    filled = torch.where(masked.isnan(), forecast, truth)
    for sums in (spectral_sums, lambda *images: pixel_sums(*images, RANGE, None)):
        found, wanted = sums(forecast, masked), sums(forecast, filled)
        for key in set(found) - ({"cells"} if "ssim" in found else set()):
            torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=0, equal_nan=True)
        gone = torch.cat([masked, torch.full_like(masked, math.nan)])
        found, wanted = sums(torch.cat([forecast, forecast]), gone), sums(forecast, masked)
        for key in found:
            torch.testing.assert_close(found[key], wanted[key], rtol=1e-12, atol=0, equal_nan=True)


def test_nothing_known_has_no_score():
    nothing = torch.full(SHAPE, math.nan, dtype=torch.float64)
    scores = pixel_scores(pixel_sums(random(20), nothing, RANGE, None), RANGE) | spectral_scores(
        spectral_sums(random(20), nothing)
    )
    assert all(math.isnan(score) for score in scores.values())


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
