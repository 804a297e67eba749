"""The data of one data set as every stage after ``download`` sees them: frames, windows and ``meta.json``."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict

from s2kd.params import Normalisation, Period
from s2kd.stage import UserError
from s2kd.windows import train_mask

Split = Literal["train", "validation", "test"]
PERIODS = {"day": 24 * 3600, "week": 7 * 24 * 3600}  # seconds
BLOCK_BYTES = 2**24  # of frames in memory at a time


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
    period: Period  # at whose times the mean is taken
    missing: Literal["refuse", "fill", "mask"]  # what is done with missing values
    n_missing: int  # values that are NaN
    nominal_time: bool  # the stamps only count steps: there is no calendar
    licence: str
    citation: str

    @classmethod
    def load(cls, path: Path) -> "Meta":
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


class Frames:
    """The frames of a data set as one array on disk: an index reads what it names and no more.

    The array of ``frames.zarr`` is uncompressed, a chunk a file, so that each is mapped into memory as it is. What
    several processes read is in memory once, and the system drops it when memory is short.

    Args:
        path: the Zarr group.

    Raises:
        UserError: the array is compressed, or cut otherwise than along time.
    """

    def __init__(self, path: Path) -> None:
        import zarr  # rather than xarray, whose import takes a second

        self.path = path
        array = zarr.open_array(path / "frames", mode="r")
        self.shape, self.dtype, self._chunk = array.shape, array.dtype, array.chunks[0]
        is_plain = not array.compressors and not array.filters and not array.shards and array.dtype == np.float32
        if not is_plain or array.chunks[1:] != array.shape[1:]:
            raise UserError(f"{path} cannot be mapped into memory; run `dvc repro download` to make it again")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_maps"}  # a process maps them itself

    def __getitem__(self, index: slice | int | Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape channel y x"]:
        """Frames at a slice (a view where one file has them all), at one index or at an array of indices (a copy)."""
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            chunk = first // self._chunk
            if step == 1 and first < end <= (chunk + 1) * self._chunk:
                return self._maps[chunk][first - chunk * self._chunk : end - chunk * self._chunk]
            index = np.arange(first, end, step)
        index = np.asarray(index)
        chunk, offset = np.divmod(np.where(index < 0, index + len(self), index), self._chunk)
        chunks = np.unique(chunk)
        if len(chunks) == 1:
            return self._maps[chunks[0]][offset]
        frames = np.empty((*index.shape, *self.shape[1:]), dtype=np.float32)
        for number in chunks:
            frames[chunk == number] = self._maps[number][offset[chunk == number]]
        return frames

    def read(self, part: slice) -> Float[np.ndarray, "time channel y x"]:
        """Consecutive frames by plain reads, for whatever goes over all of them: mapped, they would fill the memory."""
        shape, parts = self.shape[1:], []
        first, end, _ = part.indices(len(self))
        while first < end:
            chunk, offset = divmod(first, self._chunk)
            n_frames = min(end - first, self._chunk - offset)
            n_cells = math.prod(shape)
            with self._file(chunk).open("rb") as file:
                file.seek(4 * offset * n_cells)
                parts.append(np.fromfile(file, "<f4", n_frames * n_cells).reshape(n_frames, *shape))
            first += n_frames
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *shape), np.float32), *parts])

    def _file(self, chunk: int) -> Path:
        return self.path / f"frames/c/{chunk}/0/0/0"

    @functools.cached_property
    def _maps(self) -> list[Float[np.ndarray, "time channel y x"]]:
        n_chunks = -(-len(self) // self._chunk)
        shape = (self._chunk, *self.shape[1:])
        maps = [
            np.memmap(self._file(number), "<f4", mode="r", shape=shape).view(np.ndarray) for number in range(n_chunks)
        ]
        maps[-1] = maps[-1][: len(self) - (n_chunks - 1) * self._chunk]  # the last file is as long as the others
        return maps


def load_frames(path: Path) -> Frames:
    """Open all frames: float32, (time, channel, y, x), physical units; missing values are NaN."""
    return Frames(path)


def blocks(
    frames: Frames | Float[np.ndarray, "time channel y x"],
) -> Iterator[tuple[slice, Float[np.ndarray, "time channel y x"]]]:
    """All frames in order, as much at a time as fits easily into memory."""
    n_frames = max(1, BLOCK_BYTES // (4 * math.prod(frames.shape[1:])))
    for first in range(0, len(frames), n_frames):
        part = slice(first, min(first + n_frames, len(frames)))
        yield part, frames.read(part) if isinstance(frames, Frames) else frames[part]


def load_times(path: Path) -> pd.DatetimeIndex:
    """Read the time stamp of each frame."""
    import zarr

    time = zarr.open_array(path / "time", mode="r")
    unit, start = str(time.attrs["units"]).split(" since ")  # CF conventions, as xarray wrote them
    return (pd.Timestamp(start) + pd.to_timedelta(time[:], unit=unit)).as_unit("ns")


def load_segments(path: Path) -> Int[np.ndarray, " time"]:
    """Read the number of the unbroken run that each frame is in: no gap in time, one event."""
    import zarr

    return zarr.open_array(path / "segment", mode="r")[:]


def load_windows(path: Path) -> pd.DataFrame:
    """Read the windows: ``id`` (0, 1, … in order of ``start``), ``start`` (index of the first frame) and ``split``."""
    windows = pd.read_csv(path, dtype={"id": "int64", "start": "int64", "split": "string"})
    if not (windows["id"] == np.arange(len(windows))).all():
        raise UserError(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download` to make the table again")
    return windows


def frame_phases(
    times: pd.DatetimeIndex, meta: Meta, period: Period | None = None
) -> tuple[Int[np.ndarray, " time"], int]:
    """Index of each frame in the day or week, from midnight (of Monday), and the number of such indices.

    The period is the data set's own unless another is given. Stamps that only count steps tell no time of day.

    Raises:
        UserError: the time step does not divide the period.
    """
    period = period or meta.period
    if period == "none" or meta.nominal_time:
        return np.zeros(len(times), dtype=np.int64), 1
    seconds = PERIODS[period]
    n_phases = round(seconds / meta.time_step)
    if not n_phases or abs(n_phases * meta.time_step - seconds) > 1e-6 * seconds:
        raise UserError(
            f"params.yaml: datasets.{meta.dataset}.period = {period}: a time step of {meta.time_step:g} s does not "
            "divide it; choose none"
        )
    since_monday = (times - pd.Timestamp("1970-01-05")).total_seconds().to_numpy()
    # Stamps decoded from fractions of a day lie a little before the hour.
    index = np.floor(since_monday % seconds / meta.time_step + 1e-3).astype(np.int64)
    return index % n_phases, n_phases


def channel_statistics(
    frames: Frames | Float[np.ndarray, "time channel y x"], is_train: Bool[np.ndarray, " time"]
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"], int]:
    """Mean and standard deviation of each channel over the marked frames, and how many values of all frames are NaN.

    One pass in float64; the squares of each block are summed about its own mean (Chan et al. 1979), so that nothing
    cancels. NaN do not count.

    Raises:
        UserError: a channel is constant, so that nothing can be divided by its standard deviation.
    """
    n_channels = frames.shape[1]
    count, mean, squares, n_missing = np.zeros(n_channels), np.zeros(n_channels), np.zeros(n_channels), 0
    lowest, highest = np.full(n_channels, np.inf), np.full(n_channels, -np.inf)
    for part, block in blocks(frames):
        missing = np.isnan(block)
        n_missing += int(missing.sum())
        for channel in range(n_channels):
            values = block[is_train[part], channel][~missing[is_train[part], channel]]
            if not values.size:
                continue
            total, own = count[channel] + values.size, values.mean(dtype=np.float64)
            step = own - mean[channel]
            squares[channel] += np.square(values - own).sum() + step**2 * count[channel] * values.size / total
            mean[channel] += step * values.size / total
            count[channel] = total
            lowest[channel] = min(lowest[channel], values.min())
            highest[channel] = max(highest[channel], values.max())
    for channel in np.flatnonzero(lowest >= highest):  # exactly; a computed deviation may be 1e-17
        what = f"is {lowest[channel]}" if count[channel] else "is missing"
        raise UserError(f"channel {channel} (from 0) {what} in every training frame; leave this variable out")
    return mean, np.sqrt(squares / count), n_missing


def grid_statistics(
    frames: Frames | Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
    normalisation: Normalisation,
) -> tuple[Float[np.ndarray, "phase channel y x"], Float[np.ndarray, "channel y x"]]:
    """What is usual and the deviation from it, by which models standardise: float32, training frames only.

    ``per: channel`` has one number for all cells. ``per: cell`` gives each grid cell its own, the deviation at least
    ``floor`` times its channel's, so that a cell where nothing happens stays finite. With a period the mean is one of
    each time of day or of week; a time that training never saw has the mean of all. NaN do not count, and a cell that
    has nothing else takes its channel's numbers.

    Raises:
        UserError: the period is so long that each of its times occurs once, and nothing deviates from its own mean.
    """
    is_train = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    phases, n_phases = frame_phases(times, meta)

    def sums(values_of) -> tuple[Float[np.ndarray, "phase channel y x"], Float[np.ndarray, "phase channel y x"]]:
        total, count = np.zeros((2, n_phases, *frames.shape[1:]))
        for part, block in blocks(frames):
            for index in np.flatnonzero(is_train[part]):
                phase = phases[part][index]
                values = values_of(block[index], phase)
                is_there = ~np.isnan(values)
                total[phase] += np.where(is_there, values, 0)
                count[phase] += is_there
        if normalisation.per == "channel":
            total, count = (np.broadcast_to(part.sum((2, 3), keepdims=True), part.shape) for part in (total, count))
        return total, count

    total, count = sums(lambda frame, _: frame.astype(np.float64))
    usual = _ratio(total.sum(0), count.sum(0), _per_channel(total) / _per_channel(count))
    mean = _ratio(total, count, usual).astype(np.float32)
    total, count = (part.sum(0) for part in sums(lambda frame, phase: np.square(frame - mean[phase], dtype=np.float64)))
    channel_variance = _per_channel(total) / _per_channel(count)
    if not channel_variance.all():
        raise UserError(
            f"params.yaml: datasets.{meta.dataset}.period = {meta.period}: there are {is_train.sum()} training frames, "
            "none of which differs from another at its time of the period; choose a shorter one or none"
        )
    variance = _ratio(total, count, channel_variance)
    std = np.sqrt(np.maximum(variance, normalisation.floor**2 * channel_variance))
    return mean, std.astype(np.float32)


def _per_channel(values: Float[np.ndarray, "*phase channel y x"]) -> Float[np.ndarray, "channel 1 1"]:
    """Sum over all but the channels."""
    return values.reshape(-1, *values.shape[-3:]).sum((0, 2, 3))[:, None, None]


def _ratio(total: np.ndarray, count: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)
