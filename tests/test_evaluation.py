"""That batches add up, that files hold what was scored, and hard windows chosen by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from s2kd.dataset import Meta
from s2kd.evaluation import evaluate, hard_windows, training_statistics, write_evaluation

HARD = np.array([41, 50])  # ids of hard windows


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
        evaluate((torch.from_numpy(forecast[i : i + n]) for i in range(0, 13, n)), frames, windows, meta, HARD)
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


def test_mse_of_hard_windows_is_over_them_alone():
    frames, windows, meta = a_data_set()
    forecast = np.stack([frames[start + 5 : start + 8] for start in range(40, 53)])
    forecast[1] += 2  # window 41
    forecast[2] += 9  # window 42, which is not hard
    batches = [torch.from_numpy(forecast[i : i + 4]) for i in range(0, 13, 4)]
    evaluation = evaluate(batches, frames, windows, meta, HARD)
    assert evaluation.scores["mse_hard"] == pytest.approx((4 + 0) / 2)
    assert evaluation.n_windows_hard == 2
    some = evaluate([torch.from_numpy(forecast[1:2])], frames, windows, meta, HARD, ids=np.array([41]))
    assert (some.scores["mse_hard"], some.n_windows_hard) == (pytest.approx(4), 1)


def test_hard_windows_are_those_whose_change_is_no_daily_cycle():
    hours = np.arange(24 * 12)
    day = np.round(100 * np.sin(2 * np.pi * hours / 24))  # whole, so that ties are exact
    frames = np.zeros((len(hours), 2, 16, 16), dtype=np.float32)
    frames += day[:, None, None, None].astype(np.float32)
    frames[200:] += 30  # a front at hour 200: between last input and targets of the windows that start at 193 to 195
    frames[230:232] += 10  # a storm, that passes
    starts = np.arange(280)
    split = np.where(starts < 160, "train", np.where(starts < 180, "validation", "test"))
    windows = pd.DataFrame({"id": starts, "start": starts, "split": split})
    _, _, meta = a_data_set("weather", n_frames=len(hours))
    meta = meta.model_copy(update={"time_step": 3600.0})
    times = pd.date_range("2001-01-01", periods=len(hours), freq="h")

    def hard(n: int) -> list[int]:
        return hard_windows(frames, times, windows, meta, n / 100).tolist()

    # Inputs are 5 frames, targets 3: at start 195 all targets lie behind the front, at 194 two, at 193 one.
    assert hard(1) == [195]
    assert hard(2) == [194, 195]
    assert hard(3) == [193, 194, 195]
    # Storm frames 230 and 231: of the windows that start at 225, 224 and 223, two, two and one target are in it; at
    # 226 the last input and the first target are, at 227 the last input alone.
    assert hard(4) == [193, 194, 195, 227]
    assert hard(6) == [193, 194, 195, 224, 225, 227]


def test_no_window_gives_nulls(tmp_path):
    frames, windows, meta = a_data_set()
    nothing = evaluate([], frames, windows, meta, HARD, ids=np.arange(0))
    write_evaluation(nothing, "none", tmp_path, tmp_path, reason="too short a record")
    written = json.loads((tmp_path / "none.json").read_text())
    assert written["mse"] is None
    assert written["reason"] == "too short a record"
    assert np.isnan(np.load(tmp_path / "none.npy")).all()


def test_too_few_or_too_many_forecasts_are_refused():
    frames, windows, meta = a_data_set()
    for n in (12, 14):
        with pytest.raises(ValueError, match="13 windows"):
            evaluate([torch.zeros(n, 3, 2, 16, 16)], frames, windows, meta, HARD)


def test_training_statistics_see_training_frames_alone():
    frames, windows, meta = a_data_set()
    value_range, active = training_statistics(frames, windows, meta)
    assert value_range.max() < 50
    assert value_range.tolist() == [[0, 0], [frames[:37, c].max() for c in (0, 1)]]
    assert not active[:, 0].any()
    assert active[:, 1:].float().mean() > 0.99
    assert training_statistics(*a_data_set("weather"))[1] is None
