"""Write the frames of a source to disk, chunk by chunk: in bounded memory, side by side, and resumable."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from s2kd.dataset import Frames, blocks
from s2kd.stage import UserError

CHUNK_BYTES = 2**25  # of a file: few, because DVC is slow with many, and small beside the memory


def write_frames(data: xr.Dataset, segment: Int[np.ndarray, " time"], path: Path, may_miss: bool) -> None:
    """Write a Zarr v3 group whose frames are uncompressed float32, a chunk a file, as ``s2kd.dataset.Frames`` maps it.

    A chunk takes its name when it is whole, so that a second call does only what a killed one left. Dask computes as
    many chunks at a time as the machine has cores, or the cluster whose scheduler's address is in the environment
    variable ``DASK_SCHEDULER_ADDRESS``; the cluster sees the same files under the same names.

    Args:
        data: what a source's ``load`` returns.
        segment: number of the unbroken run of each frame.
        may_miss: whether NaN is allowed.

    Raises:
        UserError: a value is infinite, or NaN though it may not, or the disk is too small.
    """
    frames = data["frames"]
    n_frames = min(len(frames), max(1, CHUNK_BYTES // (4 * frames[0].size)))
    if not (path / "zarr.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        _write_layout(data, segment, n_frames, path)
    parts = {path / f"frames/c/{number}/0/0/0": slice(first, min(first + n_frames, len(frames)))
             for number, first in enumerate(range(0, len(frames), n_frames))}  # fmt: skip
    left = [part for file, part in parts.items() if not file.exists()]
    needed, free = len(left) * n_frames * 4 * frames[0].size, shutil.disk_usage(path).free
    if needed > free:
        raise UserError(
            f"{path} needs {needed / 2**30:.1f} GiB more, the disk has {free / 2**30:.1f} GiB; free some or choose "
            "fewer variables, events or years"
        )
    names = data[["time", "channel"]].assign_attrs(source=data.attrs["source"])
    with (
        _workers() as n_workers,
        tqdm(total=len(parts), initial=len(parts) - len(left), unit="chunk", disable=None) as progress,
    ):
        for first in range(0, len(left), n_workers):
            batch = left[first : first + n_workers]
            tasks = [dask.delayed(_write_chunk)(frames.data[part], path, part, names, may_miss) for part in batch]
            try:
                dask.compute(tasks)
            except RuntimeError as error:  # netCDF4's, of a damaged file
                raise UserError(f"{data.attrs['source']} cannot be read: {error}; fetch it again") from None
            progress.update(len(batch))


@contextlib.contextmanager
def _workers() -> Iterator[int]:
    """Number of chunks that Dask can compute at a time: in threads, or on the cluster in the environment."""
    if "DASK_SCHEDULER_ADDRESS" not in os.environ:
        yield os.cpu_count() or 1
        return
    from distributed import Client

    # Fused, overlapping slices of one array may get one name and crash the scheduler (dask/dask#9888).
    with (
        dask.config.set({"optimization.fuse.active": False}),
        Client(os.environ["DASK_SCHEDULER_ADDRESS"]) as client,  # computes from now on
    ):
        yield sum(client.nthreads().values())


def fill_missing(path: Path, is_train: Bool[np.ndarray, " time"]) -> None:
    """Give each NaN the mean of its cell over the training frames, or of its channel where the cell has none."""
    frames = Frames(path)
    total, count = np.zeros((2, *frames.shape[1:]))
    for part, block in blocks(frames):
        total += np.nansum(block[is_train[part]], axis=0, dtype=np.float64)
        count += (~np.isnan(block[is_train[part]])).sum(axis=0)
    usual = total.sum((1, 2), keepdims=True) / count.sum((1, 2), keepdims=True)
    mean = np.where(count > 0, total / np.maximum(count, 1), usual).astype(np.float32)
    array = _open(path)
    for first in range(0, len(frames), array.chunks[0]):
        chunk = frames[first : first + array.chunks[0]]
        if np.isnan(chunk).any():
            array[first : first + array.chunks[0]] = np.where(np.isnan(chunk), mean, chunk)


def _open(path: Path) -> zarr.Array:
    # A chunk of zeros is a file as well.
    return zarr.open_array(path / "frames", mode="r+").with_config({"write_empty_chunks": True})


def _write_layout(data: xr.Dataset, segment: Int[np.ndarray, " time"], n_frames: int, path: Path) -> None:
    """Everything but the frames themselves; ``zarr.json`` of the group takes its name last."""
    # Zarr v3 has no type for text of fixed width; as objects it becomes text of any length.
    text = {
        name: (array.dims, array.values.astype(object))
        for name, array in data.coords.items()
        if array.dtype.kind == "U"
    }
    rest = data.assign_coords(text).assign(segment=("time", segment))
    shape = rest["frames"].shape
    chunks = (n_frames, *shape[1:])
    encoding = {"frames": {"chunks": chunks, "compressors": None, "dtype": "float32", "_FillValue": None}}
    temporary = path.with_name(f"{path.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    empty = rest["frames"].copy(data=dask.array.zeros(shape, chunks=chunks, dtype=np.float32))
    rest.assign(frames=empty).to_zarr(
        temporary, mode="w-", zarr_format=3, consolidated=False, compute=False, encoding=encoding
    )
    temporary.rename(path)


def _write_chunk(
    block: Float[np.ndarray, "time channel y x"], path: Path, part: slice, names: xr.Dataset, may_miss: bool
) -> None:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported
        block = np.asarray(block).astype(np.float32, copy=False)
    wrong = np.isinf(block) if may_miss else ~np.isfinite(block)
    if n_wrong := int(wrong.sum()):
        time, channel, row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        advice = "" if may_miss else " or set missing to fill or mask in params.yaml"
        raise UserError(
            f"{names.attrs['source']}: {n_wrong} of {block.size} values are not finite; first "
            f"{str(names['channel'].values[channel])!r} at {pd.Timestamp(names['time'].values[part][time])}, "
            f"row {row}, column {column} = {block[time, channel, row, column]}; cut the grid or the record "
            f"beforehand{advice}"
        )
    _open(path)[part] = block
