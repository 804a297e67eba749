"""The data of one data set as every stage after ``download`` sees them: frames, windows and ``meta.json``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from s2kd.stage import UserError

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
    import xarray as xr

    return xr.open_zarr(path, consolidated=False)["frames"].to_numpy()


def load_times(path: Path) -> pd.DatetimeIndex:
    """Read the time stamp of each frame."""
    import xarray as xr

    return pd.DatetimeIndex(xr.open_zarr(path, consolidated=False)["time"].to_numpy())


def load_windows(path: Path) -> pd.DataFrame:
    """Read the table of windows: ``id`` (0, 1, … in order of ``start``), ``start`` (index of its first frame), ``split``."""
    windows = pd.read_csv(path, dtype={"id": "int64", "start": "int64", "split": "string"})
    if not (windows["id"] == np.arange(len(windows))).all():
        raise UserError(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download` to make the table again")
    return windows
