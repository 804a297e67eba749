"""What the sources of simulations share: frames of one event after another, whose stamps only count steps."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int

from s2kd.sources.file import CELLS

if TYPE_CHECKING:
    import dask.array as da

START, STEP = "2000-01-01", pd.Timedelta(hours=1)  # an hour, so that lead times in hours are numbers of steps


def assemble(
    frames: "da.Array",
    event: Int[np.ndarray, " time"],
    channels: dict[str, tuple[str, str]],
    attrs: dict[str, str],
    y: tuple | None = None,
    x: tuple | None = None,
    split: np.ndarray | None = None,
) -> xr.Dataset:
    """Put frames that belong to events, but to no dates, into the form that every source has.

    Args:
        frames: (time, channel, y, x), events one after the other.
        event: number of the event of each frame.
        channels: unit and long name of each by its name.
        attrs: ``source``, ``license`` and ``references``.
        y, x: values and attributes of a coordinate; by default rows and columns are only counted.
        split: the published split of each frame.
    """
    n_frames, _, height, width = frames.shape
    units, long_names = zip(*channels.values(), strict=True)
    coords = {
        "time": pd.date_range(START, periods=n_frames, freq=STEP, unit="ns"),
        "event": ("time", event),
        "channel": list(channels),
        "units": ("channel", list(units)),
        "long_name": ("channel", list(long_names)),
        "y": ("y", *(y or (np.arange(height, dtype=np.float64), CELLS["y"]))),
        "x": ("x", *(x or (np.arange(width, dtype=np.float64), CELLS["x"]))),
    }
    if split is not None:
        coords["split"] = ("time", split)
    return xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), frames)}, coords=coords, attrs={**attrs, "nominal_time": 1}
    )
