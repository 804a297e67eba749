"""ERA5 on the grids of WeatherBench: from WeatherBench 2, from ARCO-ERA5 regridded, or from WeatherBench 1's files.

============= ==== =============================== ===========================================================
edition       step resolutions                     values
============= ==== =============================== ===========================================================
weatherbench2 6 h  5.625deg                        means over cells, regridded by its authors; from a bucket
arco_era5     1 h  5.625deg, 2.8125deg, 1.40625deg means over cells, regridded here from 0.25 deg; from a bucket
weatherbench1 1 h  5.625deg, 2.8125deg, 1.40625deg interpolated at centres; files on disk (its server is gone)
============= ==== =============================== ===========================================================

A grid is the same in each: rows from south to north without the poles, columns from the meridian 0 on.
"""

import difflib
from collections.abc import Container
from pathlib import Path

import numpy as np
import xarray as xr

from s2kd.params import FileSource, WeatherBenchSource
from s2kd.sources import file
from s2kd.sources.fetch import cache_folder
from s2kd.sources.regridding import equiangular
from s2kd.sources.stores import open_store, regridded
from s2kd.stage import UserError

STORES = {
    "weatherbench2": "gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr",
    "arco_era5": "gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3",
}
RESOLUTIONS = {
    "weatherbench2": ("5.625deg",),
    "arco_era5": ("5.625deg", "2.8125deg", "1.40625deg"),
    "weatherbench1": ("5.625deg", "2.8125deg", "1.40625deg"),
}
# Names that WeatherBench 1 introduced, and the names of its folders and of the variables of the two stores.
SURFACE = {
    "t2m": "2m_temperature",
    "u10": "10m_u_component_of_wind",
    "v10": "10m_v_component_of_wind",
    "tcc": "total_cloud_cover",
    "tp": "total_precipitation",
    "tisr": "toa_incident_solar_radiation",
}
PRESSURE = {
    "z": "geopotential",
    "t": "temperature",
    "q": "specific_humidity",
    "r": "relative_humidity",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
    "vo": "vorticity",
    "pv": "potential_vorticity",
}
OWNERS = {  # of what some edition lacks
    "total_precipitation": "arco_era5 or weatherbench1 (weatherbench2 has total_precipitation_6hr)",
    "relative_humidity": "weatherbench1",
    "vorticity": "weatherbench1",
}
LEVELS = "weatherbench1 and weatherbench2 have 13 levels, arco_era5 has 37"

LICENCE = "CC-BY 4.0; contains modified Copernicus Climate Change Service information"
CITATIONS = {
    "weatherbench2": "Rasp et al. (2024), WeatherBench 2, JAMES 16, e2023MS004019",
    "arco_era5": "Carver and Merose (2023), ARCO-ERA5, https://github.com/google-research/arco-era5",
    "weatherbench1": "Rasp et al. (2020), WeatherBench, JAMES 12, e2020MS002203",
}
ERA5 = "Hersbach et al. (2020), The ERA5 global reanalysis, QJRMS 146, 1999-2049"


def load(source: WeatherBenchSource) -> xr.Dataset:
    """Open the variables as channels, in the order given; frames are read when they are computed.

    A variable is named as in WeatherBench 1, with the pressure in hPa where it has levels (``t2m``, ``z_500``), or by
    its long name (``mean_sea_level_pressure``, ``geopotential_500``).

    Args:
        source: with a ``path``, a copy on disk: of the Zarr store, or for ``weatherbench1`` the folder that holds
            ``<resolution>/<variable>/<variable>_<year>_<resolution>.nc`` or the folders of the variables themselves.

    Raises:
        UserError: the edition lacks the resolution, a variable, a level or a year (the message names one that has it);
            a file is missing or the store cannot be reached.
    """
    if source.resolution not in RESOLUTIONS[source.edition]:
        owners = [edition for edition, resolutions in RESOLUTIONS.items() if source.resolution in resolutions]
        raise UserError(
            f"params.yaml: edition {source.edition} has no {source.resolution}, but {RESOLUTIONS[source.edition][0]}; "
            f"choose edition {' or '.join(owners)}"
        )
    open_ = {"weatherbench2": _weatherbench2, "arco_era5": _arco_era5, "weatherbench1": _weatherbench1}[source.edition]
    data = open_(source)
    expected = tuple(len(centres) for centres in equiangular(_degrees(source)))
    if data["frames"].shape[2:] != expected:
        raise UserError(
            f"{_location(source)} is on a grid of {data['frames'].shape[2:]} cells, {source.resolution} has "
            f"{expected}; correct source.resolution or source.path in params.yaml"
        )
    found = data.indexes["time"].year[[0, -1]]
    if tuple(found) != source.years:
        raise UserError(
            f"{_location(source)} has only the years {found[0]} to {found[1]} of {source.years[0]} to "
            f"{source.years[1]}; "
            "correct source.years in params.yaml"
        )
    title = f"{source.edition} {source.resolution}"
    references = f"{ERA5}; {CITATIONS[source.edition]}"
    return data.assign_attrs(source=title, license=LICENCE, references=references)


