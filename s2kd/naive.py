"""Forecasts that repeat the past: the last frame, the latest known one at the same time of day or of week, the mean.

They need no training, and on traffic they are hard to beat; a window of 12 hours does not even hold "yesterday", so
they may look further back than a model can.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from s2kd.dataset import Frames, Meta, blocks, frame_phases
from s2kd.windows import train_mask

DAY = 24 * 3600.0  # seconds
PERIODS = {"last_frame": None, "previous_day": DAY, "previous_week": 7 * DAY}  # None: one frame


def period_in_steps(name: str, meta: Meta) -> int | None:
    """Number of frames in the period that a forecast repeats, or None where there is no such number.

    That is so where the time step does not divide the period, or where the time stamps only count steps.
    """
    if (seconds := PERIODS[name]) is None:
        return 1
    if meta.nominal_time:
        return None
    steps = round(seconds / meta.time_step)
    return steps if steps and abs(steps * meta.time_step - seconds) < 1e-6 * seconds else None


def lags(period: int, n_steps_output: int) -> Int[np.ndarray, " time"]:
    """How many frames to go back from each lead time: the fewest whole periods that reach a known frame."""
    lead = np.arange(1, n_steps_output + 1)
    return -(-lead // period) * period


def sources(
    starts: Int[np.ndarray, " window"], period: int, segment: Int[np.ndarray, " frame"], meta: Meta
) -> tuple[Int[np.ndarray, "window time"], Bool[np.ndarray, " window"]]:
    """Index of the frame that each forecast repeats, and which windows have all of theirs.

    ``starts`` are the indices of the windows' first input frames, ``segment`` the numbers of the unbroken runs of
    frames. A window is left out where a lag leaves the run of its targets.
    """
    lag = lags(period, meta.n_steps_output)
    targets = starts[:, None] + meta.n_steps_input + np.arange(meta.n_steps_output)
    source = targets - lag
    return source, ((source >= 0) & (segment[source.clip(min=0)] == segment[targets])).all(1)


class Climatology(NamedTuple):
    """Mean of the training frames at each phase of a period, and the phase of each frame."""

    means: Float[np.ndarray, "phase channel y x"]
    phase: Int[np.ndarray, " frame"]

    def at(self, index: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape channel y x"]:
        """What is usual at the times of the frames ``index``."""
        return self.means[self.phase[index]]


def climatology(
    frames: Frames | Float[np.ndarray, "frame channel y x"],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
) -> Climatology:
    """Mean of the training frames at each time of week (traffic) or of day (all else).

    A phase that training never saw, or all of them where the time step does not divide the period or the time stamps
    only count steps, has the mean of all training frames. There is no season in it: records of a year or two are too
    short for one. Missing values do not count; a cell that has no other takes the mean of its channel.
    """
    period, name = ("week", "previous_week") if meta.domain == "traffic" else ("day", "previous_day")
    phase, n_phases = frame_phases(times, meta, period if period_in_steps(name, meta) else "none")
    is_train = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    sums = np.zeros((n_phases, *frames.shape[1:]))
    counts = np.zeros(sums.shape, dtype=np.int64)
    for part, block in blocks(frames):
        for index in np.flatnonzero(is_train[part]):
            known = ~np.isnan(block[index])
            sums[phase[part][index]] += np.where(known, block[index], 0)
            counts[phase[part][index]] += known
    wider = [(sums.sum(axes, keepdims=True), counts.sum(axes, keepdims=True)) for axes in (0, (0, 2, 3))]
    for total, count in wider:  # what a phase lacks is taken from all phases, what these lack from all cells
        sums, counts = np.where(counts, sums, total), np.where(counts, counts, count)
    return Climatology((sums / counts).astype(np.float32), phase)


def repeat(
    frames: Frames | Float[np.ndarray, "frame channel y x"],
    source: Int[np.ndarray, "window time"],
    targets: Int[np.ndarray, "window time"],
    usual: Climatology,
) -> Float[np.ndarray, "window time channel y x"]:
    """Forecast the frames ``targets`` by the frames ``source``, and by the usual where those lack a value."""
    forecast = frames[source]
    missing = np.isnan(forecast)
    return np.where(missing, usual.at(targets), forecast) if missing.any() else forecast
