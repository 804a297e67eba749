"""Regridding in closed form; ERA5 and NCEP in their publishers' layouts, of a few hours, on the full grids."""

import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pydantic import ValidationError

from s2kd.params import FileSource, NcepSource, WeatherBenchSource, load_params
from s2kd.sources import fetch, file, ncep, stores, weatherbench
from s2kd.sources.regridding import equiangular, latitude_weights, longitude_weights, regrid
from s2kd.stage import UserError
from s2kd.windows import make_windows

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT.parent / "shared/data/ncep_air_temperature_2013_2014.nc"
LEVELS = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]
LEVELS_37 = [
    1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550, 600, 650, 700,
    750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000,
]  # fmt: skip
LATITUDE, LONGITUDE = equiangular(5.625)
FINE = np.linspace(90, -90, 721), np.arange(1440) * 0.25


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of one worker process."""
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0") as client:
        yield client


# --- regridding ----------------------------------------------------------------------------------------------------


def weights(degrees: float, latitude: np.ndarray = FINE[0]) -> tuple:
    y, x = equiangular(degrees)
    return latitude_weights(latitude, y), longitude_weights(FINE[1], x)


def test_the_grids_are_those_of_weatherbench():
    assert LATITUDE[[0, 1, -1]].tolist() == [-87.1875, -81.5625, 87.1875]
    assert LONGITUDE[[0, 1, -1]].tolist() == [0, 5.625, 354.375]
    assert [tuple(map(len, equiangular(degrees))) for degrees in (2.8125, 1.40625)] == [(64, 128), (128, 256)]


@pytest.mark.parametrize("degrees", [5.625, 2.8125, 1.40625])
def test_the_mean_over_the_globe_is_conserved(degrees):
    field = np.random.default_rng(0).normal(280, 20, (721, 1440))
    bounds = np.sin(np.radians(np.concatenate([[90], 89.875 - 0.25 * np.arange(720), [-90]])))
    fine = (field.mean(axis=1) * -np.diff(bounds)).sum() / 2
    y, _ = equiangular(degrees)
    area = np.sin(np.radians(y + degrees / 2)) - np.sin(np.radians(y - degrees / 2))
    latitude, longitude = weights(degrees)
    coarse = longitude @ (latitude @ field).T  # float64, transposed
    assert (coarse.mean(axis=0) * area).sum() / 2 == pytest.approx(fine, rel=1e-13)
    np.testing.assert_allclose(latitude.sum(axis=1), 1, rtol=1e-13)
    np.testing.assert_allclose(longitude.sum(axis=1), 1, rtol=1e-13)
    assert regrid(field, latitude, longitude).dtype == np.float32
    np.testing.assert_array_equal(regrid(np.full((721, 1440), 7.25), latitude, longitude), np.float32(7.25))


def test_a_cell_is_the_mean_over_its_area():
    # Of the sine of latitude that is the mean of its values at the bounds; of the cosine of longitude the sinc.
    y, x = np.radians(LATITUDE), np.radians(LONGITUDE)
    half = np.radians(5.625 / 2)
    field = np.sin(np.radians(FINE[0]))[:, None] + np.cos(np.radians(FINE[1]))
    expected = ((np.sin(y + half) + np.sin(y - half)) / 2)[:, None] + np.cos(x) * np.sin(half) / half
    np.testing.assert_allclose(
        regrid(field, *weights(5.625)), expected, atol=4e-5
    )  # the source has steps of 0.25 degrees


def test_a_cell_counted_by_hand_across_the_seam():
    field = np.zeros((721, 1440))
    field[:, 1430] = 1  # 357.5 degrees east, in the cell from -2.8125 to 2.8125
    result = regrid(field, *weights(5.625))
    np.testing.assert_allclose(result[:, 0], 0.25 / 5.625, rtol=1e-6)
    assert not result[:, 1:].any()
    field = np.zeros((721, 1440))
    field[0] = 1  # the pole itself: half a row
    share = (1 - np.sin(np.radians(89.875))) / (1 - np.sin(np.radians(84.375)))
    np.testing.assert_allclose(regrid(field, *weights(5.625))[-1], share, rtol=1e-6)


def test_the_order_of_rows_does_not_matter():
    field = np.random.default_rng(0).normal(size=(721, 1440))
    one, other = regrid(field, *weights(5.625)), regrid(field[::-1], *weights(5.625, FINE[0][::-1]))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_missing_values_are_left_out_of_the_mean():
    field = np.where(FINE[1] < 180, 3.0, np.nan) * np.ones((721, 1))
    result = regrid(field, *weights(5.625))
    assert (result[:, 1:32] == 3).all()
    assert (result[:, [0, 32]] == 3).all()  # cells that straddle
    assert np.isnan(result[:, 33:]).all()


# --- WeatherBench: small copies in the publishers' layouts ---------------------------------------------------------


def source(edition: str, path: Path | str, *variables: str, years=(2010, 2011), resolution="5.625deg", **more: str):
    fields = {"variables": variables or ("t2m",), "years": years, "resolution": resolution}
    return WeatherBenchSource(name="weatherbench", edition=edition, path=str(path), **(fields | more))


def values(times: pd.DatetimeIndex, offset: float = 0) -> np.ndarray:
    """Another value at each hour, row and column, exact in float32: (time, latitude, longitude)."""
    hours = np.asarray((times - times[0]) / pd.Timedelta(hours=1)) % 64
    return (offset + hours[:, None, None] * 100 + LATITUDE[:, None] + LONGITUDE / 8).astype(np.float32)


def write_yearly(root: Path, folder: str, short: str, year: int, times: pd.DatetimeIndex, level=None, infix="") -> None:
    """A file of WeatherBench 1: rows from the south, coordinates without attributes, level 13 of them or a scalar."""
    dims = ("time", "level", "lat", "lon") if isinstance(level, list) else ("time", "lat", "lon")
    array = values(times)
    if isinstance(level, list):
        array = np.stack([array + hpa * 1000 for hpa in level], axis=1)
    attrs = {"units": "m**2 s**-2" if short == "z" else "K", "long_name": {"z": "Geopotential"}.get(short, "T")}
    data = xr.Dataset(
        {short: (dims, array, attrs)},
        coords={"lon": LONGITUDE, "lat": LATITUDE, "time": ("time", times, {"long_name": "time"})},
        attrs={"Conventions": "CF-1.6"},
    )
    if level is not None:
        dims = "level" if isinstance(level, list) else ()
        attrs = {"units": "millibars", "long_name": "pressure_level"}
        data = data.assign_coords(level=(dims, np.array(level, dtype=np.int32), attrs))
    encoding = {"time": {"units": "hours since 1900-01-01", "dtype": "int32"}}
    (root / folder).mkdir(parents=True, exist_ok=True)
    data.to_netcdf(root / folder / f"{folder}{infix}_{year}_5.625deg.nc", encoding=encoding)


NEW_YEAR = pd.date_range("2010-12-31 21:00", periods=7, freq="h")


@pytest.fixture(scope="module")
def yearly(tmp_path_factory) -> Path:
    """WeatherBench 1 around the new year of 2011: a surface variable, all levels, one level, by folders of 5.625deg."""
    root = tmp_path_factory.mktemp("weatherbench1")
    for year in (2010, 2011):
        times = NEW_YEAR[NEW_YEAR.year == year]
        write_yearly(root / "5.625deg", "2m_temperature", "t2m", year, times)
        write_yearly(root / "5.625deg", "geopotential", "z", year, times, LEVELS)
        write_yearly(root / "5.625deg", "temperature_850", "t", year, times, 850, "hPa")
    return root


STEPS = pd.DatetimeIndex(["2009-12-31 18:00", *pd.date_range("2010-12-30", "2012-01-01", freq="42h"), "2012-01-01"])


@pytest.fixture(scope="module")
def store_of_2(tmp_path_factory) -> Path:
    """WeatherBench 2's store: Zarr v2, longitude before latitude, rows from the south."""
    path = tmp_path_factory.mktemp("weatherbench2") / "1959-2023_01_10-6h-64x32_equiangular_conservative.zarr"
    surface = np.swapaxes(values(STEPS), 1, 2)
    stacked = np.stack([surface + hpa * 1000 for hpa in LEVELS], axis=1)
    data = xr.Dataset(
        {
            "2m_temperature": (
                ("time", "longitude", "latitude"),
                surface,
                {"long_name": "2 metre temperature", "short_name": "t2m", "units": "K"},
            ),
            "geopotential": (
                ("time", "level", "longitude", "latitude"),
                stacked,
                {"long_name": "Geopotential", "short_name": "z", "units": "m**2 s**-2"},
            ),
            "land_sea_mask": (("longitude", "latitude"), surface[0]),
            "total_precipitation_6hr": (("time", "longitude", "latitude"), surface),
        },
        coords={"time": STEPS, "level": LEVELS, "latitude": LATITUDE, "longitude": LONGITUDE},
    )
    encoding = {"time": {"units": "hours since 1959-01-01"}, "2m_temperature": {"chunks": (10, 64, 32)}}
    data.to_zarr(path, zarr_format=2, consolidated=True, encoding=encoding)
    return path


