"""Forecasts that repeat the past: the last frame, or the latest known frame at the same time of day or of week.

They need no training, and on traffic they are hard to beat; a window of 12 hours does not even hold "yesterday", so
they may look further back than a model can.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from s2kd.dataset import Meta

DAY = 24 * 3600.0  # seconds
PERIODS = {"last_frame": None, "previous_day": DAY, "previous_week": 7 * DAY}  # None: one frame


def period_in_steps(name: str, meta: Meta) -> int | None:
    """Number of frames in the period that a forecast repeats, or None where the time step does not divide it."""
    if (seconds := PERIODS[name]) is None:
        return 1
    steps = round(seconds / meta.time_step)
    return steps if steps and abs(steps * meta.time_step - seconds) < 1e-6 * seconds else None


def lags(period: int, n_steps_output: int) -> Int[np.ndarray, " time"]:
    """How many frames to go back from each lead time: the fewest whole periods that reach a known frame."""
    lead = np.arange(1, n_steps_output + 1)
    return -(-lead // period) * period


def sources(
    starts: Int[np.ndarray, " window"], period: int, times: pd.DatetimeIndex, meta: Meta
) -> tuple[Int[np.ndarray, "window time"], Bool[np.ndarray, " window"]]:
    """Index of the frame that each forecast repeats, and which windows have all of theirs.

    ``starts`` are the indices of the windows' first input frames. A window is left out where a lag leaves the record
    or crosses a gap in time.
    """
    lag = lags(period, meta.n_steps_output)
    targets = starts[:, None] + meta.n_steps_input + np.arange(meta.n_steps_output)
    source = targets - lag
    is_gap = np.diff(times.to_numpy()) / np.timedelta64(1, "s") > meta.time_step * (1 + 1e-9)
    segment = np.concatenate([[0], np.cumsum(is_gap)])  # of each frame: how many gaps lie before it
    return source, ((source >= 0) & (segment[source.clip(min=0)] == segment[targets])).all(1)
