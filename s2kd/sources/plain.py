"""Arrays without coordinates, from HDF5 and NumPy files, as the frames of one record."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2kd.params import FileSource
from s2kd.sources import arrays
from s2kd.stage import UserError

if TYPE_CHECKING:
    import dask.array as da

SUFFIXES = arrays.HDF5 | arrays.NUMPY


@dataclass(frozen=True)
class Record:
    """Frames (time, channel, y, x) and what is known of each channel; the empty string where nothing is."""

    frames: "da.Array"
    channels: list[str]
    units: list[str]
    long_names: list[str]


def open_record(source: FileSource, paths: list[Path]) -> Record:
    """Open the variables of files that follow each other in time.

    Raises:
        UserError: as of ``s2kd.sources.arrays``; an array has another rank than 3 or 4, the variables do not name the
            channels of a ``.npy`` one by one, or two arrays or files differ in grid, units or, in a file, length.
    """
    import dask.array as da

    parts = [_open(source, path) for path in paths]
    first = parts[0]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        if part.frames.shape[1:] != first.frames.shape[1:]:
            raise UserError(
                f"{paths[0]} and {path} are on different grids: their frames are (channel, y, x) = "
                f"{first.frames.shape[1:]} and {part.frames.shape[1:]}; bring them to one grid beforehand"
            )
        if part.units != first.units:
            raise UserError(
                f"{paths[0]} and {path} have mixed units: {first.units} and {part.units}; convert beforehand"
            )
    frames = da.concatenate([part.frames for part in parts])
    return Record(frames, first.channels, first.units, first.long_names)


def _open(source: FileSource, path: Path) -> Record:
    import dask.array as da

    if path.suffix.lower() == ".npy":
        frames, names = _frames(path, "the array", arrays.npy(path)), list(source.variables)
        if frames.shape[1] != len(names):
            raise UserError(
                f"{path}: the array has {frames.shape[1]} channels, and source.variables names {len(names)} "
                f"({', '.join(names)}); name each channel"
            )
        return Record(frames, names, [""] * len(names), [""] * len(names))
    opened = [_variable(path, name) for name in source.variables]
    for name, part in zip(source.variables[1:], opened[1:], strict=True):
        shapes = [(found.frames.shape[0], *found.frames.shape[2:]) for found in (opened[0], part)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path}: variables {source.variables[0]!r} and {name!r} are on different grids, of (time, y, x) = "
                f"{shapes[0]} and {shapes[1]}; bring them to one grid beforehand"
            )
    return Record(
        da.concatenate([part.frames for part in opened], axis=1),
        [name for part in opened for name in part.channels],
        [unit for part in opened for unit in part.units],
        [name for part in opened for name in part.long_names],
    )


def _variable(path: Path, name: str) -> Record:
    import dask.array as da

    suffix = path.suffix.lower()
    array, attributes = arrays.lazy(path, name), {} if suffix == ".npz" else arrays.attributes(path, name)
    frames = _frames(path, repr(name), array.T if suffix == ".mat" else array)
    if "_FillValue" in attributes:
        frames = da.where(frames == attributes["_FillValue"], np.nan, frames)
    n_channels = frames.shape[1]
    names = [name] if n_channels == 1 else [f"{name}_{channel}" for channel in range(n_channels)]
    units, long_names = ([str(attributes.get(key, ""))] * n_channels for key in ("units", "long_name"))
    return Record(frames, names, units, long_names)


def _frames(path: Path, what: str, array: "da.Array") -> "da.Array":
    if array.ndim not in (3, 4):
        raise UserError(
            f"{path}: {what} has rank {array.ndim}, shape {array.shape}; frames are (time, y, x) or "
            "(time, channel, y, x): reshape it beforehand"
        )
    return array[:, None] if array.ndim == 3 else array
