"""What is usual, from the frames of training windows alone: means by hour, and terciles that choose between words."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from s2kd.dataset import Frames, Meta, blocks
from s2kd.narratives.calendar import day, has_calendar, stamps_of
from s2kd.stage import UserError

Grade = Literal["low", "middle", "high"]  # third of the training windows that a number falls into


@dataclass(frozen=True)
class Climatology:
    mean: Float[np.ndarray, "hour day channel y x"]  # see `slots`
    total: Float[np.ndarray, "hour day channel"]  # its sum over the map
    terciles: dict[str, Float[np.ndarray, "_ 2"]]  # of each channel, or of the first alone

    def grade(self, quantity: str, channel: int, value: float) -> Grade:
        """Grade ``value`` against the terciles of training windows; fixed thresholds would say the same everywhere."""
        low, high = self.terciles[quantity][channel]
        return "low" if value < low else "high" if value > high else "middle"


def slots(times: pd.DatetimeIndex | list, meta: Meta) -> tuple[Int[np.ndarray, " time"], Int[np.ndarray, " time"]]:
    """Where frames belong in a climatology: hour of the day and, for traffic, 0 on working days, 1 on weekends.

    A fluid has no clock, nor has what only counts its steps: all its frames share one slot.
    """
    if not has_calendar(meta):
        return np.zeros(len(times), int), np.zeros(len(times), int)
    hours = np.array([time.hour for time in times])
    if meta.domain == "weather":
        return hours, np.zeros(len(times), int)
    return hours, np.array([int(day(time.date(), meta.country).weekend) for time in times])


def means(
    frames: Frames | Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    seen: Bool[np.ndarray, " time"],
    meta: Meta,
) -> Float[np.ndarray, "hour day channel y x"]:
    """Average the frames marked as seen by slot, one block of them after the other; missing values do not count.

    A slot without frames gets the overall mean, a cell without values its channel's.
    """
    hours, days = slots(times, meta)
    n_hours, n_days = ({"traffic": (24, 2), "weather": (24, 1)}[meta.domain]) if has_calendar(meta) else (1, 1)
    cells = frames.shape[1:]
    total = np.zeros((n_hours, n_days, *cells))
    count = np.zeros((n_hours, n_days, *(cells if meta.n_missing else (1, 1, 1))))
    for part, block in blocks(frames):
        hour, kind = hours[part], days[part]
        for slot in sorted(set(zip(hour[seen[part]].tolist(), kind[seen[part]].tolist(), strict=True))):
            chosen = block[seen[part] & (hour == slot[0]) & (kind == slot[1])]
            if meta.n_missing:
                count[slot] += (~np.isnan(chosen)).sum(axis=0)
                total[slot] += np.nansum(chosen, axis=0, dtype=np.float64)
            else:
                count[slot] += len(chosen)
                total[slot] += chosen.sum(axis=0, dtype=np.float64)
    every_total, every_count = total.sum(axis=(0, 1)), count.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        every = every_total / every_count
        channel = every_total.sum(axis=(1, 2)) / (every_count * np.ones(cells)).sum(axis=(1, 2))
        every = np.where(every_count > 0, every, channel[:, None, None])
        return np.where(count > 0, total / count, every).astype(np.float32)


def filled(
    frames: Float[np.ndarray, "time channel y x"], start: datetime, meta: Meta, climatology: Climatology
) -> Float[np.ndarray, "time channel y x"]:
    """Give missing values of a window that starts at ``start`` the usual value of their time."""
    if not meta.n_missing:
        return frames
    hours, days = slots(stamps_of(start, meta)[: len(frames)], meta)
    return np.where(np.isnan(frames), climatology.mean[hours, days], frames)


def training_starts(windows: pd.DataFrame, meta: Meta) -> Int[np.ndarray, " window"]:
    """Starts of the training windows."""
    starts = windows.loc[windows["split"] == "train", "start"].to_numpy()
    if not len(starts):
        raise UserError(f"{meta.dataset}: windows.csv holds no training window; change datasets.{meta.dataset}.split")
    return starts


def terciles(
    measure: Callable[[int], dict[str, list[float]]], starts: Int[np.ndarray, " window"], n_sampled: int
) -> dict:
    """Take the terciles over at most ``n_sampled`` windows, evenly spread, of what ``measure`` says at their starts."""
    sample = starts[np.linspace(0, len(starts) - 1, min(len(starts), n_sampled)).astype(int)]
    measured = [measure(int(start)) for start in sample]
    return {name: np.quantile([each[name] for each in measured], (1 / 3, 2 / 3), axis=0).T for name in measured[0]}
