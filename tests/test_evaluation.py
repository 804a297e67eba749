"""That batches add up, that files hold what was scored, and hard windows chosen by hand."""

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from s2kd import dataset
from s2kd.dataset import Meta, load_frames
from s2kd.evaluation import evaluate, hard_windows, training_statistics, write_evaluation
from s2kd.naive import Climatology, climatology

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
        y=tuple(range(shape[1])), x=tuple(range(shape[2])), mean=(0, 0), std=(1, 1), period="none", missing="refuse",
        n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip
    return frames, windows, meta


def zero(frames: np.ndarray) -> Climatology:
    """A climatology for scores that know none."""
    return Climatology(np.zeros((1, *frames.shape[1:]), dtype=np.float32), np.zeros(len(frames), dtype=np.int64))


def test_evaluate_does_not_depend_on_the_batch_size_and_scores_each_lead_time(tmp_path):
    frames, windows, meta = a_data_set()
    test = np.arange(40, 53)
    truth = np.stack([frames[start + 5 : start + 8] for start in test])
    forecast = truth + np.array([1, 2, 3], dtype=np.float32)[:, None, None, None]
    one, two = (
        evaluate(
            (torch.from_numpy(forecast[i : i + n]) for i in range(0, 13, n)), frames, windows, meta, zero(frames), HARD
        )
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
    evaluation = evaluate(batches, frames, windows, meta, zero(frames), HARD)
    assert evaluation.scores["mse_hard"] == pytest.approx((4 + 0) / 2)
    assert evaluation.n_windows_hard == 2
    some = evaluate([torch.from_numpy(forecast[1:2])], frames, windows, meta, zero(frames), HARD, ids=np.array([41]))
    assert (some.scores["mse_hard"], some.n_windows_hard) == (pytest.approx(4), 1)


def test_anomalies_are_those_of_the_time_of_each_target_and_weighted_where_rows_are_latitudes(tmp_path):
    frames, windows, meta = a_data_set("weather")
    rng = np.random.default_rng(1)
    usual = Climatology(rng.random((2, *frames.shape[1:]), dtype=np.float32), np.arange(60) % 2)
    targets = np.arange(40, 53)[:, None] + 5 + np.arange(3)
    anomalies = frames[targets] - usual.means[targets % 2]
    forecast = usual.means[targets % 2] + anomalies * np.array([1, -2, 0], dtype=np.float32)[:, None, None, None]
    batches = [torch.from_numpy(forecast[i : i + 4]) for i in range(0, 13, 4)]
    plain = evaluate(batches, frames, windows, meta, usual, HARD)
    assert plain.lead_times["acc"][:2].tolist() == pytest.approx([1, -1])
    assert np.isnan(plain.lead_times["acc"][2])  # a forecast of the climatology has no anomaly
    assert not {"acc_latitude", "rmse_latitude"} & {*plain.scores, *plain.channels["a"], *plain.lead_times}

    globe = meta.model_copy(update={"y_name": "latitude", "y": tuple(75.0 - 10 * np.arange(16))})
    weighted = evaluate(batches, frames, windows, globe, usual, HARD)
    weights = np.cos(np.radians(globe.y))[:, None]
    errors = np.square((forecast - frames[targets]).astype(np.float64))
    mse = (errors * weights).mean() / weights.mean()
    assert weighted.scores["rmse_latitude"] == pytest.approx(np.sqrt(mse))
    by_time = (errors * weights).mean((0, 2, 3, 4)) / weights.mean()
    assert weighted.lead_times["rmse_latitude"].tolist() == pytest.approx(np.sqrt(by_time).tolist())
    products = [(anomalies * (forecast - usual.means[targets % 2])), np.square(anomalies)]
    products += [np.square(forecast - usual.means[targets % 2])]
    product, truth, guess = ((value[:, :, 1].astype(np.float64) * weights).sum() for value in products)
    assert weighted.channels["b"]["acc_latitude"] == pytest.approx(product / np.sqrt(truth * guess), rel=1e-5)
    new = {"acc_latitude", "rmse_latitude"}
    assert {key: value for key, value in weighted.scores.items() if key not in new} == plain.scores

    write_evaluation(weighted, "toy-0", tmp_path, tmp_path)
    written = json.loads((tmp_path / "toy-0.json").read_text())
    assert written["rmse_latitude"] == pytest.approx(np.sqrt(mse), rel=1e-5)
    assert written["channels"]["a"]["acc"] == pytest.approx(weighted.channels["a"]["acc"], rel=1e-5)
    table = pd.read_csv(tmp_path / "toy-0.csv")
    assert table["acc_latitude"][:2].tolist() == pytest.approx([1, -1])


def test_missing_targets_change_no_score_whatever_is_forecast_there():
    frames, windows, meta = a_data_set()
    rng = np.random.default_rng(2)
    frames[rng.random(frames.shape) < 0.2] = np.nan
    frames[48:50, 0] = np.nan  # all of a channel
    targets = np.arange(40, 53)[:, None] + 5 + np.arange(3)
    truth = frames[targets]
    errors = rng.integers(-3, 4, truth.shape).astype(np.float32)
    known = ~np.isnan(truth)
    found = []
    for unseen in (0, 77):
        forecast = torch.from_numpy(np.where(known, truth + errors, unseen).astype(np.float32))
        found.append(evaluate([forecast[:6], forecast[6:]], frames, windows, meta, zero(frames), HARD))
    names = ("mse", "mae", "rmse", "psnr", "mse_active", "mse_hard", "acc")
    one, two = ({name: evaluation.scores[name] for name in names} for evaluation in found)
    assert one == two
    squares = np.square(errors.astype(np.float64))
    assert one["mse"] == pytest.approx(squares[known].mean())
    assert one["mse_hard"] == pytest.approx(squares[[1, 10]][known[[1, 10]]].mean())
    assert found[0].channels["a"]["mae"] == pytest.approx(np.abs(errors)[:, :, 0][known[:, :, 0]].mean())
    assert found[0].lead_times["mse"][2] == pytest.approx(squares[:, 2][known[:, 2]].mean())
    assert all(np.isfinite(value) for value in found[0].scores.values())


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

    usual = climatology(frames, times, windows, meta)

    def hard(n: int) -> list[int]:
        return hard_windows(frames, windows, meta, usual, n / 100).tolist()

    # Inputs are 5 frames, targets 3: at start 195 all targets lie behind the front, at 194 two, at 193 one.
    assert hard(1) == [195]
    assert hard(2) == [194, 195]
    assert hard(3) == [193, 194, 195]
    # Storm frames 230 and 231: of the windows that start at 225, 224 and 223, two, two and one target are in it; at
    # 226 the last input and the first target are, at 227 the last input alone.
    assert hard(4) == [193, 194, 195, 227]
    assert hard(6) == [193, 194, 195, 224, 225, 227]
    frames[:, 0] = np.nan  # half of the cells: the rest tells the same
    assert hard(6) == [193, 194, 195, 224, 225, 227]
    frames[199] = np.nan  # the last input of the window that starts at 195, of which no change is known
    assert hard(2) == [193, 194]


def test_no_window_gives_nulls(tmp_path):
    frames, windows, meta = a_data_set()
    nothing = evaluate([], frames, windows, meta, zero(frames), HARD, ids=np.arange(0))
    write_evaluation(nothing, "none", tmp_path, tmp_path, reason="too short a record")
    written = json.loads((tmp_path / "none.json").read_text())
    assert written["mse"] is None
    assert written["reason"] == "too short a record"
    assert np.isnan(np.load(tmp_path / "none.npy")).all()


def test_too_few_or_too_many_forecasts_are_refused():
    frames, windows, meta = a_data_set()
    for n in (12, 14):
        with pytest.raises(ValueError, match="13 windows"):
            evaluate([torch.zeros(n, 3, 2, 16, 16)], frames, windows, meta, zero(frames), HARD)


def test_training_statistics_see_training_frames_alone():
    frames, windows, meta = a_data_set()
    value_range, active = training_statistics(frames, windows, meta)
    assert value_range.max() < 50
    assert value_range.tolist() == [[0, 0], [frames[:37, c].max() for c in (0, 1)]]
    assert not active[:, 0].any()
    assert active[:, 1:].float().mean() > 0.99
    assert training_statistics(*a_data_set("weather"))[1] is None


def test_training_statistics_pass_over_missing_values_and_see_all_blocks(monkeypatch):
    frames, windows, meta = a_data_set()
    frames[2, 1] = frames[:, 0, 1, 5] = np.nan
    frames[35, 1, 3, 3] = 40
    wanted = [[np.nanmin(frames[:37, c]) for c in (0, 1)], [np.nanmax(frames[:37, c]) for c in (0, 1)]]
    for n_bytes in (2**24, 4 * 2 * 16 * 16 * 7):
        monkeypatch.setattr(dataset, "BLOCK_BYTES", n_bytes)
        value_range, active = training_statistics(frames, windows, meta)
        assert value_range.tolist() == wanted
        assert (active.numpy() == (np.nan_to_num(frames[:37]) != 0).any(0)).all()
        assert not active[0, 1, 5]


def test_what_goes_over_all_frames_holds_few_of_them(tmp_path, monkeypatch):
    shape = (640, 2, 64, 64)  # 21 MB
    frames = np.random.default_rng(0).random(shape, dtype=np.float32)
    zarr.create_array(tmp_path / "frames", data=frames, chunks=(100, *shape[1:]), compressors=None)
    _, windows, meta = a_data_set("fluid", n_frames=len(frames), shape=shape[1:])
    meta = meta.model_copy(update={"nominal_time": True})
    times = pd.date_range("2000-01-01", periods=len(frames), freq="s")
    wanted = frames[:37].mean(0)
    del frames
    stored = load_frames(tmp_path)
    monkeypatch.setattr(dataset, "BLOCK_BYTES", 2**19)
    tracemalloc.start()
    usual = climatology(stored, times, windows, meta)
    training_statistics(stored, windows, meta)
    hard_windows(stored, windows, meta, usual, 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(usual.means[0], wanted, rtol=1e-5)
    assert peak < 4e6
