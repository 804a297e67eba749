"""The data of one data set as every stage after ``download`` sees them: frames, windows and ``meta.json``."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict

from s2kd.params import Normalisation, Period
from s2kd.stage import UserError
from s2kd.windows import train_mask

Split = Literal["train", "validation", "test"]
PERIODS = {"day": 24 * 3600, "week": 7 * 24 * 3600}  # seconds


class Meta(BaseModel):
    """What ``meta.json`` holds: everything a later stage must know about the frames without opening them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    title: str
    domain: Literal["traffic", "weather", "fluid"]
    country: str | None  # ISO 3166 code whose holidays the calendar knows
    channels: tuple[str, ...]
    units: tuple[str, ...]
    time_step: float  # seconds between frames
    start: str  # ISO 8601 time of frame 0
    n_frames: int
    n_steps_input: int
    n_steps_output: int
    y_name: str  # "latitude", or "y" where the grid is not on the globe
    x_name: str
    y: tuple[float, ...]  # coordinate of each row, top row first
    x: tuple[float, ...]
    mean: tuple[float, ...]  # per channel, over the frames of training windows
    std: tuple[float, ...]
    licence: str
    citation: str

    @classmethod
    def load(cls, path: Path) -> "Meta":
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def load_frames(path: Path) -> np.ndarray:
    """Read all frames: float32, (time, channel, y, x), physical units."""
    import zarr  # rather than xarray, whose import takes a second

    return zarr.open_array(path / "frames", mode="r")[:]


def load_times(path: Path) -> pd.DatetimeIndex:
    """Read the time stamp of each frame."""
    import zarr

    time = zarr.open_array(path / "time", mode="r")
    unit, start = str(time.attrs["units"]).split(" since ")  # CF conventions, as xarray wrote them
    return (pd.Timestamp(start) + pd.to_timedelta(time[:], unit=unit)).as_unit("ns")


def load_windows(path: Path) -> pd.DataFrame:
    """Read the windows: ``id`` (0, 1, … in order of ``start``), ``start`` (index of the first frame) and ``split``."""
    windows = pd.read_csv(path, dtype={"id": "int64", "start": "int64", "split": "string"})
    if not (windows["id"] == np.arange(len(windows))).all():
        raise UserError(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download` to make the table again")
    return windows


def frame_phases(times: pd.DatetimeIndex, meta: Meta, period: Period) -> tuple[Int[np.ndarray, " time"], int]:
    """Index of each frame in the day or week, from midnight (of Monday), and the number of such indices.

    Raises:
        UserError: the time step does not divide the period.
    """
    if period == "none":
        return np.zeros(len(times), dtype=np.int64), 1
    seconds = PERIODS[period]
    n_phases = round(seconds / meta.time_step)
    if not n_phases or abs(n_phases * meta.time_step - seconds) > 1e-6 * seconds:
        raise UserError(
            f"normalisation.period = {period}: a time step of {meta.time_step:g} s does not divide it; choose none"
        )
    since_monday = (times - pd.Timestamp("1970-01-05")).total_seconds().to_numpy()
    # Stamps decoded from fractions of a day lie a little before the hour.
    index = np.floor(since_monday % seconds / meta.time_step + 1e-3).astype(np.int64)
    return index % n_phases, n_phases


def grid_statistics(
    frames: Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
    normalisation: Normalisation,
) -> tuple[Float[np.ndarray, "phase channel y x"], Float[np.ndarray, "channel y x"]]:
    """What is usual and the deviation from it, by which models standardise: float32, training frames only.

    ``per: channel`` has one number for all cells. ``per: cell`` gives each grid cell its own, the deviation at least
    ``floor`` times its channel's, so that a cell where nothing happens stays finite. With a ``period`` the mean is one
    of each time of day or of week; a time that training never saw has the mean of all.

    Raises:
        UserError: the period is so long that each of its times occurs once, and nothing deviates from its own mean.
    """
    is_train = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    phases, n_phases = frame_phases(times, meta, normalisation.period)
    train, phases = frames[is_train], phases[is_train]
    axes = 0 if normalisation.per == "cell" else (0, 2, 3)
    shape = frames.shape[1:]
    mean = np.empty((n_phases, *shape), dtype=np.float32)
    mean[:] = train.mean(axes, dtype=np.float64, keepdims=True)
    for phase in np.unique(phases):
        mean[phase] = train[phases == phase].mean(axes, dtype=np.float64, keepdims=True)[0]
    variance = np.square(train - mean[phases], dtype=np.float64).mean(0)
    channel_variance = np.broadcast_to(variance.mean((1, 2), keepdims=True), shape)
    if not channel_variance.all():
        raise UserError(
            f"normalisation.period = {normalisation.period}: {meta.dataset} has {len(train)} training frames, none of "
            "which differs from another at its time of the period; choose a shorter one or none"
        )
    if normalisation.per == "channel":
        variance = channel_variance
    std = np.sqrt(np.maximum(variance, normalisation.floor**2 * channel_variance))
    return mean, std.astype(np.float32)