def field(hour: int) -> np.ndarray:
    """ARCO-ERA5's cells at an hour: (721, 1440)."""
    return 100 * hour + 10 * np.sin(np.radians(FINE[0]))[:, None] + np.cos(np.radians(FINE[1]))


HOURS = pd.date_range("2010-12-31 20:00", periods=34, freq="h")


def write_arco(path: Path) -> Path:
    """ARCO-ERA5's store: Zarr v2, an hour a chunk with all levels, rows from the north, empty beyond the valid time."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    names = {"time": HOURS, "latitude": FINE[0].astype(np.float32), "longitude": FINE[1].astype(np.float32)}
    for name, dims, attrs in (
        ("2m_temperature", ("time", "latitude", "longitude"), {"units": "K", "long_name": "2 metre temperature"}),
        ("geopotential", ("time", "level", "latitude", "longitude"), {"units": "m**2 s**-2"}),
    ):
        shape = tuple({"time": len(HOURS), "level": 37, "latitude": 721, "longitude": 1440}[dim] for dim in dims)
        array = group.create_array(name, shape=shape, chunks=(1, *shape[1:]), dtype="float32", fill_value=np.nan)
        array.attrs.update({"_ARRAY_DIMENSIONS": dims, **attrs})
    for hour in range(1, 31):  # 21:00 on the last day of 2010 to 02:00 on the second of 2011
        group["2m_temperature"][hour] = field(hour)
    for hour in (4, 5):
        group["geopotential"][hour, 21] = field(hour)  # 500 hPa
    since = np.asarray((HOURS - pd.Timestamp("1900-01-01")) // pd.Timedelta(hours=1), dtype=np.int64)
    coordinates = names | {"time": since, "level": np.array(LEVELS_37, dtype=np.int64)}
    for name, content in coordinates.items():
        array = group.create_array(name, shape=content.shape, dtype=content.dtype, fill_value=None)
        array[:] = content
        array.attrs["_ARRAY_DIMENSIONS"] = [name]
    group["time"].attrs.update({"units": "hours since 1900-01-01", "calendar": "proleptic_gregorian"})
    group.attrs.update({"valid_time_start": "2010-12-31T21", "valid_time_stop": "2011-01-02T02"})
    zarr.consolidate_metadata(path, zarr_format=2)
    return path


@pytest.fixture(scope="module")
def arco(tmp_path_factory) -> Path:
    return write_arco(tmp_path_factory.mktemp("arco") / "full_37-1h-0p25deg-chunk-1.zarr-v3")


def check_form(data: xr.Dataset, channels: list[str], n_frames: int) -> None:
    assert data["frames"].dims == ("time", "channel", "y", "x")
    assert data["frames"].shape == (n_frames, len(channels), 32, 64)
    assert (data["frames"].dtype, data["time"].dtype) == (np.float32, "datetime64[ns]")
    assert data["frames"].chunks  # lazy
    assert data["channel"].values.tolist() == channels
    np.testing.assert_array_equal(data["y"], LATITUDE)  # from the south, as published
    np.testing.assert_array_equal(data["x"], LONGITUDE)
    assert (data["y"].attrs, data["x"].attrs) == (file.GLOBE["y"], file.GLOBE["x"])
    assert set(data.attrs) == {"source", "license", "references"}
    assert "CC-BY 4.0" in data.attrs["license"]


def test_files_of_weatherbench_1(yearly, cluster):
    data = weatherbench.load(source("weatherbench1", yearly, "t2m", "z_500", "t_850", "geopotential_1000"))
    check_form(data, ["t2m", "z_500", "t_850", "geopotential_1000"], 7)
    assert data.indexes["time"].equals(NEW_YEAR)
    frames = cluster.compute(data["frames"].data).result()
    within = np.concatenate([values(NEW_YEAR[:3]), values(NEW_YEAR[3:])])
    for channel, offset in enumerate([0, 500_000, 0, 1_000_000]):
        np.testing.assert_array_equal(frames[:, channel], within + np.float32(offset))
    assert data["units"].values.tolist() == ["K", "m**2 s**-2", "K", "m**2 s**-2"]
    assert data["long_name"].values.tolist() == [
        "T",
        "Geopotential at 500 hPa",
        "T at 850 hPa",
        "Geopotential at 1000 hPa",
    ]
    one = weatherbench.load(source("weatherbench1", yearly / "5.625deg", "t2m", years=(2011, 2011)))
    np.testing.assert_array_equal(one["frames"][:, 0], values(NEW_YEAR[3:]))


def test_the_store_of_weatherbench_2(store_of_2, cluster):
    data = weatherbench.load(source("weatherbench2", store_of_2, "z_850", "t2m"))
    check_form(data, ["z_850", "t2m"], len(STEPS) - 2)  # without 2009 and 2012
    assert data.indexes["time"].equals(STEPS[1:-1])
    frames = cluster.compute(data["frames"].data).result()
    np.testing.assert_array_equal(frames[:, 1], values(STEPS)[1:-1])
    np.testing.assert_array_equal(frames[:, 0], values(STEPS)[1:-1] + np.float32(850_000))
    assert data["long_name"].values.tolist() == ["Geopotential at 850 hPa", "2 metre temperature"]
    assert data.attrs["source"] == "weatherbench2 5.625deg"


def test_the_store_of_arco_is_regridded(arco, cluster):
    data = weatherbench.load(source("arco_era5", arco))
    check_form(data, ["t2m"], 30)
    assert data.indexes["time"].equals(HOURS[1:31])  # the valid ones
    frames = cluster.compute(data["frames"].data).result()[:, 0]
    expected = [regrid(field(hour).astype(np.float32), *weights(5.625)) for hour in range(1, 31)]
    np.testing.assert_array_equal(frames, expected)
    part = data["frames"][22:27, 0, 3:5, ::-2].compute()  # over the border of two tasks
    np.testing.assert_array_equal(part, frames[22:27, 3:5, ::-2])
    assert data["units"].values.tolist() == ["K"]


def test_the_store_of_arco_has_levels_and_finer_grids(arco):
    data = weatherbench.load(source("arco_era5", arco, "z_500", "t2m", resolution="1.40625deg"))
    assert data["frames"].shape == (30, 2, 128, 256)
    np.testing.assert_allclose(data["y"][[0, -1]], [-89.296875, 89.296875])
    frames = data["frames"][3:5].compute().values
    expected = [regrid(field(hour).astype(np.float32), *weights(1.40625)) for hour in (4, 5)]
    np.testing.assert_array_equal(frames, np.stack([expected, expected], axis=1))
    assert np.isnan(data["frames"][7, 0].compute()).all()  # what the store lacks
    assert data["long_name"].values.tolist() == ["geopotential at 500 hPa", "2 metre temperature"]


def test_a_day_regridded_is_kept_in_the_cache(tmp_path, monkeypatch):
    path = write_arco(tmp_path / "store")
    monkeypatch.setitem(weatherbench.STORES, "arco_era5", str(path))
    monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "cache"))
    first = weatherbench.load(source("arco_era5", ""))["frames"].compute()
    days = tmp_path / "cache/weatherbench/arco_era5_5.625deg/2m_temperature"
    assert sorted(found.name for found in days.iterdir()) == ["2010-12-31T21.npy", "2011-01-01T21.npy"]
    np.save(days / "2011-01-01T21.npy", np.zeros((3, 32, 64), np.float32))  # of a store that ended earlier
    for chunk in range(1, 25):  # the hours of the first day
        (path / f"2m_temperature/{chunk}.0.0").unlink()
    again = weatherbench.load(source("arco_era5", ""))["frames"].compute()
    np.testing.assert_array_equal(again, first)


def test_reading_is_bounded_by_whole_chunks(arco, monkeypatch):
    monkeypatch.setattr(stores, "READ_BYTES", 5 * 721 * 1440 * 4)  # five hours of a surface variable
    read = []
    to_numpy = xr.DataArray.to_numpy
    monkeypatch.setattr(xr.DataArray, "to_numpy", lambda array: read.append(array.shape) or to_numpy(array))
    data = weatherbench.load(source("arco_era5", arco, "t2m", "z_500"))
    read.clear()
    data["frames"][:24, 0].compute(scheduler="synchronous")
    assert [shape[0] for shape in read if shape[1:] == (721, 1440)] == [5, 5, 5, 5, 4]
    read.clear()
    data["frames"][:24, 1].compute(scheduler="synchronous")
    assert [shape[0] for shape in read if shape[1:] == (721, 1440)] == [1] * 24


@pytest.mark.parametrize(
    ("edition", "changes", "message"),
    [
        ("weatherbench2", {"resolution": "1.40625deg"}, "no 1.40625deg, but 5.625deg; choose edition arco_era5 or w"),
        ("weatherbench2", {"variables": ("r_500",)}, "no variable 'relative_humidity', .*choose edition weatherbench1"),
        ("weatherbench2", {"variables": ("tp",)}, "no variable 'total_precipitation', .*choose edition arco_era5 or w"),
        ("weatherbench2", {"variables": ("2m_temprature",)}, "no variable '2m_temprature', .*near it: 2m_temperature$"),
        ("weatherbench2", {"variables": ("z",)}, r"'z' is at none of the levels \[50, .*as in 'z_1000'; .*5 has 37"),
        ("weatherbench2", {"variables": ("z_510",)}, r"'z_510' is at none of the levels \[50, .*as in 'z_1000'"),
        ("weatherbench2", {"variables": ("2m_temperature_500",)}, "'2m_temperature' has no levels; name it without"),
        ("weatherbench2", {"years": (1950, 1958)}, "has the years 2009 to 2012, not 1950 to 1958; correct source.y"),
        ("weatherbench2", {"years": (2010, 2013)}, "has only the years 2010 to 2012 of 2010 to 2013; correct sourc"),
        ("weatherbench2", {"path": "absent.zarr"}, "absent.zarr is missing; put the file there or correct source.path"),
        ("weatherbench1", {"path": ""}, "needs source.path, because its server is gone; .*choose edition arco_era5"),
        ("weatherbench1", {"variables": ("u10",)}, "no folder for 'u10': none of 5.625deg/10m_u_component_of_wind, "),
        ("weatherbench1", {"variables": ("t_500",)}, "no folder for 't_500': none of 5.625deg/temperature_500, "),
        ("weatherbench1", {"years": (2009, 2012)}, "lacks 2m_temperature_<year>_5.625deg.nc of the year 2009, 2012; p"),
        ("weatherbench1", {"resolution": "2.8125deg"}, "has no folder for 't2m': none of 2.8125deg/2m_temperature"),
        ("arco_era5", {"variables": ("vo_500",)}, "no variable 'vorticity', .*choose edition weatherbench1$"),
    ],
)  # fmt: skip
def test_what_an_edition_lacks_is_explained(request, edition, changes, message):
    fixture = {"weatherbench1": "yearly", "weatherbench2": "store_of_2", "arco_era5": "arco"}[edition]
    fields = {"path": str(request.getfixturevalue(fixture))} | changes
    path, variables = fields.pop("path"), fields.pop("variables", ())
    with pytest.raises(UserError, match=message):
        weatherbench.load(source(edition, path, *variables, **fields))


def test_a_level_that_a_file_is_not_at_is_refused(tmp_path):
    write_yearly(tmp_path, "temperature_500", "t", 2010, NEW_YEAR[:3], 850, "hPa")
    with pytest.raises(UserError, match=r"'t_500' is at none of the levels \[850\] hPa"):
        weatherbench.load(source("weatherbench1", tmp_path, "t_500", years=(2010, 2010)))


def test_another_grid_than_named_is_refused(tmp_path):
    write_yearly(tmp_path, "2m_temperature", "t2m", 2010, NEW_YEAR[:3])
    name = tmp_path / "2m_temperature/2m_temperature_2010_5.625deg.nc"
    name.rename(name.with_name("2m_temperature_2010_1.40625deg.nc"))
    with pytest.raises(UserError, match=r"is on a grid of \(32, 64\) cells, 1.40625deg has \(128, 256\); correct"):
        weatherbench.load(source("weatherbench1", tmp_path, years=(2010, 2010), resolution="1.40625deg"))


def test_files_cut_short_or_damaged_are_told(yearly, tmp_path):
    write_yearly(tmp_path, "2m_temperature", "t2m", 2010, NEW_YEAR[:3])
    (path,) = (tmp_path / "2m_temperature").iterdir()
    whole = path.read_bytes()
    for wrong in (whole[: len(whole) // 2], b"no NetCDF"):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
            weatherbench.load(source("weatherbench1", tmp_path, years=(2010, 2010)))


def test_a_gap_between_hours_is_refused_for_regridding(tmp_path, monkeypatch):
    monkeypatch.setattr("test_weather_sources.HOURS", HOURS.delete(12))
    path = write_arco(tmp_path / "store")
    with pytest.raises(UserError, match="is not hourly from 2010-12-31 21:00:00 to 2011-01-02"):
        weatherbench.load(source("arco_era5", path))


def test_a_store_of_another_layout_is_refused(tmp_path):
    times = pd.date_range("2010-01-01", periods=3, freq="h")
    data = xr.Dataset({"2m_temperature": (("time", "y", "x"), np.zeros((3, 2, 2)))}, coords={"time": times})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    with pytest.raises(UserError, match=r"a.zarr is no store of arco_era5: .*dimensions \{'time': 3, 'y': 2, 'x': 2\}"):
        weatherbench.load(source("arco_era5", tmp_path / "a.zarr"))
    renamed = data.rename(y="latitude", x="longitude").assign_coords(time=[0, 1, 2])
    renamed.to_zarr(tmp_path / "b.zarr", zarr_format=2)
    with pytest.raises(UserError, match=r"b.zarr is no store of weatherbench2: it needs dates along 'time'"):
        weatherbench.load(source("weatherbench2", tmp_path / "b.zarr"))


def test_a_bucket_out_of_reach_is_told(monkeypatch):
    monkeypatch.setitem(weatherbench.STORES, "weatherbench2", "http://localhost:9/store.zarr")
    with pytest.raises(UserError, match=r"http://localhost:9/store.zarr could not be read: .*copy by source.path"):
        weatherbench.load(source("weatherbench2", ""))


def test_a_store_is_read_over_the_network(store_of_2, monkeypatch):
    handler = functools.partial(QuietHandler, directory=store_of_2)
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setitem(weatherbench.STORES, "weatherbench2", f"http://localhost:{server.server_port}")
        data = weatherbench.load(source("weatherbench2", ""))
        np.testing.assert_array_equal(data["frames"][:, 0].compute(), values(STEPS)[1:-1])
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_the_protocol_of_openstl():
    dataset = load_params("datasets.weatherbench_hourly", ROOT / "params.yaml")
    assert dataset.source.years == (2010, 2018)
    times = pd.date_range("2010-01-01", "2018-12-31 23:00", freq="h")
    windows = make_windows(times, dataset)
    assert windows["split"].value_counts().to_dict() == {"train": 52_559, "validation": 8_759, "test": 17_495}
    year_of = {split: set(times[part["start"]].year) for split, part in windows.groupby("split")}
    assert year_of == {"train": set(range(2010, 2016)), "validation": {2016}, "test": {2017, 2018}}
    first = windows.groupby("split")["start"].min()
    assert times[first["test"]] == pd.Timestamp("2017-01-01")  # OpenSTL's first as well


def test_the_years_of_weatherbench_2_are_split_alike():
    dataset = load_params("datasets.weatherbench", ROOT / "params.yaml")
    times = pd.date_range("2010-01-01", "2018-12-31 18:00", freq="6h")
    counts = make_windows(times, dataset)["split"].value_counts().to_dict()
    assert counts == {"train": 2191 * 4 - 23, "validation": 366 * 4 - 23, "test": 730 * 4 - 23}


# --- NCEP ----------------------------------------------------------------------------------------------------------


def reanalysis(edition: str, path: Path | str, *variables: str, years=(2013, 2014)) -> NcepSource:
    return NcepSource(name="ncep", edition=edition, path=str(path), variables=variables or ("air",), years=years)


def write_psl(path: Path, variable: str, year: int, levels: list[int] | None = None, n_steps: int = 4) -> np.ndarray:
    """A yearly file of NOAA PSL: rows from the north, missing values marked, hours since 1800."""
    times = pd.date_range(f"{year}-01-01", periods=n_steps, freq="6h")
    dims, shape = ("time", "lat", "lon"), (n_steps, 73, 144)
    if levels:
        dims, shape = ("time", "level", "lat", "lon"), (n_steps, len(levels), 73, 144)
    content = np.random.default_rng(year).normal(280, 20, shape).astype(np.float32).round(2)
    content[0, ..., 5, 7] = np.nan
    attrs = {"long_name": "4xDaily Air temperature", "units": "degK", "GRIB_name": "TMP", "dataset": "NMC Reanalysis"}
    coords = {
        "lat": ("lat", np.linspace(90, -90, 73, dtype=np.float32), {"units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", np.arange(144, dtype=np.float32) * 2.5, {"units": "degrees_east", "axis": "X"}),
        "time": ("time", times, {"delta_t": "0000-00-00 06:00:00", "standard_name": "time", "axis": "T"}),
    }
    if levels:
        attributes = {"units": "millibar", "positive": "down", "axis": "Z"}
        coords["level"] = ("level", np.array(levels, dtype=np.float32), attributes)
    missing = np.float32(-9.96921e36)
    encoding = {
        variable: {"missing_value": missing, "_FillValue": missing, "zlib": True},
        "time": {"units": "hours since 1800-01-01 00:00:0.0", "dtype": "float64"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    data = xr.Dataset({variable: (dims, content, attrs)}, coords=coords)
    data.to_netcdf(path, format="NETCDF4_CLASSIC", unlimited_dims=["time"], encoding=encoding)
    return content


@pytest.mark.skipif(not TUTORIAL.is_file(), reason=f"{TUTORIAL.name} is not beside the repository")
def test_the_tutorials_file_is_as_the_file_source_gives_it():
    data = ncep.load(reanalysis("tutorial", TUTORIAL))
    alike = FileSource(
        name="file", path=str(TUTORIAL), variables=("air",), start=None, step_minutes=None,
        licence="public domain (US government)", citation="Kalnay et al. (1996), BAMS 77, 437-471",
    )  # fmt: skip
    expected = file.load(alike)
    xr.testing.assert_identical(data.compute().drop_attrs(deep=False), expected.compute().drop_attrs(deep=False))
    assert data["frames"].shape == (2920, 1, 25, 53)
    assert data.attrs["references"] == expected.attrs["references"]
    assert data.attrs["license"] == expected.attrs["license"]
    dataset = load_params("datasets.ncep", ROOT / "params.yaml")
    assert dataset.source == reanalysis("tutorial", "")
    assert (dataset.n_steps_input, dataset.n_steps_output, dataset.stride, dataset.split.length) == (8, 4, 3, 96)
    one = ncep.load(reanalysis("tutorial", TUTORIAL, years=(2014, 2014)))
    xr.testing.assert_identical(one["frames"], data["frames"][1460:])


@pytest.mark.parametrize("nested", [True, False])
def test_the_yearly_files(tmp_path, cluster, nested):
    surface, pressure = (tmp_path / "surface", tmp_path / "pressure") if nested else (tmp_path, tmp_path / ".")
    levels = [1000, 925, 850, 700, 600, 500, 400, 300, 250, 200, 150, 100, 70, 50, 30, 20, 10]
    at_surface = [write_psl(surface / f"air.sig995.{year}.nc", "air", year) for year in (2013, 2014)]
    aloft = [write_psl(pressure / f"air.{year}.nc", "air", year, levels) for year in (2013, 2014)]
    data = ncep.load(reanalysis("full", tmp_path, "air_500", "air", "air_10"))
    assert data["frames"].shape == (8, 3, 73, 144)
    frames = cluster.compute(data["frames"].data).result()
    np.testing.assert_array_equal(frames[:, 1], np.concatenate(at_surface))
    np.testing.assert_array_equal(frames[:, 0], np.concatenate(aloft)[:, 5])
    np.testing.assert_array_equal(frames[:, 2], np.concatenate(aloft)[:, -1])
    assert np.isnan(frames[0, :, 5, 7]).all()  # missing values
    assert data["channel"].values.tolist() == ["air_500", "air", "air_10"]
    assert data["units"].values.tolist() == ["K", "K", "K"]
    assert data["long_name"].values.tolist()[::2] == [f"4xDaily Air temperature at {hpa} hPa" for hpa in (500, 10)]
    assert data["y"].values[[0, -1]].tolist() == [90, -90]
    assert data["x"].values[[0, -1]].tolist() == [0, 357.5]
    assert (data["y"].attrs, data["x"].attrs) == (file.GLOBE["y"], file.GLOBE["x"])
    assert data.indexes["time"][[0, 4]].tolist() == [pd.Timestamp("2013-01-01"), pd.Timestamp("2014-01-01")]


@pytest.fixture
def psl(tmp_path, monkeypatch):
    """A server of PSL's layout on this computer; the paths that it is asked for are returned."""
    write_psl(tmp_path / "served/surface/slp.2013.nc", "slp", 2013)
    write_psl(tmp_path / "served/surface/slp.2014.nc", "slp", 2014)
    asked = []

    class Handler(QuietHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(ncep, "FULL", f"http://localhost:{server.server_port}")
        monkeypatch.setattr(ncep, "TUTORIAL", f"http://localhost:{server.server_port}/surface/slp.2013.nc")
        monkeypatch.setattr(fetch, "WAIT", 0)
        monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "cache"))
        yield asked
        server.shutdown()


