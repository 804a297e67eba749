"""Naive forecasts against slices by hand, at the start of the record and across a gap in time."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from s2kd import dataset, naive
from s2kd.dataset import Meta
from s2kd.params import load_params
from stages import evaluate_naive

NCEP = Path(__file__).parents[2] / "shared/data/ncep_air_temperature_2013_2014.nc"


def a_meta(time_step=3600.0, n_steps_output=12, n_frames=400, side=8) -> Meta:
    return Meta(
        dataset="toy", title="Toy", domain="traffic", country=None, channels=("a",), units=("1",), time_step=time_step,
        start="2001-01-01T00:00:00", n_frames=n_frames, n_steps_input=12, n_steps_output=n_steps_output, y_name="y",
        x_name="x", y=tuple(range(side)), x=tuple(range(side)), mean=(0,), std=(1,), period="none", missing="refuse",
        n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip


def hours(n: int) -> pd.DatetimeIndex:
    return pd.date_range("2001-01-01", periods=n, freq="h")


def unbroken(n: int) -> np.ndarray:
    """Numbers of the runs of ``n`` frames that are all in one."""
    return np.zeros(n, dtype=np.int64)


def training_on(n: int) -> pd.DataFrame:
    """Windows of 12 + 12 frames that together cover the first ``n``, as training."""
    starts = np.arange(n - 23)
    return pd.DataFrame({"id": starts, "start": starts, "split": "train"})


def test_sources_are_the_slices_by_hand():
    meta, starts = a_meta(), np.array([200])  # inputs 200 to 211, targets 212 to 223
    assert naive.sources(starts, 1, unbroken(400), meta)[0].tolist() == [[211] * 12]
    assert naive.sources(starts, 24, unbroken(400), meta)[0].tolist() == [list(range(188, 200))]
    assert naive.sources(starts, 168, unbroken(400), meta)[0].tolist() == [list(range(44, 56))]


def test_beyond_a_day_the_latest_known_day_repeats():
    meta = a_meta(n_steps_output=50)
    source, usable = naive.sources(np.array([100]), 24, unbroken(400), meta)
    day = list(range(88, 112))  # the 24 frames before the first target
    assert source.tolist() == [day + day + day[:2]]
    assert usable.all()
    assert naive.lags(24, 50)[[0, 23, 24, 47, 48]].tolist() == [24, 24, 48, 48, 72]


def test_start_of_the_record():
    meta = a_meta()
    # Yesterday of the first starts at 11 + 12 − 24.
    source, usable = naive.sources(np.array([11, 12]), 24, unbroken(400), meta)
    assert usable.tolist() == [False, True]
    assert source[1, 0] == 0
    assert naive.sources(np.array([0]), 1, unbroken(400), meta)[1].all()


def test_gap_in_time():
    segment = np.repeat([0, 1], [100, 300])  # hours are missing, or an event ends, before frame 100
    usable = naive.sources(np.array([60, 100, 111, 112]), 24, segment, a_meta())[1]
    assert usable.tolist() == [True, False, False, True]
    # 76 + 12: every source after the gap needs start + 12 − 24 >= 100


@pytest.mark.parametrize(
    ("time_step", "day", "week"),
    [(3600, 24, 168), (86400, 1, 7), (1800, 48, 336), (5 * 3600, None, None), (30 * 86400, None, None)],
)
def test_period_in_steps(time_step, day, week):
    meta = a_meta(time_step=float(time_step))
    assert naive.period_in_steps("last_frame", meta) == 1
    assert naive.period_in_steps("previous_day", meta) == day
    assert naive.period_in_steps("previous_week", meta) == week
    counted = meta.model_copy(update={"nominal_time": True})  # stamps that only count steps know no day
    assert [naive.period_in_steps(name, counted) for name in naive.PERIODS] == [1, None, None]


@pytest.mark.skipif(not NCEP.exists(), reason="the NCEP fixture is not beside the repository")
def test_known_errors_on_air_temperature():
    """RMSE over 72 h, targets in the last 20 % of 2013 and 2014, computed apart from this code."""
    data = xr.open_dataset(NCEP)
    frames = data["air"].to_numpy().astype(np.float32)
    meta = a_meta(time_step=6 * 3600.0, n_frames=len(frames))
    starts = np.arange(round(0.8 * len(frames)) - 12, len(frames) - 23)
    truth = frames[starts[:, None] + 12 + np.arange(12)]
    for name, rmse in (("last_frame", 4.01), ("previous_day", 3.95), ("previous_week", 5.03)):
        source, usable = naive.sources(starts, naive.period_in_steps(name, meta), unbroken(len(frames)), meta)
        assert usable.all()
        assert np.sqrt(np.mean((frames[source] - truth) ** 2)) == pytest.approx(rmse, abs=0.006)


def a_daily_cycle() -> np.ndarray:
    """175 hours of which each looks as the same hour of every day."""
    pattern = np.random.default_rng(0).normal(size=(24, 1, 8, 8)).astype(np.float32)
    return pattern[np.arange(175) % 24]


def run_stage(folder: Path, monkeypatch, frames: np.ndarray, **changes) -> None:
    """Score 52 test windows of 175 hourly frames."""
    meta = a_meta(n_frames=175).model_copy(update={"domain": "weather"} | changes)
    arrays = {"frames": (("time", "channel", "y", "x"), frames), "segment": ("time", unbroken(175))}
    plain = {"frames": {"chunks": (50, *frames.shape[1:]), "compressors": None}}
    xr.Dataset(arrays, coords={"time": hours(175)}).to_zarr(
        folder / "frames.zarr", zarr_format=3, consolidated=False, encoding=plain
    )
    starts = np.arange(152)
    split = np.where(starts < 60, "train", np.where(starts < 100, "validation", "test"))
    pd.DataFrame({"id": starts, "start": starts, "split": split}).to_csv(folder / "windows.csv", index=False)
    (folder / "meta.json").write_text(meta.model_dump_json())
    folders = ["--metrics-dir", f"{folder}/metrics", "--examples-dir", f"{folder}/examples"]
    inputs = [f"--{name}={folder}/{file}" for name, file in [("frames", "frames.zarr"), ("windows", "windows.csv")]]
    monkeypatch.setattr(sys, "argv", ["evaluate_naive", *inputs, f"--meta={folder}/meta.json", *folders])
    evaluate_naive.main()


def test_stage_scores_a_daily_cycle(tmp_path, monkeypatch):
    frames = a_daily_cycle()
    run_stage(tmp_path, monkeypatch, frames)

    def read(name: str) -> dict:
        return json.loads((tmp_path / f"metrics/{name}.json").read_text())

    assert read("previous_day")["mse"] == 0
    assert read("last_frame")["mse"] > 0.5
    last = read("last_frame")
    assert (last["n_windows"], last["n_windows_hard"]) == (52, 5)
    assert pd.read_csv(tmp_path / "metrics/last_frame.csv")["rmse"].iloc[-1] > 0.5
    # Test frames are 100 to 174: 12 to see and 48 to forecast fit 16 times.
    assert load_params("evaluation.rollout") == 4
    assert last["n_windows_rollout"] == 16
    rollout = pd.read_csv(tmp_path / "metrics/last_frame-rollout.csv")
    known, targets = frames[111:127], frames[np.arange(112, 128)[:, None] + np.arange(48)]
    errors = np.square(targets - known[:, None]).mean((0, 2, 3, 4))
    np.testing.assert_allclose(rollout["mse"], errors, rtol=1e-5, atol=1e-12)
    assert last["mse_rollout"] == pytest.approx(errors.mean(), rel=1e-5)
    climatology = read("climatology")
    assert [climatology[score] for score in ("mse", "mse_hard", "mse_rollout")] == pytest.approx([0, 0, 0], abs=1e-12)
    assert not {"mse_rollout", "n_windows_rollout"} & set(read("previous_day"))
    week = read("previous_week")
    assert (week["mse"], week["n_windows"], week["parameters"]) == (None, 0, None)
    assert week["reason"] == "52 of 52 test windows lack frames far enough back without a gap"
    example = np.load(tmp_path / "examples/previous_day.npy")
    assert (example == frames[126 + 12 : 126 + 24]).all()
    assert pd.read_csv(tmp_path / "metrics/previous_week.csv")["mse"].isna().all()


def test_stage_scores_what_is_known_of_a_record_with_holes(tmp_path, monkeypatch):
    """A hole in the frame that is repeated takes the climatology, which a cycle without noise equals."""
    frames = a_daily_cycle()
    frames[np.random.default_rng(1).random(frames.shape) < 0.1] = np.nan
    run_stage(tmp_path, monkeypatch, frames, missing="mask", n_missing=int(np.isnan(frames).sum()))
    for name in ("previous_day", "climatology"):
        written = json.loads((tmp_path / f"metrics/{name}.json").read_text())
        assert [written[score] for score in ("mse", "mse_hard")] == pytest.approx([0, 0], abs=1e-12)
    example = np.load(tmp_path / "examples/previous_day.npy")
    np.testing.assert_allclose(example, a_daily_cycle()[126 + 12 : 126 + 24], rtol=1e-6)
    assert json.loads((tmp_path / "metrics/last_frame.json").read_text())["mse_rollout"] > 0.5


def test_stage_reads_no_time_of_day_from_stamps_that_only_count_steps(tmp_path, monkeypatch, capsys):
    run_stage(tmp_path, monkeypatch, a_daily_cycle(), nominal_time=True)
    for name in ("previous_day", "previous_week"):
        written = json.loads((tmp_path / f"metrics/{name}.json").read_text())
        assert (written["mse"], written["n_windows"]) == (None, 0)
        assert written["reason"] == "the time stamps only count steps and tell no time of day"
    assert json.loads((tmp_path / "metrics/climatology.json").read_text())["mse"] > 0.5
    assert "in 1 phases" in capsys.readouterr().out


def test_climatology_is_the_training_mean_at_the_time_of_week_or_day():
    rng = np.random.default_rng(0)
    times = hours(400).delete(slice(100, 103))  # a gap shifts the index, not the phase
    frames = rng.random((397, 1, 2, 2)).astype(np.float32)
    is_train, windows = np.arange(397) < 200, training_on(200)
    means, phase = naive.climatology(frames, times, windows, a_meta())
    assert len(means) == 168
    assert phase[[0, 99, 100, 165]].tolist() == [0, 99, 103, 0]
    np.testing.assert_allclose(means[5], frames[[5, 170]].mean(0), rtol=1e-6)  # hours 5 and 173
    np.testing.assert_allclose(means[101], frames[:200].mean(0), rtol=1e-6)  # lost in the gap, never seen again
    daily, phase = naive.climatology(frames, times, windows, a_meta().model_copy(update={"domain": "weather"}))
    assert len(daily) == 24
    np.testing.assert_allclose(daily[7], frames[(phase == 7) & is_train].mean(0), rtol=1e-6)
    for meta in (a_meta(time_step=5 * 3600.0), a_meta().model_copy(update={"nominal_time": True})):
        whole, phase = naive.climatology(frames, times, windows, meta)
        np.testing.assert_allclose(whole, frames[:200].mean(0)[None], rtol=1e-6)
        assert not phase.any()


def test_climatology_is_the_same_whatever_the_size_of_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    frames = (280 + rng.normal(size=(400, 2, 3, 5))).astype(np.float32)
    windows, meta = training_on(300), a_meta().model_copy(update={"domain": "weather"})
    whole = naive.climatology(frames, hours(400), windows, meta).means
    by_hand = [frames[:300][np.arange(300) % 24 == hour].mean(0, dtype=np.float64) for hour in range(24)]
    assert (whole == np.stack(by_hand).astype(np.float32)).all()
    monkeypatch.setattr(dataset, "BLOCK_BYTES", 4 * 30 * 7)
    assert len(list(dataset.blocks(frames))) == 58
    assert (naive.climatology(frames, hours(400), windows, meta).means == whole).all()


def test_climatology_passes_over_missing_values():
    rng = np.random.default_rng(0)
    frames = rng.random((48, 2, 2, 2)).astype(np.float32)
    frames[3, 0, 0, 0] = frames[[5, 29], 0, 0, 1] = frames[:, 1, 1, 1] = np.nan
    means, phase = naive.climatology(
        frames, hours(48), training_on(48), a_meta().model_copy(update={"domain": "weather"})
    )
    assert means[3, 0, 0, 0] == frames[27, 0, 0, 0]
    np.testing.assert_allclose(means[5, 0, 0, 1], np.nanmean(frames[:, 0, 0, 1]), rtol=1e-6)  # never at this hour
    np.testing.assert_allclose(means[:, 1, 1, 1], np.nanmean(frames[:, 1]), rtol=1e-6)  # never at all
    np.testing.assert_allclose(means[7, 0, 1, 1], frames[[7, 31], 0, 1, 1].mean(), rtol=1e-6)
    assert phase[[0, 23, 24]].tolist() == [0, 23, 0]


def test_a_repeated_frame_takes_what_it_lacks_from_the_climatology():
    frames = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    frames[1, 0, 0, 1] = np.nan
    usual = naive.Climatology(100 + np.zeros((2, 1, 1, 2), dtype=np.float32), np.array([0, 1, 0, 1]))
    usual.means[1] = 200
    forecast = naive.repeat(frames, np.array([[0, 1], [1, 1]]), np.array([[2, 3], [3, 2]]), usual)
    assert forecast.reshape(2, 2, 2).tolist() == [[[0, 1], [2, 200]], [[2, 200], [2, 100]]]
