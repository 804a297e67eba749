"""Times of day and week, statistics of the grid against numpy, and tables that are refused."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pydantic import ValidationError

from s2kd.dataset import (
    Meta,
    blocks,
    channel_statistics,
    frame_phases,
    grid_statistics,
    load_frames,
    load_segments,
    load_times,
    load_windows,
)
from s2kd.params import Normalisation
from s2kd.stage import UserError

WINDOWS = pd.DataFrame(
    {"id": range(5), "start": [0, 3, 12, 20, 28], "split": ["train", "train", "validation", "test", "train"]}
)
TIMES = pd.date_range("2001-01-01", periods=40, freq="h")  # a Monday
TRAIN = [*range(0, 8), *range(28, 33)]  # frames of windows of 3 + 2 frames from 0, 3 and 28


@pytest.fixture
def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    scale = np.array([[1, 2, 0.5], [3, 1, 0]])  # the last cell never changes
    frames = 280 + rng.normal(size=(40, 2, 2, 3)) * scale
    frames[8:28] += 1000  # neither validation nor test nor what lies in between may count
    return frames.astype(np.float32)


def a_meta(frames: np.ndarray, period: str = "none") -> Meta:
    train = frames[TRAIN].astype(np.float64)
    return Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a", "b"), units=("K", "K"),
        time_step=3600.0, start="2001-01-01T00:00:00", n_frames=40, n_steps_input=3, n_steps_output=2, y_name="y",
        x_name="x", y=(0.0, 1.0), x=(0.0, 1.0, 2.0), mean=tuple(train.mean((0, 2, 3)).tolist()),
        std=tuple(train.std((0, 2, 3)).tolist()), period=period, missing="refuse", n_missing=0, nominal_time=False,
        licence="-", citation="-",
    )  # fmt: skip


def usual(values: np.ndarray, per: str) -> np.ndarray:
    """Mean over time, for each cell or for all cells together."""
    mean = values.mean(0) if per == "cell" else values.mean((0, 2, 3)).reshape(2, 1, 1)
    return np.broadcast_to(mean, values.shape[1:])


def test_per_cell_is_numpy_over_training_frames(frames):
    normalisation = Normalisation(per="cell", floor=0.05)
    mean, std = grid_statistics(frames, TIMES, WINDOWS, a_meta(frames), normalisation)
    train = frames[TRAIN].astype(np.float64)
    assert mean.shape == (1, 2, 2, 3)
    assert std.shape == (2, 2, 3)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean[0], train.mean(0), rtol=1e-6)
    # float32 residuals of values near 280, on which a mean of float32 is 1e-5 off
    np.testing.assert_allclose(std.ravel()[[0, 1, 2, 3, 4, 6]], train.std(0).ravel()[[0, 1, 2, 3, 4, 6]], rtol=1e-5)


@pytest.mark.parametrize("per", ["cell", "channel"])
def test_a_period_has_a_mean_for_each_of_its_times(frames, per):
    """Training frames 0 to 7 and 28 to 32: hours 0 to 7 of Monday, 4 to 8 of Tuesday; the other hours are unseen."""
    frames = frames + 10 * np.sin(TIMES.hour.to_numpy() / 24 * 2 * np.pi).astype(np.float32).reshape(-1, 1, 1, 1)
    normalisation = Normalisation(per=per, floor=0)
    mean, std = grid_statistics(frames, TIMES, WINDOWS, a_meta(frames, "day"), normalisation)
    train, hours = frames[TRAIN].astype(np.float64), TIMES.hour.to_numpy()[TRAIN]
    assert mean.shape == (24, 2, 2, 3)
    wanted = np.stack([usual(train[hours == hour] if hour in hours else train, per) for hour in range(24)])
    np.testing.assert_allclose(mean, wanted, rtol=1e-6)
    variance = ((train - wanted[hours]) ** 2).mean(0)
    if per == "channel":
        variance = np.broadcast_to(variance.mean((1, 2), keepdims=True), variance.shape)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("period", ["none", "day"])
@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_the_floor_is_a_fraction_of_the_deviation_of_the_channel(frames, floor, period):
    meta = a_meta(frames, period)
    _, std = grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=floor))
    _, bare = grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=0))
    channel = np.sqrt(np.square(bare.astype(np.float64)).mean((1, 2)))  # deviations about each cell's own mean
    assert frames[:, :, 1, 2].std() > 0  # outside of training
    np.testing.assert_allclose(std[:, 1, 2], floor * channel, rtol=1e-6)
    np.testing.assert_allclose(std, np.maximum(bare, floor * channel.reshape(2, 1, 1)), rtol=1e-6)
    _, one = grid_statistics(frames, TIMES, WINDOWS, a_meta(frames), Normalisation(per="channel", floor=floor))
    np.testing.assert_allclose(one, np.broadcast_to(np.array(meta.std).reshape(2, 1, 1), one.shape), rtol=1e-5)


def test_per_channel_is_one_number_everywhere(frames):
    meta = a_meta(frames)
    normalisation = Normalisation(per="channel", floor=0.05)
    mean, std = grid_statistics(frames, TIMES, WINDOWS, meta, normalisation)
    assert mean.shape == (1, 2, 2, 3)
    for channel in range(2):
        assert set(mean[0, channel].ravel()) == {np.float32(meta.mean[channel])}
        assert len(set(std[channel].ravel())) == 1
        assert std[channel, 0, 0] == pytest.approx(meta.std[channel], rel=1e-5)


def test_a_period_as_long_as_the_record_is_refused(frames):
    """Each hour of the week occurs once and is its own mean: nothing to divide by."""
    meta = a_meta(frames, "week")
    with pytest.raises(
        UserError, match=r"datasets\.toy\.period = week: there are 13 training frames.*choose a shorter"
    ):
        grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=0.05))


def meta_of(time_step: float) -> Meta:
    return a_meta(np.random.default_rng(0).normal(size=(40, 2, 2, 3))).model_copy(update={"time_step": time_step})


def test_phases_count_from_midnight_of_monday():
    times = pd.date_range("2024-02-29 22:00", periods=24 * 7 * 3, freq="h")  # a Thursday
    hours, n_hours = frame_phases(times, meta_of(3600), "day")
    assert n_hours == 24
    assert hours.tolist() == times.hour.tolist()
    assert hours[:4].tolist() == [22, 23, 0, 1]
    weekly, n_weekly = frame_phases(times, meta_of(3600), "week")
    assert n_weekly == 168
    assert weekly.tolist() == (24 * times.day_of_week + times.hour).tolist()
    assert weekly[times.get_loc(pd.Timestamp("2024-03-04"))] == 0
    assert np.all(np.diff(weekly) % 168 == 1)  # consecutive, as Standardise takes them to be


def test_phases_of_any_start_and_step():
    for start in ("1969-12-31 23:59", "2001-01-01 00:07", "1850-06-01 13:30"):  # before 1970 as after
        for minutes in (10, 30, 360):
            times = pd.date_range(start, periods=3000, freq=f"{minutes}min")
            phases, n_phases = frame_phases(times, meta_of(60.0 * minutes), "day")
            assert n_phases == 24 * 60 // minutes
            assert phases.tolist() == ((times.hour * 60 + times.minute) // minutes).tolist()
    daily, n_days = frame_phases(pd.date_range("2001-01-01", periods=9, freq="D"), meta_of(86400), "week")
    assert (daily.tolist(), n_days) == ([0, 1, 2, 3, 4, 5, 6, 0, 1], 7)


def test_a_gap_in_time_is_a_gap_in_phase():
    times = TIMES.delete(slice(5, 30))
    assert frame_phases(times, meta_of(3600), "day")[0][:7].tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_stamps_a_little_before_the_hour_are_of_the_hour():
    """Days in float64 and float32, as many files have them, are decoded to some nanoseconds or 0.2 s off."""
    for kind in (np.float64, np.float32):
        days = (np.arange(3000) / 24).astype(kind)
        coordinates = {"time": ("time", days, {"units": "days since 2001-01-01"})}
        times = pd.DatetimeIndex(xr.decode_cf(xr.Dataset(coords=coordinates))["time"].to_numpy())
        assert frame_phases(times, meta_of(3600), "week")[0].tolist() == (np.arange(3000) % 168).tolist()


def test_without_a_period_all_times_are_one():
    phases, n_phases = frame_phases(TIMES, meta_of(1000), "none")  # whatever the step
    assert n_phases == 1
    assert len(phases) == len(TIMES)
    assert not phases.any()


@pytest.mark.parametrize(
    ("step", "period"), [(7 * 3600, "day"), (1000, "day"), (2 * 86400, "week"), (2 * 86400, "day")]
)
def test_a_step_that_does_not_divide_the_period_is_refused(step, period):
    message = rf"datasets\.toy\.period = {period}: a time step of {step} s does not divide it; choose none"
    with pytest.raises(UserError, match=message):
        frame_phases(TIMES, meta_of(step), period)


def test_windows_are_read_as_they_are(tmp_path):
    WINDOWS.to_csv(tmp_path / "windows.csv", index=False)
    windows = load_windows(tmp_path / "windows.csv")
    assert windows["id"].tolist() == [0, 1, 2, 3, 4]
    assert windows["start"].tolist() == [0, 3, 12, 20, 28]
    assert windows["split"].tolist() == WINDOWS["split"].tolist()


@pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5], [0, 1, 1, 3, 4], [0, 2, 1, 3, 4]])
def test_broken_ids_are_refused(tmp_path, ids):
    path = tmp_path / "windows.csv"
    WINDOWS.assign(id=ids).to_csv(path, index=False)
    with pytest.raises(UserError) as error:
        load_windows(path)
    assert str(error.value).startswith(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download`")


def stored(path, frames: np.ndarray, n_frames: int, **options) -> Path:
    """A group with the layout that ``download`` writes, ``n_frames`` a file."""
    chunks = (n_frames, *frames.shape[1:])
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.create_group(path / "frames.zarr")
        group.create_array("frames", data=frames, **{"chunks": chunks, "compressors": None} | options)
    return path / "frames.zarr"


@pytest.mark.parametrize("n_frames", [1, 7, 40, 64])
def test_an_index_means_what_it_means_to_numpy(tmp_path, frames, n_frames):
    frames[14:21] = 0  # a whole chunk of zeros
    mapped = load_frames(stored(tmp_path, frames, n_frames))
    assert (mapped.shape, mapped.ndim, mapped.dtype, len(mapped)) == (frames.shape, 4, np.float32, 40)
    indices = np.array([[0, 6, 7], [39, -1, 20]])
    for index in (slice(None), slice(3, 9), slice(7, 14), slice(35, 99), slice(5, 5), slice(0, 40, 3), indices, 8, -2):
        np.testing.assert_array_equal(mapped[index], frames[index])
    again = pickle.loads(pickle.dumps(mapped))
    assert len(pickle.dumps(mapped)) < 1000  # the path, not the frames
    np.testing.assert_array_equal(again[:], frames)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks(mapped)]), frames)


def test_a_slice_within_a_file_is_no_copy(tmp_path, frames):
    mapped = load_frames(stored(tmp_path, frames, 40))
    assert np.shares_memory(mapped[3:9], mapped[4:5])
    with pytest.raises(ValueError, match="read-only"):
        mapped[3:9][0] = 0


@pytest.mark.parametrize("options", [{"compressors": "auto"}, {"chunks": (40, 1, 2, 3)}])
def test_frames_of_another_layout_are_refused(tmp_path, frames, options):
    with pytest.raises(UserError, match=r"frames\.zarr cannot be mapped into memory; run `dvc repro download`"):
        load_frames(stored(tmp_path, frames, 40, **options))


def test_blocks_are_small_and_in_order(frames, monkeypatch):
    monkeypatch.setattr("s2kd.dataset.BLOCK_BYTES", 7 * frames[0].nbytes)
    parts = [part for part, _ in blocks(frames)]
    assert [(part.start, part.stop) for part in parts] == [(0, 7), (7, 14), (14, 21), (21, 28), (28, 35), (35, 40)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks(frames)]), frames)


@pytest.mark.parametrize("n_frames", [1, 7, 40])
def test_statistics_in_blocks_are_those_of_float64(monkeypatch, n_frames):
    """Values 1e4 deviations from zero, of which float32 sums and sums of squares would lose all digits."""
    rng = np.random.default_rng(0)
    frames = (1e4 + rng.normal(size=(40, 2, 3, 3))).astype(np.float32)
    frames[5, 1, 0, 0] = frames[30, 0] = np.nan
    is_train = np.arange(40) < 33
    monkeypatch.setattr("s2kd.dataset.BLOCK_BYTES", n_frames * frames[0].nbytes)
    mean, std, n_missing = channel_statistics(frames, is_train)
    values = frames[is_train].astype(np.float64)
    np.testing.assert_allclose(mean, np.nanmean(values, axis=(0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, np.nanstd(values, axis=(0, 2, 3)), rtol=1e-12)
    assert n_missing == 10


@pytest.mark.parametrize(("value", "message"), [(0.1, "is 0.1"), (np.nan, "is missing")])
def test_a_constant_channel_is_refused(value, message):
    frames = np.stack([np.arange(5.0), np.full(5, value)], axis=1).astype(np.float32)[:, :, None, None]
    with pytest.raises(UserError, match=rf"channel 1 \(from 0\) {message}"):
        channel_statistics(frames, np.ones(5, bool))


@pytest.mark.parametrize("per", ["cell", "channel"])
def test_missing_values_do_not_count_in_the_statistics(frames, per):
    normalisation = Normalisation(per=per, floor=0.05)
    frames[2, 0, 0, 0] = np.nan
    frames[:, 1, 1, 1] = np.nan  # a cell without data
    mean, std = grid_statistics(frames, TIMES, WINDOWS, a_meta(frames), normalisation)
    train = frames[TRAIN].astype(np.float64)
    usual, deviation = (
        np.stack([of(train[:, channel]) for channel in range(2)]) for of in (np.nanmean, lambda x: np.nanstd(x, axis=0))
    )
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    if per == "channel":
        np.testing.assert_allclose(mean[0, :, 0, 0], usual, rtol=1e-6)
    else:
        np.testing.assert_allclose(mean[0, 0], np.nanmean(train[:, 0], axis=0), rtol=1e-6)
        np.testing.assert_allclose(mean[0, 1, 1, 1], usual[1], rtol=1e-6)
        np.testing.assert_allclose(std[0, 0, 0], deviation[0, 0, 0], rtol=1e-5)
        assert std[1, 1, 1] >= 0.05


def test_nominal_stamps_tell_no_hour():
    meta = meta_of(3600).model_copy(update={"nominal_time": True})
    assert frame_phases(TIMES, meta, "week")[1] == 1


def test_the_segments_are_read_as_they_are(tmp_path):
    xr.Dataset({"segment": ("time", np.arange(9) // 4)}).to_zarr(tmp_path / "frames.zarr", consolidated=False)
    assert load_segments(tmp_path / "frames.zarr").tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_times_are_read_as_they_are(tmp_path):
    data = xr.Dataset({"frames": ("time", np.zeros(40))}, coords={"time": TIMES})
    data.to_zarr(tmp_path / "frames.zarr", consolidated=False)
    assert load_times(tmp_path / "frames.zarr").equals(TIMES)


def test_meta_comes_back_as_it_was_and_knows_no_other_key(tmp_path, frames):
    meta = a_meta(frames)
    path = tmp_path / "meta.json"
    path.write_text(meta.model_dump_json(indent=2), encoding="utf-8")
    assert Meta.load(path) == meta
    path.write_text(path.read_text().replace('"units"', '"unit"'))
    with pytest.raises(ValidationError, match="unit"):
        Meta.load(path)
