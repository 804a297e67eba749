"""Naive forecasts against slices by hand, at the start of the record and across a gap in time."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from s2kd import naive
from s2kd.dataset import Meta
from s2kd.params import load_params
from stages import evaluate_naive

NCEP = Path(__file__).parents[2] / "shared/data/ncep_air_temperature_2013_2014.nc"


def a_meta(time_step=3600.0, n_steps_output=12, n_frames=400, side=8) -> Meta:
    return Meta(
        dataset="toy", title="Toy", domain="traffic", country=None, channels=("a",), units=("1",), time_step=time_step,
        start="2001-01-01T00:00:00", n_frames=n_frames, n_steps_input=12, n_steps_output=n_steps_output, y_name="y",
        x_name="x", y=tuple(range(side)), x=tuple(range(side)), mean=(0,), std=(1,), licence="-", citation="-",
    )  # fmt: skip


def hours(n: int) -> pd.DatetimeIndex:
    return pd.date_range("2001-01-01", periods=n, freq="h")


def test_sources_are_the_slices_by_hand():
    meta, starts = a_meta(), np.array([200])  # inputs 200 to 211, targets 212 to 223
    assert naive.sources(starts, 1, hours(400), meta)[0].tolist() == [[211] * 12]
    assert naive.sources(starts, 24, hours(400), meta)[0].tolist() == [list(range(188, 200))]
    assert naive.sources(starts, 168, hours(400), meta)[0].tolist() == [list(range(44, 56))]


def test_beyond_a_day_the_latest_known_day_repeats():
    meta = a_meta(n_steps_output=50)
    source, usable = naive.sources(np.array([100]), 24, hours(400), meta)
    day = list(range(88, 112))  # the 24 frames before the first target
    assert source.tolist() == [day + day + day[:2]]
    assert usable.all()
    assert naive.lags(24, 50)[[0, 23, 24, 47, 48]].tolist() == [24, 24, 48, 48, 72]


def test_start_of_the_record():
    meta = a_meta()
    source, usable = naive.sources(
        np.array([11, 12]), 24, hours(400), meta
    )  # yesterday of the first starts at 11 + 12 − 24
    assert usable.tolist() == [False, True]
    assert source[1, 0] == 0
    assert naive.sources(np.array([0]), 1, hours(400), meta)[1].all()


def test_gap_in_time():
    times = hours(410).delete(slice(100, 110))  # ten hours are missing before frame 100
    usable = naive.sources(np.array([60, 100, 111, 112]), 24, times, a_meta())[1]
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


@pytest.mark.skipif(not NCEP.exists(), reason="the NCEP fixture is not beside the repository")
def test_known_errors_on_air_temperature():
    """RMSE over 72 h, targets in the last 20 % of 2013 and 2014, computed apart from this code."""
    data = xr.open_dataset(NCEP)
    frames, times = data["air"].to_numpy().astype(np.float32), pd.DatetimeIndex(data["time"].to_numpy())
    meta = a_meta(time_step=6 * 3600.0, n_frames=len(frames))
    starts = np.arange(round(0.8 * len(frames)) - 12, len(frames) - 23)
    truth = frames[starts[:, None] + 12 + np.arange(12)]
    for name, rmse in (("last_frame", 4.01), ("previous_day", 3.95), ("previous_week", 5.03)):
        source, usable = naive.sources(starts, naive.period_in_steps(name, meta), times, meta)
        assert usable.all()
        assert np.sqrt(np.mean((frames[source] - truth) ** 2)) == pytest.approx(rmse, abs=0.006)


def test_stage_scores_a_daily_cycle(tmp_path, monkeypatch):
    meta, times = a_meta(n_frames=175).model_copy(update={"domain": "weather"}), hours(175)
    pattern = np.random.default_rng(0).normal(size=(24, 1, 8, 8)).astype(np.float32)
    frames = pattern[np.arange(175) % 24]
    xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), frames)}, coords={"time": times}
    ).to_zarr(tmp_path / "frames.zarr", zarr_format=3, consolidated=False)  # fmt: skip
    starts = np.arange(152)
    split = np.where(starts < 60, "train", np.where(starts < 100, "validation", "test"))
    pd.DataFrame({"id": starts, "start": starts, "split": split}).to_csv(tmp_path / "windows.csv", index=False)
    (tmp_path / "meta.json").write_text(meta.model_dump_json())
    folders = ["--metrics-dir", f"{tmp_path}/metrics", "--examples-dir", f"{tmp_path}/examples"]
    inputs = [f"--{name}={tmp_path}/{file}" for name, file in [("frames", "frames.zarr"), ("windows", "windows.csv")]]
    monkeypatch.setattr(sys, "argv", ["evaluate_naive", *inputs, f"--meta={tmp_path}/meta.json", *folders])
    evaluate_naive.main()

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


def test_climatology_is_the_training_mean_at_the_time_of_week_or_day():
    rng = np.random.default_rng(0)
    times = hours(400).delete(slice(100, 103))  # a gap shifts the index, not the phase
    frames = rng.random((397, 1, 2, 2)).astype(np.float32)
    is_train = np.arange(397) < 200
    means, phase = naive.climatology(frames, times, is_train, a_meta())
    assert len(means) == 168
    assert phase[[0, 99, 100, 165]].tolist() == [0, 99, 103, 0]
    np.testing.assert_allclose(means[5], frames[[5, 170]].mean(0), rtol=1e-6)  # hours 5 and 173
    np.testing.assert_allclose(means[101], frames[:200].mean(0), rtol=1e-6)  # lost in the gap, never seen again
    daily, phase = naive.climatology(frames, times, is_train, a_meta().model_copy(update={"domain": "weather"}))
    assert len(daily) == 24
    np.testing.assert_allclose(daily[7], frames[(phase == 7) & is_train].mean(0), rtol=1e-6)
    odd = naive.climatology(frames, times, is_train, a_meta(time_step=5 * 3600.0))[0]
    np.testing.assert_allclose(odd, frames[:200].mean(0)[None], rtol=1e-6)