def _degrees(source: WeatherBenchSource) -> float:
    return float(source.resolution.removesuffix("deg"))


def _location(source: WeatherBenchSource) -> str:
    return source.path or STORES[source.edition]


# --- editions ----------------------------------------------------------------------------------------------------


def _weatherbench2(source: WeatherBenchSource) -> xr.Dataset:
    store = _in_years(_open(source), source)
    return _join(source, {Path(_location(source)): {name: _select(store, name, source) for name in source.variables}})


def _weatherbench1(source: WeatherBenchSource) -> xr.Dataset:
    if not source.path:
        raise UserError(
            "params.yaml: edition weatherbench1 needs source.path, because its server is gone; put its files on disk, "
            "or choose edition arco_era5, which is hourly as well"
        )
    files: dict[Path, dict[str, xr.DataArray]] = {}
    for name in source.variables:
        for path in _files(source, name):
            long_name, _ = _parse(name, ())
            data = file.open_file(path)
            short = name if name in data.data_vars else name.rpartition("_")[0]
            if short not in data.data_vars and len(data.data_vars) == 1:
                short = next(iter(data.data_vars))
            renamed = data.rename({short: long_name}) if short in data.data_vars else data
            files.setdefault(path, {})[name] = _select(renamed, name, source)
    return _join(source, files)


def _arco_era5(source: WeatherBenchSource) -> xr.Dataset:
    import dask.array as da

    location = _location(source)
    store = _open(source)
    first_hour, last_hour = (store.attrs.get(f"valid_time_{end}") for end in ("start", "stop"))
    store = _in_years(store.sel(time=slice(first_hour, last_hour)), source)  # outside, all values are missing
    times = store.indexes["time"]
    if not (np.diff(times) == np.timedelta64(1, "h")).all():
        raise UserError(f"{location} is not hourly from {times[0]} to {times[-1]}; take a copy without gaps")
    selected = {name: _select(store, name, source) for name in source.variables}
    cache = None if source.path else cache_folder() / "weatherbench" / f"arco_era5_{source.resolution}"
    channels = [
        regridded(location, *_parse(name, store.data_vars), times, _degrees(source), cache) for name in selected
    ]
    y, x = equiangular(_degrees(source))
    units, long_names = ([array.attrs[key] for array in selected.values()] for key in ("units", "long_name"))
    return xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), da.stack(channels, axis=1))},
        coords={
            "time": times.as_unit("ns"),
            "channel": list(source.variables),
            "units": ("channel", units),
            "long_name": ("channel", long_names),
            "y": ("y", y, file.GLOBE["y"]),
            "x": ("x", x, file.GLOBE["x"]),
        },
    )


def _open(source: WeatherBenchSource) -> xr.Dataset:
    store = open_store(_location(source))
    dims = {"time", "latitude", "longitude"}
    if not dims <= store.sizes.keys() or store["time"].dtype.kind != "M":
        raise UserError(
            f"{_location(source)} is no store of {source.edition}: it needs dates along 'time', 'latitude' and "
            f"'longitude', and has the dimensions {dict(store.sizes)}; correct source.path in params.yaml"
        )
    return store


