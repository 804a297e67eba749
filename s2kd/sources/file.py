"""Gridded data from one file of the user's: NetCDF, Zarr or GRIB, whatever xarray opens."""

import difflib
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float32

from s2kd.params import FileSource
from s2kd.stage import UserError

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


def load(source: FileSource) -> xr.Dataset:
    """Read the variables as the channels of one array, in the order given.

    Rows and columns stay in the file's order; the coordinates y and x say which way they run. They hold degrees where
    the file gives one latitude a row and one longitude a column, else the number of the cell. Frames may be missing
    in between. A unit or long name that the file lacks is the empty string.

    Returns:
        ``frames`` (time, channel, y, x), float32.

    Raises:
        UserError: the file cannot be read, a variable is missing or has other dimensions than time, row and column,
            two variables are on different grids, times do not increase, a value is not finite.
    """
    with _open(source) as data:
        arrays = [_channel(source, data, name) for name in source.variables]
        for array in arrays[1:]:
            if array.dims != arrays[0].dims:
                raise UserError(
                    f"{source.path}: variables {arrays[0].name!r} {arrays[0].dims} and {array.name!r} {array.dims} are "
                    "on different grids; bring them to one grid beforehand"
                )
        times = _times(source, arrays[0])
        frames = np.stack([array.to_numpy().astype(np.float32) for array in arrays], axis=1)
        _check_finite(source, frames, times)
        y, x = (_degrees(arrays[0], dim, role) for dim, role in zip(arrays[0].dims[1:], "yx", strict=True))
        attrs = CELLS if y is None or x is None else GLOBE
        if attrs is CELLS:
            y, x = (np.arange(n, dtype=np.float64) for n in frames.shape[2:])
        units = [str(array.attrs.get("units", "")) for array in arrays]
        return xr.Dataset(
            {"frames": (("time", "channel", "y", "x"), frames)},
            coords={
                "time": times,
                "channel": list(source.variables),
                "units": ("channel", [UNITS.get(unit, unit) for unit in units]),
                "long_name": ("channel", [str(array.attrs.get("long_name", "")) for array in arrays]),
                "y": ("y", y, attrs["y"]),
                "x": ("x", x, attrs["x"]),
            },
            attrs={"source": Path(source.path).name, "license": source.licence, "references": source.citation},
        )


def _open(source: FileSource) -> xr.Dataset:
    path = Path(source.path)
    if not path.exists():
        raise UserError(f"{path} is missing; put the file there or correct source.path in params.yaml")
    options: dict = {}
    if path.is_dir():  # xarray itself knows a Zarr folder by its suffix only
        options = {"engine": "zarr", "consolidated": False}
    elif path.suffix in GRIB:
        options = {"indexpath": ""}  # no index file beside the user's
    try:
        return xr.open_dataset(path, decode_timedelta=False, **options)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as NetCDF, Zarr or GRIB: {error}") from None


def _channel(source: FileSource, data: xr.Dataset, name: str) -> xr.DataArray:
    """Return one variable, transposed to time, row and column; its dimensions keep their names."""
    if name not in data.data_vars:
        known = [str(variable) for variable in data.data_vars]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise UserError(
            f"{source.path} has no variable {name!r}{f'; did you mean {close[0]!r}?' if close else ''}; "
            f"it has: {', '.join(known) or 'none'}"
            + (
                " (of a GRIB file only what shares the first variable's level: convert others to NetCDF)"
                if Path(source.path).suffix in GRIB
                else ""
            )
        )
    array = data[name]
    dims = [_dimension(array, role) for role in ("time", "y", "x")]
    others = [dim for dim in array.dims if dim not in dims]
    array = array.squeeze([dim for dim in others if array.sizes[dim] == 1], drop=True)
    if None in dims or array.ndim != len(dims):
        raise UserError(
            f"{source.path}: variable {name!r} has dimensions {dict(array.sizes)}, of which time, row, column are "
            f"{', '.join(str(dim) for dim in dims)}; it needs these three alone: select a level or member beforehand, "
            "or give the coordinates their CF attribute `axis` (T, Y, X)"
        )
    if array.dtype.kind not in "fiub":
        raise UserError(f"{source.path}: variable {name!r} holds {array.dtype}, not numbers; choose another")
    return array.transpose(*dims)


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


def _times(source: FileSource, array: xr.DataArray) -> pd.DatetimeIndex:
    dim = array.dims[0]
    # Of a forecast's two times the one that the values are valid at.
    coordinates = sorted(_along(array, dim), key=lambda coordinate: coordinate.name != "valid_time")
    stamps = next((coordinate for coordinate in coordinates if coordinate.dtype.kind == "M"), None)
    if stamps is None:
        raise UserError(
            f"{source.path}: dimension {dim!r} has no dates of the standard calendar; give its coordinate CF units "
            "such as 'hours since 2000-01-01', or convert it with xarray's convert_calendar('standard')"
        )
    times = pd.DatetimeIndex(stamps.to_numpy())
    wrong = np.flatnonzero(~(times[1:] > times[:-1]))  # NaT as well
    if len(wrong):
        before, after = times[wrong[0]], times[wrong[0] + 1]
        what = "twice" if before == after else "out of order"
        raise UserError(
            f"{source.path}: {len(wrong)} times are not later than the one before; first {after} after {before} "
            f"({what}, frame {wrong[0] + 1}); sort by {dim!r} and drop duplicates beforehand"
        )
    return times.rename("time")


def _check_finite(source: FileSource, frames: Float32[np.ndarray, "time channel y x"], times: pd.DatetimeIndex) -> None:
    wrong = ~np.isfinite(frames)
    if n_wrong := int(wrong.sum()):
        time, channel, row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        raise UserError(
            f"{source.path}: {n_wrong} of {frames.size} values are not finite; first {source.variables[channel]!r} at "
            f"{times[time]}, row {row}, column {column} = {frames[time, channel, row, column]}; fill them or cut the "
            "grid beforehand"
        )
