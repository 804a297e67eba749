"""NCEP/NCAR Reanalysis 1, six-hourly from 1948: two years of North America, or the globe by year and variable.

``tutorial`` is the file of ``xarray.tutorial.open_dataset("air_temperature")``: 2013 and 2014, 15 to 75 degrees north,
200 to 330 degrees east. ``full`` are the yearly files of NOAA PSL on 73 x 144 cells of 2.5 degrees, some 20 MB each at
the surface and 300 MB on 17 pressure levels. The file of a year that is not over grows, and then differs from the
checksum first recorded: use years that are closed.
"""

from pathlib import Path

import xarray as xr

from s2kd.params import FileSource, NcepSource
from s2kd.sources import file
from s2kd.sources.fetch import cache_folder, fetch
from s2kd.stage import UserError

TUTORIAL = "https://github.com/pydata/xarray-data/raw/master/air_temperature.nc"
MD5 = "md5:de5b9d45db48cf6b7034de1a4a6d6c98"
FULL = "https://downloads.psl.noaa.gov/Datasets/ncep.reanalysis"
# Names of the variables, and of their files at the surface.
SURFACE = {
    "air": "air.sig995",
    "lftx": "lftx.sfc",
    "lftx4": "lftx4.sfc",
    "omega": "omega.sig995",
    "pottmp": "pottmp.sig995",
    "pr_wtr": "pr_wtr.eatm",
    "pres": "pres.sfc",
    "rhum": "rhum.sig995",
    "slp": "slp",
    "uwnd": "uwnd.sig995",
    "vwnd": "vwnd.sig995",
}
PRESSURE = ("air", "hgt", "omega", "rhum", "shum", "uwnd", "vwnd")

LICENCE = "public domain (US government)"  # NOAA PSL asks for credit
CITATION = "Kalnay et al. (1996), BAMS 77, 437-471"


def load(source: NcepSource) -> xr.Dataset:
    """Open the variables as channels, in the order given; frames are read when they are computed.

    A variable is named as in its file, with the pressure in hPa where it has levels: ``air`` at the surface,
    ``hgt_500``. Rows run from north to south.

    Args:
        source: with a ``path``, a copy on disk: of the tutorial's file, or for ``full`` the folder of PSL's files,
            which may be in its subfolders ``surface`` and ``pressure``.

    Raises:
        UserError: the edition lacks a variable, a level or a year; a file is missing or cannot be fetched.
    """
    label = FileSource(
        name="file", path=source.path or {"tutorial": TUTORIAL, "full": FULL}[source.edition],
        variables=source.variables, start=None, step_minutes=None, licence=LICENCE, citation=CITATION,
    )  # fmt: skip
    if source.edition == "tutorial":
        data = file.join(label, {path: file.open_file(path) for path in [_tutorial(source)]})
    else:
        data = file.join(label, _full(source))
    first, last = source.years
    chosen = data.sel(time=slice(str(first), str(last)))
    years = data.indexes["time"].year
    if not (years[0] <= first and last <= years[-1]):
        raise UserError(
            f"{label.path} has the years {years[0]} to {years[-1]}, not all of {first} to {last}; correct source.years "
            "in params.yaml, or choose edition full, which has every year from 1948"
        )
    return chosen.assign_attrs(source=f"NCEP/NCAR reanalysis 1, {source.edition} edition")


def _tutorial(source: NcepSource) -> Path:
    if wrong := [name for name in source.variables if name != "air"]:
        raise UserError(
            f"params.yaml: edition tutorial has the variable 'air' alone, not {', '.join(map(repr, wrong))}; choose "
            "edition full"
        )
    if source.path:
        return Path(source.path)
    name = "air_temperature.nc"
    return fetch({name: TUTORIAL}, cache_folder() / "ncep", {name: MD5})[name]


def _full(source: NcepSource) -> dict[Path, xr.Dataset]:
    """The channels in each file."""
    wanted: dict[str, list[str]] = {}  # file by file
    for name in source.variables:
        for year in range(source.years[0], source.years[1] + 1):
            wanted.setdefault(f"{_stem(name)}.{year}.nc", []).append(name)
    if source.path:
        paths = {name: _on_disk(Path(source.path), name) for name in wanted}
    else:
        paths = fetch({name: f"{FULL}/{name}" for name in wanted}, cache_folder() / "ncep")
    files = {}
    for name, channels in wanted.items():
        data = file.open_file(paths[name])
        files[paths[name]] = xr.Dataset({channel: _select(paths[name], data, channel) for channel in channels})
    return files


def _on_disk(folder: Path, name: str) -> Path:
    flat = folder / Path(name).name
    return flat if flat.exists() and not (folder / name).exists() else folder / name


def _parse(name: str) -> tuple[str, int | None]:
    variable, _, level = name.rpartition("_")
    return (variable, int(level)) if variable and level.isdecimal() else (name, None)


def _stem(name: str) -> str:
    """The file of a channel, without year, as a path below the root of the server."""
    variable, level = _parse(name)
    if level is not None and variable in PRESSURE:
        return f"pressure/{variable}"
    if level is None and variable in SURFACE:
        return f"surface/{SURFACE[variable]}"
    raise UserError(
        f"params.yaml: {name!r} is no variable of NCEP/NCAR reanalysis 1; at the surface there are "
        f"{', '.join(SURFACE)}, on pressure levels {', '.join(f'{known}_500' for known in PRESSURE)} and so on"
    )


def _select(path: Path, data: xr.Dataset, name: str) -> xr.DataArray:
    variable, level = _parse(name)
    if variable not in data.data_vars:
        raise UserError(
            f"{path} has no variable {variable!r}, but {', '.join(map(str, data.data_vars))}; fetch it again"
        )
    array = data[variable]
    if level is None:
        return array
    levels = data["level"].to_numpy().astype(int).tolist() if "level" in data else []
    if level not in levels:
        raise UserError(
            f"{path}: {name!r} is at none of the levels {levels} hPa; correct source.variables in params.yaml"
        )
    long_name = array.attrs.get("long_name", variable)
    return array.sel(level=level, drop=True).assign_attrs(long_name=f"{long_name} at {level} hPa")
