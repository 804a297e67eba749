"""Gridded data of the user's: NetCDF, Zarr or GRIB, whatever xarray opens, or plain arrays in HDF5 or NumPy files."""

import difflib
import glob
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from s2kd.params import FileSource
from s2kd.sources import arrays, plain
from s2kd.stage import UserError

if TYPE_CHECKING:
    import dask.array as da

# How a coordinate says which way its dimension runs: attributes (https://cfconventions.org, chapter 4), else its name.
CF = {
    "time": {"standard_name": {"time"}, "axis": {"T"}},
    "y": {"standard_name": {"latitude", "projection_y_coordinate"}, "axis": {"Y"}, "units": {"degrees_north"}},
    "x": {"standard_name": {"longitude", "projection_x_coordinate"}, "axis": {"X"}, "units": {"degrees_east"}},
}
NAMES = {"time": {"time", "valid_time"}, "y": {"y", "latitude", "lat"}, "x": {"x", "longitude", "lon"}}
GLOBE = {
    "y": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "x": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
}
CELLS = {"y": {"long_name": "row", "units": "1"}, "x": {"long_name": "column", "units": "1"}}
UNITS = {"degK": "K", "deg_K": "K", "kelvin": "K", "Kelvin": "K"}  # how older files spell it
GRIB = {".grib", ".grib2", ".grb", ".grb2"}
NOMINAL = pd.Timestamp("2000-01-01")  # where stamps that only count steps begin
SAME = 1e-4  # the most by which the coordinates of one grid differ between files


def load(source: FileSource) -> xr.Dataset:
    """Open the variables as the channels of one array, in the order given; frames are read when they are computed.

    The path is a file, a Zarr folder or a pattern such as ``data/*.nc``, whose files hold successive times, different
    variables or both, on one grid. Rows and columns stay in the file's order; the coordinates y and x say which way
    they run. They hold degrees where the file gives one latitude a row and one longitude a column, else the number of
    the cell. Frames may be missing in between. A unit or long name that the file lacks is the empty string.

    Plain arrays (``.npy``, ``.npz``, ``.h5``, ``.hdf5``, ``.mat`` of MATLAB v7.3) are (time, y, x) or
    (time, channel, y, x), in a ``.mat`` as MATLAB shows them. ``start`` and ``step_minutes`` date them; without
    ``start`` the stamps only count steps. The variables name the data sets, of which one with C > 1 channels becomes
    ``<name>_0`` to ``<name>_<C-1>``; in a ``.npy``, which has no names, they name the channels. Files of a pattern
    follow each other in the order of their names, the numbers in them by value.

    Returns:
        ``frames`` (time, channel, y, x), float32, lazy; missing values are NaN.

    Raises:
        UserError: a file cannot be read, a variable is missing or has other dimensions than time, row and column,
            two variables or files differ in grid or units, times do not increase.
    """
    paths = _paths(source.path)
    kinds = {path.suffix.lower(): path for path in paths}
    if not kinds.keys() & plain.SUFFIXES:
        return _load_gridded(source, paths)
    if len(kinds) > 1:
        one, other, *_ = kinds.values()
        raise UserError(f"{source.path} matches files of two kinds, such as {one} and {other}; name one kind")
    return _load_plain(source, paths)


