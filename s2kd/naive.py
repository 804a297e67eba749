"""Forecasts that repeat the past: the last frame, the latest known one at the same time of day or of week, the mean.

They need no training, and on traffic they are hard to beat; a window of 12 hours does not even hold "yesterday", so
they may look further back than a model can.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from s2kd.dataset import Meta, frame_phases

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
    segment = gaps_before(times, meta)
    return source, ((source >= 0) & (segment[source.clip(min=0)] == segment[targets])).all(1)


def gaps_before(times: pd.DatetimeIndex, meta: Meta) -> Int[np.ndarray, " time"]:
    """How many gaps in time lie before each frame: two frames with the same number have none between them."""
    is_gap = np.diff(times.to_numpy()) / np.timedelta64(1, "s") > meta.time_step * (1 + 1e-9)
    return np.concatenate([[0], np.cumsum(is_gap)])


def climatology(
    frames: Float[np.ndarray, "frame channel y x"],
    times: pd.DatetimeIndex,
    is_train: Bool[np.ndarray, " frame"],
    meta: Meta,
) -> tuple[Float[np.ndarray, "phase channel y x"], Int[np.ndarray, " frame"]]:
    """Mean of the training frames at each time of week (traffic) or of day (all else), and the phase of each frame.

    A phase that training never saw, or all of them where the time step does not divide the period, has the mean of all
    training frames. There is no season in it: records of a year or two are too short for one.
    """
    period, name = ("week", "previous_week") if meta.domain == "traffic" else ("day", "previous_day")
    phase, n_phases = frame_phases(times, meta, period if period_in_steps(name, meta) else "none")
    means = np.empty((n_phases, *frames.shape[1:]), dtype=np.float32)
    means[:] = frames[is_train].mean(0, dtype=np.float64)
    for value in np.unique(phase[is_train]):
        means[value] = frames[is_train & (phase == value)].mean(0, dtype=np.float64)
    return means, phase
