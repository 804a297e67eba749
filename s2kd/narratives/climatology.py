"""What is usual, from the frames of training windows alone: means by hour, and terciles that choose between words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from s2kd.dataset import Meta
from s2kd.narratives.calendar import day
from s2kd.stage import UserError

Grade = Literal["low", "middle", "high"]  # third of the training windows that a number falls into


@dataclass(frozen=True)
class Climatology:
    mean: Float[np.ndarray, "hour day channel y x"]  # see `slots`
    total: Float[np.ndarray, "hour day channel"]  # its sum over the map
    terciles: dict[str, Float[np.ndarray, "channel 2"]]

    def grade(self, quantity: str, channel: int, value: float) -> Grade:
        """Grade ``value`` against the terciles of training windows; fixed thresholds would say the same everywhere."""
        low, high = self.terciles[quantity][channel]
        return "low" if value < low else "high" if value > high else "middle"


def slots(times: pd.DatetimeIndex | list, meta: Meta) -> tuple[Int[np.ndarray, " time"], Int[np.ndarray, " time"]]:
    """Where frames belong in a climatology: hour of the day and, for traffic, 0 on working days, 1 on weekends.

    A fluid has no clock: all its frames share one slot.
    """
    if meta.domain == "fluid":
        return np.zeros(len(times), int), np.zeros(len(times), int)
    hours = np.array([time.hour for time in times])
    if meta.domain == "weather":
        return hours, np.zeros(len(times), int)
    return hours, np.array([int(day(time.date(), meta.country).weekend) for time in times])


def means(
    frames: Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    seen: Bool[np.ndarray, " time"],
    meta: Meta,
) -> Float[np.ndarray, "hour day channel y x"]:
    """Average the frames marked as seen by slot; a slot without frames gets the overall mean."""
    hours, days = slots(times, meta)
    n_hours, n_days = {"traffic": (24, 2), "weather": (24, 1), "fluid": (1, 1)}[meta.domain]
    mean = np.empty((n_hours, n_days, *frames.shape[1:]), np.float32)
    mean[:] = frames[seen].mean(axis=0)
    for hour in np.unique(hours[seen]):
        for kind in np.unique(days[seen]):
            if (chosen := seen & (hours == hour) & (days == kind)).any():
                mean[hour, kind] = frames[chosen].mean(axis=0)
    return mean


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