def _paths(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    found = sorted(glob.glob(pattern, recursive=True), key=_with_numbers)
    if not found:
        raise UserError(f"no file matches {pattern}; put the files there or correct source.path in params.yaml")
    return [Path(path) for path in found]


def _with_numbers(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _load_plain(source: FileSource, paths: list[Path]) -> xr.Dataset:
    if source.step_minutes is None:
        raise UserError(
            f"{source.path} has no times; give source.step_minutes in params.yaml, and source.start unless the stamps "
            "are only to count steps"
        )
    record = plain.open_record(source, paths)
    n_frames, _, height, width = record.frames.shape
    times = pd.date_range(
        NOMINAL if source.start is None else pd.Timestamp(source.start),
        periods=n_frames,
        freq=pd.Timedelta(minutes=source.step_minutes),
    )
    y, x = (np.arange(n, dtype=np.float64) for n in (height, width))
    data = _dataset(source, record.frames, times, record.channels, record.units, record.long_names, y, x, CELLS)
    return data.assign_attrs(nominal_time=1) if source.start is None else data


def _load_gridded(source: FileSource, paths: list[Path]) -> xr.Dataset:
    if not (source.start is None and source.step_minutes is None):
        raise UserError(
            f"{source.path} has its own times; leave source.start and source.step_minutes empty in params.yaml"
        )
    return join(source, {path: open_file(path) for path in paths})


def join(source: FileSource, files: dict[Path, xr.Dataset]) -> xr.Dataset:
    """Join the variables of opened files as ``load`` does; other sources use it for files that they know."""
    series = [_series(source, files, name) for name in source.variables]
    first, times = series[0], _times(source.path, series[0])
    for array in series[1:]:
        if array.dims != first.dims or not _same_grid(array, first):
            raise UserError(
                f"{source.path}: variables {first.name!r} {first.dims} and {array.name!r} {array.dims} are "
                "on different grids; bring them to one grid beforehand"
            )
        if not _times(source.path, array).equals(times):
            raise UserError(
                f"{source.path}: variables {first.name!r} and {array.name!r} hold different times, {len(times)} and "
                f"{array.shape[0]} of them; bring files of the same times"
            )
    y, x = (_degrees(first, dim, role) for dim, role in zip(first.dims[1:], "yx", strict=True))
    attrs = CELLS if y is None or x is None else GLOBE
    if attrs is CELLS:
        y, x = (np.arange(n, dtype=np.float64) for n in first.shape[1:])
    import dask.array as da

    frames = da.stack([array.data for array in series], axis=1)
    units = [_unit(array) for array in series]
    long_names = [str(array.attrs.get("long_name", "")) for array in series]
    return _dataset(source, frames, times, list(source.variables), units, long_names, y, x, attrs)


def _dataset(
    source: FileSource,
    frames: "da.Array",
    times: pd.DatetimeIndex,
    channels: list[str],
    units: list[str],
    long_names: list[str],
    y: np.ndarray,
    x: np.ndarray,
    attrs: dict[str, dict[str, str]],
) -> xr.Dataset:
    return xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), frames.astype(np.float32))},
        coords={
            "time": times.as_unit("ns"),
            "channel": channels,
            "units": ("channel", units),
            "long_name": ("channel", long_names),
            "y": ("y", y, attrs["y"]),
            "x": ("x", x, attrs["x"]),
        },
        attrs={"source": Path(source.path).name, "license": source.licence, "references": source.citation},
    )


def open_file(path: Path) -> xr.Dataset:
    """Open a NetCDF or GRIB file or a Zarr folder; nothing but names, coordinates and attributes is read."""
    if not path.exists():
        raise UserError(f"{path} is missing; put the file there or correct source.path in params.yaml")
    options: dict = {}
    if path.is_dir():  # xarray itself knows a Zarr folder by its suffix only
        options = {"engine": "zarr", "consolidated": False}
    elif path.suffix in GRIB:
        options = {"indexpath": ""}  # no index file beside the user's
    try:
        # Absolute: a worker of a cluster may run elsewhere.
        return xr.open_dataset(path.absolute(), decode_timedelta=False, chunks=None, cache=False, **options)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as NetCDF, Zarr or GRIB: {error}") from None


def _series(source: FileSource, files: dict[Path, xr.Dataset], name: str) -> xr.DataArray:
    """Return one variable, of one or several files, as (time, row, column); its dimensions keep their names."""
    found = {path: data for path, data in files.items() if name in data.data_vars}
    if not found:
        known = list(dict.fromkeys(str(variable) for data in files.values() for variable in data.data_vars))
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise UserError(
            f"{source.path} has no variable {name!r}{f'; did you mean {close[0]!r}?' if close else ''}; "
            f"it has: {', '.join(known) or 'none'}"
            + (
                " (of a GRIB file only what shares the first variable's level: convert others to NetCDF)"
                if next(iter(files)).suffix in GRIB
                else ""
            )
        )
    parts = [
        (path, array, _times(path, array)) for path, array in ((p, _channel(p, d[name])) for p, d in found.items())
    ]
    parts.sort(key=lambda part: part[2][0])
    for (path, array, times), (next_path, next_array, next_times) in pairwise(parts):
        both = f"{path} and {next_path}"
        if array.dims != next_array.dims or not _same_grid(array, next_array):
            raise UserError(
                f"{both} are on different grids: {name!r} is {dict(array.sizes)} and {dict(next_array.sizes)}, or its "
                "coordinates differ; bring them to one grid beforehand"
            )
        if _unit(array) != _unit(next_array):
            raise UserError(
                f"{both} have mixed units: {name!r} is in {_unit(array)!r} and {_unit(next_array)!r}; convert one "
                "beforehand"
            )
        if not next_times[0] > times[-1]:
            raise UserError(
                f"{both} overlap in time: {name!r} runs to {times[-1]} in the first and from {next_times[0]} in the "
                "second; drop the duplicates beforehand, or name fewer files"
            )
    first = parts[0][1]
    if len(parts) == 1:
        return first
    arrays_ = [array for _, array, _ in parts]
    return xr.concat(
        arrays_, first.dims[0], join="override", coords="minimal", compat="override", combine_attrs="override"
    )


