"""Flights counted by hand and against the published check sums; files of the user's in three formats."""

import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from s2kd.params import FileSource, FlightsSource
from s2kd.sources import file, flights
from s2kd.stage import UserError

NCEP = Path(__file__).parents[2] / "shared/data/ncep_air_temperature_2013_2014.nc"
CP = shutil.which("cp")
NOWHERE = "http://localhost:9"  # the discard port: nothing listens


# --- flights: counting ---------------------------------------------------------------------------------------------

AIRPORTS = pd.DataFrame(
    [
        ("NWC", 45.0, -120.0),  # row 0, column 0 of 2 x 2
        ("SEC", 30.0, -70.0),  # row 1, column 1
        ("WST", 45.0, -125.5),  # column -0.02: truncated it would be 0
        ("NTH", 49.9, -70.0),  # row -0.03
        ("SEC", 45.0, -120.0),  # given twice: the first counts
    ],
    columns=["iata", "latitude", "longitude"],
)


def count(step_minutes: int, *rows: tuple[str, int, str, str]) -> dict[tuple[int, ...], float]:
    """Count at 450 mph and 30 minutes; return what is not zero by (time, channel, row, column)."""
    table = pd.DataFrame(rows, columns=["date", "distance", "origin", "destination"])
    table["date"] = pd.to_datetime(table["date"])
    source = FlightsSource(name="flights", grid=(2, 2), step_minutes=step_minutes, ground_minutes=30, speed_mph=450)
    frames = flights.count(table, AIRPORTS, source)
    assert frames.dtype == np.float32
    assert frames.shape == (4344 * 60 // step_minutes, 2, 2, 2)
    return {tuple(int(i) for i in index): float(frames[tuple(index)]) for index in np.argwhere(frames)}


def test_a_flight_is_counted_where_and_when_it_leaves_and_arrives():
    flight = ("2001-01-01 00:45", 450, "NWC", "SEC")  # 30 min + 1 h: arrives at 02:15
    assert count(60, flight) == {(0, 1, 0, 0): 1, (2, 0, 1, 1): 1}
    assert count(30, flight) == {(1, 1, 0, 0): 1, (4, 0, 1, 1): 1}
    assert count(60, flight, flight) == {(0, 1, 0, 0): 2, (2, 0, 1, 1): 2}


def test_the_full_hour_opens_a_frame():
    assert count(60, ("2001-01-01 00:00", 225, "SEC", "NWC")) == {(0, 1, 1, 1): 1, (1, 0, 0, 0): 1}


def test_each_end_outside_the_box_is_dropped_alone():
    assert count(60, ("2001-01-01 05:10", 225, "WST", "NWC")) == {(6, 0, 0, 0): 1}
    assert count(60, ("2001-01-01 05:59", 225, "SEC", "NTH")) == {(5, 1, 1, 1): 1}
    assert count(60, ("2001-01-01 05:59", 225, "SEC", "???")) == {(5, 1, 1, 1): 1}


def test_what_falls_after_june_is_dropped():
    assert count(60, ("2001-06-30 23:30", 450, "NWC", "SEC")) == {(4343, 1, 0, 0): 1}
    assert count(60, ("2001-07-01 00:00", 450, "NWC", "SEC")) == {}


def test_the_whole_record_has_the_known_check_sums():
    try:
        flights.fetch()
    except UserError as error:
        pytest.skip(f"needs the flight tables: {error}")
    data = flights.load(FlightsSource(name="flights", grid=(16, 32), step_minutes=60, ground_minutes=30, speed_mph=450))
    frames = data["frames"].to_numpy()
    assert frames.shape == (4344, 2, 16, 32)
    assert frames.sum(axis=(0, 2, 3), dtype=np.float64).tolist() == [2_923_306, 2_924_146]
    assert frames.max(axis=(0, 2, 3)).tolist() == [103, 110]
    sha256 = hashlib.sha256(frames.tobytes()).hexdigest()
    assert sha256 == "69407b652d5520700af96a1b9d07f0f53077fe186da20c5c3cab565bd93511f2"
    first = frames[: round(0.7 * len(frames))].astype(np.float64)
    assert (round(first.mean(), 3), round(first.std(), 3)) == (1.309, 5.980)
    assert data.indexes["time"][-1] == pd.Timestamp("2001-06-30 23:00")
    assert data["y"].values[[0, -1]].tolist() == [49.5 - 25 / 32, 24.5 + 25 / 32]  # row 0 is north
    assert data["x"].values[[0, -1]].tolist() == [-125 + 58.5 / 64, -66.5 - 58.5 / 64]


# --- flights: fetching ---------------------------------------------------------------------------------------------

TABLES = {"flights-3m.parquet": b"the flights", "airports.csv": b"the airports"}
WRONG = {"flights-3m.parquet": b"the flights", "airports.csv": b"something else"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no npm, no host; the published tables are a few bytes."""
    monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(flights, "URL", NOWHERE)
    for name, content in TABLES.items():
        monkeypatch.setitem(flights.SHA256, name, hashlib.sha256(content).hexdigest())
    return tmp_path / "cache"


def put(folder: Path, tables: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        (folder / name).write_bytes(content)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serve tables over HTTP on this computer."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def start(tables: dict[str, bytes]) -> None:
            put(tmp_path / "served", tables)
            monkeypatch.setattr(flights, "URL", f"http://localhost:{server.server_port}")

        yield start
        server.shutdown()


@pytest.fixture
def npm(tmp_path):
    """Put a program on the PATH that leaves a package with the tables in its working folder, as ``npm pack`` does."""

    def install(tables: dict[str, bytes]) -> None:
        put(tmp_path / "package/data", tables)
        with tarfile.open(tmp_path / "vega-datasets-3.2.1.tgz", "w:gz") as tar:
            tar.add(tmp_path / "package", "package")
            tar.add(tmp_path / "package/data/airports.csv", "../../outside")
        program = tmp_path / "bin/npm"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n[ $1 = pack ] && {CP} {tmp_path}/*.tgz .\n")
        program.chmod(0o755)

    return install


def test_a_filled_cache_needs_no_network(cache):
    put(cache, TABLES)
    assert flights.fetch() == cache


def test_tables_come_by_http(cache, serve):
    serve(TABLES)
    flights.fetch()
    assert held(cache) == TABLES


def test_a_corrupted_table_is_fetched_again(cache, serve):
    put(cache, WRONG)
    serve(TABLES)
    flights.fetch()
    assert held(cache) == TABLES


def test_wrong_bytes_are_never_kept(cache, serve):
    serve(WRONG)
    with pytest.raises(UserError, match=r"hash of downloaded file.*airports.csv"):
        flights.fetch()
    assert held(cache) == {"flights-3m.parquet": b"the flights"}


def test_npm_is_the_second_way(cache, npm, tmp_path):
    npm(TABLES)
    flights.fetch()
    assert held(cache) == TABLES
    assert not list(tmp_path.rglob("outside"))


def test_a_wrong_package_is_refused(cache, npm):
    npm(WRONG)
    with pytest.raises(UserError, match=r"airports.csv in the package that npm fetched has a wrong checksum"):
        flights.fetch()
    assert held(cache) == {}


def test_without_any_way_the_error_says_what_to_put_where(cache):
    with pytest.raises(UserError) as error:
        flights.fetch()
    message = str(error.value)
    for part in ("npm is not on the PATH", str(cache), NOWHERE, *flights.SHA256, *flights.SHA256.values()):
        assert part in message


# --- file ----------------------------------------------------------------------------------------------------------


def source(path: Path, *variables: str) -> FileSource:
    return FileSource(name="file", path=str(path), variables=variables, licence="CC0", citation="Somebody, 2001")


def grid(n_times: int = 4, **more: tuple) -> xr.Dataset:
    """Two variables on 4 times, 3 latitudes and 2 longitudes, one of them the other way round."""
    values = np.arange(n_times * 3 * 2, dtype=np.float64).reshape(n_times, 3, 2)
    return xr.Dataset(
        {
            "t": (("time", "lat", "lon"), values, {"units": "degK", "long_name": "temperature"}),
            "wind": (("lon", "lat", "time"), 100 + values.transpose(), {"units": "m s-1"}),
            **more,
        },
        coords={
            "time": pd.date_range("2001-01-01", periods=n_times, freq="6h"),
            "lat": [10.0, 20.0, 30.0],
            "lon": [5.0, 6.0],
        },
    )


def write(path: Path, data: xr.Dataset) -> Path:
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=3, consolidated=False)
    else:
        data.to_netcdf(path)
    return path


@pytest.mark.skipif(not NCEP.is_file(), reason=f"{NCEP.name} is not beside the repository")
def test_ncep_has_the_known_statistics():
    data = file.load(source(NCEP, "air"))
    frames = data["frames"].to_numpy()
    assert frames.shape == (2920, 1, 25, 53)
    assert frames.dtype == np.float32
    values = frames.astype(np.float64)
    np.testing.assert_allclose([values.min(), values.max()], [221.0, 317.4], atol=1e-4)
    np.testing.assert_allclose([values.mean(), values.std()], [281.26, 16.32], atol=6e-3)
    first = values[: round(0.7 * len(values))]
    np.testing.assert_allclose([first.mean(), first.std()], [279.80, 16.89], atol=6e-3)
    day = np.sqrt(np.mean((values[4:] - values[:-4]) ** 2))
    assert round(day, 2) == 3.27
    assert data["units"].values.tolist() == ["K"]  # the file has degK
    assert data["y"].values[[0, -1]].tolist() == [75.0, 15.0]  # row 0 as in the file
    assert data["x"].values[[0, -1]].tolist() == [200.0, 330.0]
    assert data["y"].attrs["standard_name"] == "latitude"
    assert data.indexes["time"][[0, -1]].tolist() == [pd.Timestamp("2013-01-01"), pd.Timestamp("2014-12-31 18:00")]


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_variables_become_channels_in_the_order_given(tmp_path, name):
    data = file.load(source(write(tmp_path / name, grid()), "wind", "t"))
    frames = data["frames"].to_numpy()
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[:, 1], np.arange(24).reshape(4, 3, 2))
    np.testing.assert_array_equal(frames[:, 0], 100 + frames[:, 1])
    assert data["frames"].dims == ("time", "channel", "y", "x")
    assert data["channel"].values.tolist() == ["wind", "t"]
    assert data["units"].values.tolist() == ["m s-1", "K"]
    assert data["long_name"].values.tolist() == ["", "temperature"]
    assert data["y"].values.tolist() == [10.0, 20.0, 30.0]
    assert (data.attrs["license"], data.attrs["references"]) == ("CC0", "Somebody, 2001")


def test_grib(tmp_path):
    eccodes = pytest.importorskip("eccodes", reason="writes the GRIB file")
    path = tmp_path / "a.grib2"
    keys = {
        "Ni": 3,
        "Nj": 2,
        "latitudeOfFirstGridPointInDegrees": 50,
        "latitudeOfLastGridPointInDegrees": 49,
        "longitudeOfFirstGridPointInDegrees": 0,
        "longitudeOfLastGridPointInDegrees": 2,
        "iDirectionIncrementInDegrees": 1,
        "jDirectionIncrementInDegrees": 1,
        "dataDate": 20200101,
        "shortName": "2t",
    }
    with path.open("wb") as stream:
        for time in range(3):
            message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
            for key, value in {**keys, "dataTime": time * 600}.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, 280.0 + 10 * time + np.arange(6))
            eccodes.codes_write(message, stream)
            eccodes.codes_release(message)
    data = file.load(source(path, "t2m"))
    np.testing.assert_allclose(
        data["frames"].to_numpy()[:, 0].reshape(3, 6), 280 + 10 * np.arange(3)[:, None] + np.arange(6), atol=1e-3
    )
    assert data["units"].values.tolist() == ["K"]
    assert data["y"].values.tolist() == [50.0, 49.0]
    assert data.indexes["time"].tolist() == pd.date_range("2020-01-01", periods=3, freq="6h").tolist()
    assert [found.name for found in tmp_path.iterdir()] == ["a.grib2"]  # no index file left beside it


@pytest.mark.parametrize(
    ("names", "attributes", "dims", "on_globe"),
    [
        ({"time": "valid_time", "lat": "latitude", "lon": "longitude"}, {}, (), True),
        (
            {"time": "t0", "lat": "a", "lon": "b"},
            {"a": {"units": "degrees_north"}, "b": {"units": "degrees_east"}},
            (),
            True,
        ),
        ({"lat": "a", "lon": "b"}, {"a": {"axis": "Y"}, "b": {"axis": "X"}}, (), False),
        ({"lat": "y", "lon": "x"}, {}, (), False),
    ],
)
def test_dimensions_are_known_by_attributes_or_names(tmp_path, names, attributes, dims, on_globe):
    data = grid().rename(names)
    for name, attrs in attributes.items():
        data[name].attrs.update(attrs)
    if "t0" in data.coords:
        data["t0"].attrs["standard_name"] = "time"
    loaded = file.load(source(write(tmp_path / "a.nc", data), "wind"))
    np.testing.assert_array_equal(loaded["frames"].to_numpy()[:, 0], 100 + np.arange(24).reshape(4, 3, 2))
    assert loaded["y"].values.tolist() == ([10.0, 20.0, 30.0] if on_globe else [0, 1, 2])
    assert loaded["x"].attrs.get("standard_name") == ("longitude" if on_globe else None)


def test_a_forecast_is_dated_by_the_time_it_is_valid_at(tmp_path):
    data = grid().rename(time="step").assign_coords(step=np.arange(4) * 6)
    data = data.assign_coords(
        time=pd.Timestamp("2001-01-01"), valid_time=("step", pd.date_range("2001-01-01", periods=4, freq="6h"))
    )
    loaded = file.load(source(write(tmp_path / "a.nc", data), "t"))
    assert loaded.indexes["time"].tolist() == pd.date_range("2001-01-01", periods=4, freq="6h").tolist()


def test_a_level_of_one_is_dropped_and_of_two_refused(tmp_path):
    path = write(tmp_path / "one.nc", grid()[["t"]].expand_dims(level=[500]))
    assert file.load(source(path, "t"))["frames"].shape == (4, 1, 3, 2)
    path = write(tmp_path / "two.nc", grid()[["t"]].expand_dims(level=[500, 850]))
    with pytest.raises(UserError, match=r"'t' has dimensions \{'level': 2.*select a level or member beforehand"):
        file.load(source(path, "t"))


def broken(**changes: object) -> xr.Dataset:
    return grid().assign_coords(**changes)


def with_nan() -> xr.Dataset:
    data = grid().load()
    data["t"][2, 1, 0] = np.nan
    data["t"][3, 0, 0] = np.inf
    return data


TIMES = pd.date_range("2001-01-01", periods=4, freq="6h")


@pytest.mark.parametrize(
    ("data", "variables", "message"),
    [
        (grid(), ["winds"], r"no variable 'winds'; did you mean 'wind'\?; it has: t, wind"),
        (grid(), ["humidity"], r"no variable 'humidity'; it has: t, wind"),
        (grid().mean("lon"), ["t"], r"'t' has dimensions .* row, column are time, lat, None; it needs these three"),
        (
            grid(p=(("time", "latitude", "lon"), np.ones((4, 5, 2)))),
            ["t", "p"],
            r"'t' \('time', 'lat', 'lon'\) and 'p' \('time', 'latitude', 'lon'\) are on different grids",
        ),
        (broken(time=TIMES[[0, 1, 1, 3]]), ["t"], r"1 times .* 06:00:00 after 2001-01-01 06:00:00 \(twice, frame 2\)"),
        (broken(time=TIMES[[0, 2, 1, 3]]), ["t"], r"06:00:00 after 2001-01-01 12:00:00 \(out of order, frame 2\)"),
        (broken(time=[1, 2, 3, 4]), ["t"], r"'time' has no dates of the standard calendar"),
        (
            with_nan(),
            ["wind", "t"],
            r"2 of 48 values are not finite; first 't' at 2001-01-01 12:00:00, row 1, column 0",
        ),
        (grid(s=(("time", "lat", "lon"), np.full((4, 3, 2), "x"))), ["s"], r"'s' holds .*, not numbers"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, data, variables, message):
    path = write(tmp_path / "a.nc", data)
    with pytest.raises(UserError, match=message) as error:
        file.load(source(path, *variables))
    assert str(path) in str(error.value)


def test_unreadable_files_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"absent.nc is missing; .*source.path in params.yaml"):
        file.load(source(tmp_path / "absent.nc", "t"))
    for name in ("a.nc", "a.grib", "a.txt"):
        (tmp_path / name).write_text("no data")
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            file.load(source(tmp_path / name, "t"))
    with pytest.raises(UserError, match="cannot be read"):
        file.load(source(tmp_path, "t"))  # a folder that is no Zarr
