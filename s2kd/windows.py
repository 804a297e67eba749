"""Which frames make a window, and to which split it belongs: arithmetic on the indices of frames."""

import datetime

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from s2kd.params import BlocksSplit, ChronologicalSplit, Dataset
from s2kd.stage import UserError

SPLITS = ("train", "validation", "test")
DROPPED = -1  # the label of a frame in no split


def make_windows(times: pd.DatetimeIndex, dataset: Dataset) -> pd.DataFrame:
    """Cut the record into windows of ``n_steps_input + n_steps_output`` frames, each within one split.

    A segment is a longest run of frames of one split without a gap in time; its windows start at its first frame and
    then every ``stride`` frames. So no window crosses a border or a gap, and no frame is in windows of two splits.

    Args:
        times: time of each frame, increasing.
        dataset: its split, stride and numbers of steps.

    Returns:
        ``id`` (0, 1, … in order of ``start``), ``start`` (index of the first frame) and ``split``.

    Raises:
        UserError: a split has no window, or its ends are out of order.
    """
    n_steps = dataset.n_steps_input + dataset.n_steps_output
    split = dataset.split
    labels = _chronological(times, split) if split.name == "chronological" else _blocks(len(times), split)
    is_gap = np.diff(times.to_numpy()) > time_step(times)
    edges = np.flatnonzero((np.diff(labels) != 0) | is_gap) + 1
    segments = np.split(np.arange(len(times)), edges)
    rows = [
        (start, SPLITS[labels[start]])
        for segment in segments
        if labels[segment[0]] != DROPPED
        for start in range(segment[0], segment[-1] - n_steps + 2, dataset.stride)
    ]
    windows = pd.DataFrame(rows, columns=["start", "split"]).astype({"start": "int64", "split": "string"})
    windows.insert(0, "id", np.arange(len(windows)))
    for code, name in enumerate(SPLITS):
        if not (windows["split"] == name).any():
            longest = max((len(segment) for segment in segments if labels[segment[0]] == code), default=0)
            raise UserError(
                f"params.yaml: split {name!r} of {dataset.title!r} has no window: it has {(labels == code).sum()} of "
                f"{len(times)} frames, {longest} of them in a row, and a window takes n_steps_input + n_steps_output = "
                f"{n_steps}; give the split more frames, shorten the window or bring more data"
            )
    return windows


def time_step(times: pd.DatetimeIndex) -> np.timedelta64:
    """Return the most common difference of successive times; larger is a gap, smaller (a short month) is not."""
    if len(times) < 2:
        raise UserError(f"the record has {len(times)} frames and no time step; bring more data")
    differences, counts = np.unique(np.diff(times.to_numpy()), return_counts=True)
    return differences[counts.argmax()]


def train_mask(n_frames: int, windows: pd.DataFrame, n_steps: int) -> Bool[np.ndarray, " time"]:
    """Mark the frames that some training window covers."""
    starts = windows.loc[windows["split"] == "train", "start"].to_numpy()
    mask = np.zeros(n_frames, dtype=bool)
    mask[starts[:, None] + np.arange(n_steps)] = True
    return mask


def statistics(
    frames: Float[np.ndarray, "time channel height width"], mask: Bool[np.ndarray, " time"]
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Return mean and standard deviation of each channel over the marked frames, in float64.

    Raises:
        UserError: a channel is constant, so that nothing can be divided by its standard deviation.
    """
    mean, std = np.empty((2, frames.shape[1]))
    for channel in range(frames.shape[1]):
        values = frames[mask, channel].astype(np.float64)
        if values.min() == values.max():  # exactly; a computed std may be 1e-17
            raise UserError(
                f"channel {channel} (from 0) is {values.min()} in every training frame; leave this variable out"
            )
        mean[channel], std[channel] = values.mean(), values.std()
    return mean, std


def _chronological(times: pd.DatetimeIndex, split: ChronologicalSplit) -> Int[np.ndarray, " time"]:
    def index(end: float | datetime.date) -> int:
        if isinstance(end, datetime.date):
            return int(times.searchsorted(pd.Timestamp(end)))
        return round(end * len(times))

    train_end, validation_end = index(split.train_end), index(split.validation_end)
    if train_end > validation_end:
        raise UserError(
            f"params.yaml: split.train_end {split.train_end} (frame {train_end}) is after split.validation_end "
            f"{split.validation_end} (frame {validation_end}); it must come first"
        )
    return np.repeat(np.arange(len(SPLITS)), np.diff([0, train_end, validation_end, len(times)]))


def _blocks(n_frames: int, split: BlocksSplit) -> Int[np.ndarray, " time"]:
    """Label blocks by the repeated pattern; the first ``gap`` frames after a border are dropped."""
    pattern = np.array([SPLITS.index(name) for name in split.pattern])
    labels = pattern[np.arange(n_frames) // split.length % len(pattern)]
    for border in np.flatnonzero(np.diff(labels)) + 1:
        labels[border : border + split.gap] = DROPPED
    return labels
