"""The data of one data set as every stage after ``download`` sees them: frames, windows and ``meta.json``."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from s2kd.params import Normalisation
from s2kd.stage import UserError
from s2kd.windows import train_mask

Split = Literal["train", "validation", "test"]


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
    import xarray as xr

    return pd.DatetimeIndex(xr.open_zarr(path, consolidated=False)["time"].to_numpy())


def load_windows(path: Path) -> pd.DataFrame:
    """Read the windows: ``id`` (0, 1, … in order of ``start``), ``start`` (index of the first frame) and ``split``."""
    windows = pd.read_csv(path, dtype={"id": "int64", "start": "int64", "split": "string"})
    if not (windows["id"] == np.arange(len(windows))).all():
        raise UserError(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download` to make the table again")
    return windows


def grid_statistics(
    frames: np.ndarray, windows: pd.DataFrame, meta: Meta, normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation that models standardise by: float32, (channel, y, x), training frames only.

    ``per: channel`` repeats the numbers of ``meta.json`` in every cell. ``per: cell`` gives each grid cell its own,
    the deviation at least ``floor`` times its channel's, so that a cell where nothing happens stays finite.
    """
    shape = frames.shape[1:]
    channel_std = np.reshape(meta.std, (-1, 1, 1))
    if normalisation.per == "channel":
        mean, std = np.reshape(meta.mean, (-1, 1, 1)), channel_std
    else:
        train = frames[train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)]
        mean = train.mean(0, dtype=np.float64)
        std = np.maximum(train.std(0, dtype=np.float64), normalisation.floor * channel_std)
    return np.broadcast_to(mean, shape).astype(np.float32), np.broadcast_to(std, shape).astype(np.float32)