def _join(source: WeatherBenchSource, files: dict[Path, dict[str, xr.DataArray]]) -> xr.Dataset:
    label = FileSource(
        name="file", path=_location(source), variables=source.variables, start=None, step_minutes=None,
        licence=LICENCE, citation=ERA5,
    )  # fmt: skip
    return file.join(label, {path: xr.Dataset(channels) for path, channels in files.items()})


# --- names, levels, years, files ---------------------------------------------------------------------------------


def _parse(name: str, known: Container[str]) -> tuple[str, int | None]:
    """Return the long name of a variable and its level in hPa."""
    if name in known or name in SURFACE:
        return SURFACE.get(name, name), None
    stem, _, level = name.rpartition("_")
    if stem and level.isdecimal():
        return PRESSURE.get(stem, stem), int(level)
    return PRESSURE.get(name, name), None


def _select(data: xr.Dataset, name: str, source: WeatherBenchSource) -> xr.DataArray:
    """Return one channel without its level; unit and long name are texts."""
    long_name, level = _parse(name, data.data_vars)
    where = f"edition {source.edition} ({_location(source)})"
    if long_name not in data.data_vars:
        close = difflib.get_close_matches(long_name, [str(variable) for variable in data.data_vars], n=3, cutoff=0.5)
        hint = f"; near it: {', '.join(close)}" if close else ""
        if long_name in OWNERS:
            hint = f"; choose edition {OWNERS[long_name]}"
        raise UserError(f"{where} has no variable {long_name!r}, asked for as {name!r}{hint}")
    array = data[long_name]
    text = {"units": str(array.attrs.get("units", "")), "long_name": str(array.attrs.get("long_name", long_name))}
    if level is None and "level" not in array.dims:
        return array.assign_attrs(text)
    levels = np.atleast_1d(array["level"].to_numpy()).astype(int).tolist() if "level" in array.coords else []
    if not levels:
        raise UserError(f"{where}: {long_name!r} has no levels; name it without {level}")
    if level not in levels:
        raise UserError(
            f"{where}: {name!r} is at none of the levels {levels} hPa; name it as in '{name.removesuffix(f'_{level}')}_"
            f"{levels[-1]}'; {LEVELS}"
        )
    array = array.sel(level=level, drop=True) if "level" in array.dims else array.drop_vars("level")
    return array.assign_attrs(text | {"long_name": f"{text['long_name']} at {level} hPa"})


def _in_years(data: xr.Dataset, source: WeatherBenchSource) -> xr.Dataset:
    first, last = source.years
    chosen = data.sel(time=slice(str(first), str(last)))
    if not chosen.sizes["time"]:
        times = data.indexes["time"]
        raise UserError(
            f"{_location(source)} has the years {times[0].year} to {times[-1].year}, not {first} to {last}; correct "
            "source.years in params.yaml"
        )
    return chosen


def _files(source: WeatherBenchSource, name: str) -> list[Path]:
    """The yearly files of a variable; of one level they may be in a folder of their own (``geopotential_500``)."""
    long_name, level = _parse(name, ())
    root = Path(source.path)
    names = [long_name] if level is None else [f"{long_name}_{level}", long_name]
    folders = [parent / folder for parent in (root / source.resolution, root) for folder in names]
    years = range(source.years[0], source.years[1] + 1)
    for folder in folders:
        if not folder.is_dir():
            continue
        found = {year: sorted(folder.glob(f"{long_name}*_{year}_{source.resolution}.nc")) for year in years}
        missing = [str(year) for year in years if not found[year]]
        if missing:
            raise UserError(
                f"{folder} lacks {long_name}_<year>_{source.resolution}.nc of the year {', '.join(missing)}; put the "
                "files there or correct source.years in params.yaml"
            )
        return [found[year][0] for year in years]
    raise UserError(
        f"{root} has no folder for {name!r}: none of {', '.join(str(folder.relative_to(root)) for folder in folders)}; "
        "put it there or correct source.path in params.yaml"
    )
