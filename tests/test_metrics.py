"""Closed forms of the scores, and that batches add up."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from s2kd.dataset import Meta
from s2kd.evaluation import evaluate, training_statistics, write_evaluation
from s2kd.metrics import (
    annuli,
    band_masks,
    pixel_scores,
    pixel_sums,
    radial_power,
    spectral_scores,
    spectral_sums,
    wavenumbers,
    windowed_spectrum,
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
    power = windowed_spectrum(field)
    assert power.sum().item() == pytest.approx(expected.item())
    assert power[0, 0].item() == pytest.approx(0, abs=1e-20)


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
    power = {name: scores[f"error_power_{name}"] for name in ("low", "mid", "high")}
    assert power[band] == pytest.approx(0.5, rel=0.05)  # the mean square of a sine
    assert power[band] / sum(power.values()) > 0.99  # the Hann window spreads it over neighbouring coefficients only
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
    power = radial_power(spectral_sums(forecast, truth), 16, 32)
    assert torch.allclose(power["power_forecast"], power["power_truth"], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_white_noise_keeps_its_variance_in_the_annuli_beyond_the_mean():
    noise = random(6, (200, 1, 1, 16, 32)) * 3
    power = radial_power(spectral_sums(noise, noise), 16, 32)["power_truth"]
    assert (power[2:][~power[2:].isnan()] / 9 - 1).abs().max() < 0.1


# --- evaluate ----------------------------------------------------------------------------------------------------


def a_data_set(domain="traffic", n_frames=60, shape=(2, 16, 16)) -> tuple[np.ndarray, pd.DataFrame, Meta]:
    rng = np.random.default_rng(0)
    frames = rng.poisson(2.0, (n_frames, *shape)).astype(np.float32)
    frames[:, :, 0] = 0
    frames[40:, 0, 0, 0] = 50  # active, and out of range, in test alone
    starts = np.arange(n_frames - 7)
    split = np.where(starts < 30, "train", np.where(starts < 40, "validation", "test"))
    windows = pd.DataFrame({"id": np.arange(len(starts)), "start": starts, "split": split})
    meta = Meta(
        dataset="toy", title="Toy", domain=domain, country=None, channels=("a", "b"), units=("1", "1"), time_step=1800,
        start="2001-01-01T00:00:00", n_frames=n_frames, n_steps_input=5, n_steps_output=3, y_name="y", x_name="x",
        y=tuple(range(shape[1])), x=tuple(range(shape[2])), mean=(0, 0), std=(1, 1), licence="-", citation="-",
    )  # fmt: skip
    return frames, windows, meta


def test_evaluate_does_not_depend_on_the_batch_size_and_scores_each_lead_time(tmp_path):
    frames, windows, meta = a_data_set()
    test = np.arange(40, 53)
    truth = np.stack([frames[start + 5 : start + 8] for start in test])
    forecast = truth + np.array([1, 2, 3], dtype=np.float32)[:, None, None, None]
    one, two = (
        evaluate((torch.from_numpy(forecast[i : i + n]) for i in range(0, 13, n)), frames, windows, meta)
        for n in (13, 4)
    )
    assert one.scores == pytest.approx(two.scores)
    assert one.lead_times["rmse"].tolist() == pytest.approx([1, 2, 3])
    assert one.lead_times["lead_time_hours"].tolist() == [0.5, 1.0, 1.5]
    assert one.scores["mse"] == pytest.approx((1 + 4 + 9) / 3)
    assert one.channels["b"]["mae"] == pytest.approx(2)
    assert one.example_window == 46
    assert (one.example == forecast[6]).all()

    write_evaluation(one, "toy-0", tmp_path / "metrics", tmp_path / "examples", parameters=7, flops=8)
    written = json.loads((tmp_path / "metrics/toy-0.json").read_text())
    assert written["mse"] == 4.66667
    assert (written["n_windows"], written["parameters"], written["flops"]) == (13, 7, 8)
    assert np.load(tmp_path / "examples/toy-0.npy").dtype == np.float32
    table = pd.read_csv(tmp_path / "metrics/toy-0.csv")
    assert list(table.columns[:7]) == ["step", "lead_time_hours", "mse", "mae", "rmse", "ssim", "psnr"]
    spectrum = pd.read_csv(tmp_path / "metrics/toy-0-spectrum.csv")
    assert list(spectrum.columns) == ["wavenumber", "power_forecast", "power_truth", "power_error"]


def test_no_window_gives_nulls(tmp_path):
    frames, windows, meta = a_data_set()
    nothing = evaluate([], frames, windows, meta, ids=np.arange(0))
    write_evaluation(nothing, "none", tmp_path, tmp_path, reason="too short a record")
    written = json.loads((tmp_path / "none.json").read_text())
    assert written["mse"] is None
    assert written["reason"] == "too short a record"
    assert np.isnan(np.load(tmp_path / "none.npy")).all()


def test_too_few_or_too_many_forecasts_are_refused():
    frames, windows, meta = a_data_set()
    for n in (12, 14):
        with pytest.raises(ValueError, match="13 windows"):
            evaluate([torch.zeros(n, 3, 2, 16, 16)], frames, windows, meta)


def test_training_statistics_see_training_frames_alone():
    frames, windows, meta = a_data_set()
    value_range, active = training_statistics(frames, windows, meta)
    assert value_range.max() < 50
    assert value_range.tolist() == [[0, 0], [frames[:37, c].max() for c in (0, 1)]]
    assert not active[:, 0].any()
    assert active[:, 1:].float().mean() > 0.99
    assert training_statistics(*a_data_set("weather"))[1] is None
