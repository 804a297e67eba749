"""Times of day and week, statistics of the grid against numpy, and tables that are refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pydantic import ValidationError

from s2kd.dataset import Meta, frame_phases, grid_statistics, load_frames, load_times, load_windows
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


def a_meta(frames: np.ndarray) -> Meta:
    train = frames[TRAIN].astype(np.float64)
    return Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a", "b"), units=("K", "K"),
        time_step=3600.0, start="2001-01-01T00:00:00", n_frames=40, n_steps_input=3, n_steps_output=2, y_name="y",
        x_name="x", y=(0.0, 1.0), x=(0.0, 1.0, 2.0), mean=tuple(train.mean((0, 2, 3)).tolist()),
        std=tuple(train.std((0, 2, 3)).tolist()), licence="-", citation="-",
    )  # fmt: skip


def usual(values: np.ndarray, per: str) -> np.ndarray:
    """Mean over time, for each cell or for all cells together."""
    mean = values.mean(0) if per == "cell" else values.mean((0, 2, 3)).reshape(2, 1, 1)
    return np.broadcast_to(mean, values.shape[1:])


def test_per_cell_is_numpy_over_training_frames(frames):
    normalisation = Normalisation(per="cell", floor=0.05, period="none")
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
    normalisation = Normalisation(per=per, floor=0, period="day")
    mean, std = grid_statistics(frames, TIMES, WINDOWS, a_meta(frames), normalisation)
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
    meta = a_meta(frames)
    _, std = grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=floor, period=period))
    _, bare = grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=0, period=period))
    channel = np.sqrt(np.square(bare.astype(np.float64)).mean((1, 2)))  # deviations about each cell's own mean
    assert frames[:, :, 1, 2].std() > 0  # outside of training
    np.testing.assert_allclose(std[:, 1, 2], floor * channel, rtol=1e-6)
    np.testing.assert_allclose(std, np.maximum(bare, floor * channel.reshape(2, 1, 1)), rtol=1e-6)
    _, one = grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="channel", floor=floor, period="none"))
    np.testing.assert_allclose(one, np.broadcast_to(np.array(meta.std).reshape(2, 1, 1), one.shape), rtol=1e-5)


def test_per_channel_is_one_number_everywhere(frames):
    meta = a_meta(frames)
    normalisation = Normalisation(per="channel", floor=0.05, period="none")
    mean, std = grid_statistics(frames, TIMES, WINDOWS, meta, normalisation)
    assert mean.shape == (1, 2, 2, 3)
    for channel in range(2):
        assert set(mean[0, channel].ravel()) == {np.float32(meta.mean[channel])}
        assert len(set(std[channel].ravel())) == 1
        assert std[channel, 0, 0] == pytest.approx(meta.std[channel], rel=1e-5)


def test_a_period_as_long_as_the_record_is_refused(frames):
    """Each hour of the week occurs once and is its own mean: nothing to divide by."""
    meta = a_meta(frames)
    with pytest.raises(UserError, match=r"normalisation\.period = week: toy has 13 training frames.*choose a shorter"):
        grid_statistics(frames, TIMES, WINDOWS, meta, Normalisation(per="cell", floor=0.05, period="week"))


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
    message = rf"normalisation\.period = {period}: a time step of {step} s does not divide it; choose none"
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


def test_frames_are_read_as_they_are(tmp_path, frames):
    zarr.create_group(tmp_path / "frames.zarr").create_array("frames", data=frames)
    assert np.array_equal(load_frames(tmp_path / "frames.zarr"), frames)


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