def test_yearly_files_are_fetched_once(psl, tmp_path):
    first = ncep.load(reanalysis("full", "", "slp"))["frames"].compute()
    assert sorted(psl) == ["/surface/slp.2013.nc", "/surface/slp.2014.nc"]
    again = ncep.load(reanalysis("full", "", "slp"))["frames"].compute()
    np.testing.assert_array_equal(again, first)
    assert len(psl) == 2
    assert (tmp_path / "cache/ncep/surface/slp.2013.nc").is_file()
    with pytest.raises(UserError, match=r"slp.2012.nc could not be fetched: 404 .*\n.*by hand"):
        ncep.load(reanalysis("full", "", "slp", years=(2012, 2014)))


def test_another_file_than_the_tutorials_is_refused(psl, tmp_path):
    with pytest.raises(UserError, match="de5b9d45db48cf6b7034de1a4a6d6c98 is the publisher's"):
        ncep.load(reanalysis("tutorial", ""))
    assert not (tmp_path / "cache/ncep/air_temperature.nc").exists()


@pytest.mark.parametrize(
    ("edition", "variables", "years", "message"),
    [
        ("tutorial", ("slp",), (2013, 2014), "has the variable 'air' alone, not 'slp'; choose edition full"),
        ("tutorial", ("air",), (2012, 2014), "the years 2013 to 2014, not all of 2012 to 2014; .*choose edition full"),
        ("full", ("temperature",), (2013, 2013), "'temperature' is no variable of NCEP.*there are air, .*air_500"),
        ("full", ("slp_500",), (2013, 2013), "'slp_500' is no variable of NCEP/NCAR reanalysis 1"),
        ("full", ("hgt",), (2013, 2013), "'hgt' is no variable of NCEP/NCAR reanalysis 1"),
        ("full", ("uwnd",), (2013, 2013), r"surface/uwnd.sig995.2013.nc is missing; put the file there"),
        ("full", ("shum_100",), (2013, 2013), r"shum.2013.nc: 'shum_100' is at none of the levels \[1000, 300\] hPa"),
        ("full", ("rhum",), (2013, 2013), "rhum.sig995.2013.nc has no variable 'rhum', but air; fetch it again"),
    ],
)  # fmt: skip
def test_what_the_reanalysis_lacks_is_explained(tmp_path, edition, variables, years, message):
    path = tmp_path
    if edition == "tutorial":
        path = tmp_path / "air_temperature.nc"
        write_psl(tmp_path / "a.nc", "air", 2013)
        write_psl(tmp_path / "b.nc", "air", 2014)
        with xr.open_mfdataset([tmp_path / "a.nc", tmp_path / "b.nc"]) as both:
            both.to_netcdf(path)
    write_psl(tmp_path / "pressure/shum.2013.nc", "shum", 2013, [1000, 300])
    write_psl(tmp_path / "surface/rhum.sig995.2013.nc", "air", 2013)
    with pytest.raises(UserError, match=message):
        ncep.load(reanalysis(edition, path, *variables, years=years))


@pytest.mark.parametrize(
    ("source_class", "more"),
    [
        (NcepSource, {"name": "ncep", "edition": "full"}),
        (WeatherBenchSource, {"name": "weatherbench", "edition": "arco_era5", "resolution": "5.625deg"}),
    ],
)
def test_years_are_in_order(source_class, more):
    with pytest.raises(ValidationError, match="years go from 2014 to 2013; name the first and the last"):
        source_class(path="", variables=("air",), years=(2014, 2013), **more)