def _channel(path: Path, variable: xr.DataArray) -> xr.DataArray:
    """Return a variable lazily, transposed to time, row and column, in chunks that are whole chunks of its file."""
    array, name = variable, variable.name
    dims = [_dimension(array, role) for role in ("time", "y", "x")]
    others = [dim for dim in array.dims if dim not in dims]
    array = array.squeeze([dim for dim in others if array.sizes[dim] == 1], drop=True)
    if None in dims or array.ndim != len(dims):
        raise UserError(
            f"{path}: variable {name!r} has dimensions {dict(array.sizes)}, of which time, row, column are "
            f"{', '.join(str(dim) for dim in dims)}; it needs these three alone: select a level or member beforehand, "
            "or give the coordinates their CF attribute `axis` (T, Y, X)"
        )
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: variable {name!r} holds {array.dtype}, not numbers; choose another")
    stored = variable.encoding.get("preferred_chunks", {})
    multiple = tuple(stored[dim] if isinstance(stored.get(dim), int) else 1 for dim in array.dims)
    chunks = arrays.contiguous(array.shape, array.dtype.itemsize, multiple)
    return array.chunk(dict(zip(array.dims, chunks, strict=True))).transpose(*dims)


def _unit(array: xr.DataArray) -> str:
    unit = str(array.attrs.get("units", ""))
    return UNITS.get(unit, unit)


def _same_grid(one: xr.DataArray, other: xr.DataArray) -> bool:
    """Whether rows and columns, and their coordinates as far as there are any, agree."""
    if one.shape[1:] != other.shape[1:]:
        return False
    for dim in one.dims[1:]:
        pair = [array.coords[dim].to_numpy() for array in (one, other) if dim in array.coords]
        if len(pair) == 2 and not (
            np.allclose(*pair, rtol=0, atol=SAME) if pair[0].dtype.kind in "fiu" else np.array_equal(*pair)
        ):
            return False
    return True


def _along(array: xr.DataArray, dim: str) -> list[xr.DataArray]:
    return [coordinate for coordinate in array.coords.values() if coordinate.dims == (dim,)]


def _dimension(array: xr.DataArray, role: str) -> str | None:
    """Find the dimension that is time, y or x: by the attributes of its coordinates, else by name."""
    for dim in array.dims:
        for coordinate in _along(array, dim):
            if any(coordinate.attrs.get(key) in values for key, values in CF[role].items()):
                return dim
    for dim in array.dims:
        if any(name.lower() in NAMES[role] for name in (dim, *(coordinate.name for coordinate in _along(array, dim)))):
            return dim
    return None


def _degrees(array: xr.DataArray, dim: str, role: str) -> np.ndarray | None:
    """Return the latitudes or longitudes along a dimension, or None if the file gives none."""
    globe = GLOBE[role]
    for coordinate in _along(array, dim):
        if any(
            coordinate.attrs.get(key) == globe[key] for key in ("standard_name", "units")
        ) or coordinate.name.lower() in NAMES[role] - {role}:
            return coordinate.to_numpy().astype(np.float64)
    return None


def _times(path: Path | str, array: xr.DataArray) -> pd.DatetimeIndex:
    dim = array.dims[0]
    # Of a forecast's two times the one that the values are valid at.
    coordinates = sorted(_along(array, dim), key=lambda coordinate: coordinate.name != "valid_time")
    stamps = next((coordinate for coordinate in coordinates if coordinate.dtype.kind == "M"), None)
    if stamps is None:
        raise UserError(
            f"{path}: dimension {dim!r} has no dates of the standard calendar; give its coordinate CF units "
            "such as 'hours since 2000-01-01', or convert it with xarray's convert_calendar('standard')"
        )
    times = pd.DatetimeIndex(stamps.to_numpy())
    wrong = np.flatnonzero(~(times[1:] > times[:-1]))  # NaT as well
    if len(wrong):
        before, after = times[wrong[0]], times[wrong[0] + 1]
        what = "twice" if before == after else "out of order"
        raise UserError(
            f"{path}: {len(wrong)} times are not later than the one before; first {after} after {before} "
            f"({what}, frame {wrong[0] + 1}); sort by {dim!r} and drop duplicates beforehand"
        )
    return times.rename("time")
