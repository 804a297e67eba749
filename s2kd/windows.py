"""Which frames make a window, and to which split it belongs: arithmetic on the indices of frames."""

import datetime

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from s2kd.params import BlocksSplit, ChronologicalSplit, Dataset, EventsSplit, PublishedSplit
from s2kd.stage import UserError

SPLITS = ("train", "validation", "test")
DROPPED = -1  # the label of a frame in no split
JITTER = 0.01  # of a time step: stamps computed from fractions of a day lie that little off


def make_windows(
    times: pd.DatetimeIndex,
    dataset: Dataset,
    event: Int[np.ndarray, " time"] | None = None,
    published: np.ndarray | None = None,
) -> pd.DataFrame:
    """Cut the record into windows of ``n_steps_input + n_steps_output`` frames, each within one split.

    A run is a longest series of frames of one split and event without a gap in time; its windows start at its first
    frame and then every ``stride`` frames. So no window crosses a border, an event or a gap, and no frame is in windows
    of two splits.

    Args:
        times: time of each frame, increasing.
        dataset: its split, stride and numbers of steps.
        event: number of the event of each frame; none where the record is one.
        published: name of the publisher's split of each frame, empty for none; for a split of that kind.

    Returns:
        ``id`` (0, 1, … in order of ``start``), ``start`` (index of the first frame) and ``split``.

    Raises:
        UserError: a split has no window, its ends are out of order, or it needs events or a published split that the
            source does not have.
    """
    n_steps = dataset.n_steps_input + dataset.n_steps_output
    labels = _labels(times, dataset, event, published)
    edges = np.flatnonzero((np.diff(labels) != 0) | (np.diff(segments(times, event)) != 0)) + 1
    runs = np.stack([np.concatenate([[0], edges]), np.concatenate([edges, [len(times)]])], axis=1)
    runs = runs[labels[runs[:, 0]] != DROPPED]
    starts = [np.arange(first, end - n_steps + 1, dataset.stride) for first, end in runs]
    start = np.concatenate([np.empty(0, dtype=np.int64), *starts])
    windows = pd.DataFrame({"id": np.arange(len(start)), "start": start, "split": np.array(SPLITS)[labels[start]]})
    for code, name in enumerate(SPLITS):
        if not (windows["split"] == name).any():
            longest = max((end - first for first, end in runs if labels[first] == code), default=0)
            raise UserError(
                f"params.yaml: split {name!r} of {dataset.title!r} has no window: it has {(labels == code).sum()} of "
                f"{len(times)} frames, {longest} of them in a row, and a window takes n_steps_input + n_steps_output = "
                f"{n_steps}; give the split more frames, shorten the window or bring more data"
            )
    return windows.astype({"split": "string"})


def segments(times: pd.DatetimeIndex, event: Int[np.ndarray, " time"] | None = None) -> Int[np.ndarray, " time"]:
    """Number of the unbroken run that each frame is in: one more after each gap in time and in each new event."""
    is_break = np.diff(times.to_numpy()) > time_step(times) * (1 + JITTER)
    if event is not None:
        is_break |= np.diff(event) != 0
    return np.concatenate([[0], np.cumsum(is_break)])


def time_step(times: pd.DatetimeIndex) -> np.timedelta64:
    """Return the most common difference of successive times; larger is a gap, smaller (a short month) is not."""
    if len(times) < 2:
        raise UserError(f"the record has {len(times)} frames and no time step; bring more data")
    differences, counts = np.unique(np.diff(times.to_numpy()), return_counts=True)
    return differences[counts.argmax()]


def train_mask(n_frames: int, windows: pd.DataFrame, n_steps: int) -> Bool[np.ndarray, " time"]:
    """Mark the frames that some training window covers."""
    starts = windows.loc[windows["split"] == "train", "start"].to_numpy()
    edges = np.bincount(starts, minlength=n_frames + 1) - np.bincount(starts + n_steps, minlength=n_frames + 1)
    return np.cumsum(edges)[:n_frames] > 0


def _labels(
    times: pd.DatetimeIndex, dataset: Dataset, event: Int[np.ndarray, " time"] | None, published: np.ndarray | None
) -> Int[np.ndarray, " time"]:
    match dataset.split:
        case ChronologicalSplit() as split:
            return _chronological(times, split)
        case BlocksSplit() as split:
            return _blocks(len(times), split)
        case EventsSplit() as split:
            if event is None:
                raise UserError(f"params.yaml: {dataset.title!r} has no events; give it another split than events")
            return _events(event, split)
        case PublishedSplit() as split:
            if published is None:
                raise UserError(f"params.yaml: {dataset.title!r} comes without a split; give it another than published")
            return _published(published, event, split)


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
    labels = np.repeat(np.arange(len(SPLITS)), np.diff([0, train_end, validation_end, len(times)]))
    for end in (train_end, validation_end, len(times)):
        labels[max(0, end - split.trim) : end] = DROPPED
    return labels


def _blocks(n_frames: int, split: BlocksSplit) -> Int[np.ndarray, " time"]:
    """Label blocks by the repeated pattern; the first ``gap`` frames after a border are dropped."""
    pattern = np.array([SPLITS.index(name) for name in split.pattern])
    labels = pattern[np.arange(n_frames) // split.length % len(pattern)]
    for border in np.flatnonzero(np.diff(labels)) + 1:
        labels[border : border + split.gap] = DROPPED
    return labels


def _events(event: Int[np.ndarray, " time"], split: EventsSplit) -> Int[np.ndarray, " time"]:
    number = _ordinal(event)
    n_events = int(number[-1]) + 1
    n_validation, n_test = (_count(part, n_events) for part in (split.validation, split.test))
    return np.searchsorted([n_events - n_test - n_validation, n_events - n_test], number, side="right")


def _published(
    published: np.ndarray, event: Int[np.ndarray, " time"] | None, split: PublishedSplit
) -> Int[np.ndarray, " time"]:
    labels = np.array([SPLITS.index(name) if name else DROPPED for name in published])
    train = np.flatnonzero(labels == SPLITS.index("train"))
    _, order = np.unique((np.arange(len(labels)) if event is None else _ordinal(event))[train], return_inverse=True)
    n_events = int(order.max(initial=-1)) + 1
    if n_validation := _count(split.validation, n_events):
        labels[train[order >= n_events - n_validation - split.gap]] = DROPPED
        labels[train[order >= n_events - n_validation]] = SPLITS.index("validation")
    return labels


def _ordinal(event: Int[np.ndarray, " time"]) -> Int[np.ndarray, " time"]:
    """Number of each frame's event in the order of the record."""
    return np.concatenate([[0], np.cumsum(np.diff(event) != 0)])


def _count(part: int | float, n_events: int) -> int:
    return part if isinstance(part, int) else round(part * n_events)
