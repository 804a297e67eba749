"""Flights counted by hand and against the published check sums; files of the user's in three formats."""

import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from s2kd.params import FileSource, FlightsSource
from s2kd.sources import arrays, fetch, file, flights
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
    monkeypatch.setattr(fetch, "WAIT", 0)
    for name, content in TABLES.items():
        monkeypatch.setitem(flights.SHA256, name, hashlib.sha256(content).hexdigest())
    return tmp_path / "cache"


def put(folder: Path, tables: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        (folder / name).write_bytes(content)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


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
    with pytest.raises(UserError, match=r"airports.csv from http\S*/airports.csv has a wrong checksum"):
        flights.fetch()
    assert "airports.csv" not in held(cache)


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


def source(
    path: Path | str, *variables: str, start: str | None = None, step_minutes: float | None = None
) -> FileSource:
    text = {"licence": "CC0", "citation": "Somebody, 2001"}
    return FileSource(name="file", path=str(path), variables=variables, start=start, step_minutes=step_minutes, **text)


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


def write_grib(path: Path) -> Path:
    eccodes = pytest.importorskip("eccodes", reason="writes the GRIB file")
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
    return path


def test_grib(tmp_path):
    data = file.load(source(write_grib(tmp_path / "a.grib2"), "t2m"))
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
    for name in ("a.npy", "a.npz", "a.h5", "a.mat"):
        (tmp_path / name).write_text("no data")
        with pytest.raises(UserError, match=rf"{name} cannot be read as \w+, .*fetch it again"):
            file.load(source(tmp_path / name, "t", step_minutes=60))


def test_missing_values_become_nan(tmp_path):
    data = grid().load()
    data["t"][2, 1, 0] = np.nan
    data["t"].encoding |= {"dtype": "int16", "_FillValue": -9999, "scale_factor": 0.5}
    frames = file.load(source(write(tmp_path / "a.nc", data), "t"))["frames"].to_numpy()
    assert np.argwhere(np.isnan(frames)).tolist() == [[2, 0, 1, 0]]
    assert frames[3, 0, 2, 1] == 23


# --- file: lazily, also in other processes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of one worker process."""
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as client:
        yield client


def write_array(path: Path, values: np.ndarray) -> Path:
    """Write an array as data set ``u`` (of a ``.npy`` the only one) in one of the formats."""
    match path.suffix:
        case ".npy":
            np.save(path, values)
        case ".npz":
            np.savez_compressed(path, u=values, v=values + 1) if "packed" in path.name else np.savez(path, u=values)
        case _:
            with h5py.File(path, "w") as stream:
                stored = values.T if path.suffix == ".mat" else values  # MATLAB's first axis varies fastest
                stream.create_dataset("u", data=stored, chunks=(1,) * stored.ndim, compression="gzip")
    return path


ARRAYS = ("c.npy", "fortran.npy", "a.npz", "fortran.npz", "packed.npz", "packed-fortran.npz", "a.h5", "a.hdf5", "a.mat")


@pytest.mark.parametrize("name", ["a.nc", "a.zarr", *ARRAYS])
def test_opening_reads_no_frame_and_another_process_can(tmp_path, monkeypatch, cluster, name):
    if name in ARRAYS:
        values = np.random.default_rng(0).normal(size=(20, 2, 3, 4)).astype(np.float32)
        path = write_array(tmp_path / name, np.asfortranarray(values) if "fortran" in name else values)
        names = ("a", "b") if path.suffix == ".npy" else ("u",)
    else:
        path = write(tmp_path / name, grid(20))
        values = np.stack([grid(20)["t"], grid(20)["wind"].transpose("time", "lat", "lon")], axis=1)
        names = ("t", "wind")
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 200)
    monkeypatch.chdir(tmp_path)  # where the worker is not
    loaded = file.load(source(name, *names, **({"step_minutes": 60} if name in ARRAYS else {})))["frames"]
    np.testing.assert_array_equal(cluster.compute(loaded.data).result(), values)
    for scheduler in ("synchronous", "threads"):
        np.testing.assert_array_equal(loaded.data.compute(scheduler=scheduler), values)
        np.testing.assert_array_equal(loaded.data[[5, 3], 1:, ::2, -1].compute(scheduler=scheduler),
                                      values[[5, 3], 1:, ::2, -1])  # fmt: skip


def test_grib_is_read_by_another_process(tmp_path, cluster):
    path = write_grib(tmp_path / "a.grib2")
    loaded = file.load(source(path, "t2m"))["frames"]
    np.testing.assert_array_equal(cluster.compute(loaded.data).result(), loaded.data.compute(scheduler="synchronous"))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_a_task_reads_no_more_than_the_slice_asked_for(tmp_path, monkeypatch, name):
    """One frame of many is read in a fraction of the bytes."""
    values = np.zeros((4000, 1, 64, 64), np.float32)  # 64 MiB
    path = tmp_path / name
    if path.suffix == ".h5":
        with h5py.File(path, "w") as stream:
            stream.create_dataset("u", data=values, chunks=(10, 1, 64, 64))
    else:
        write_array(path, values)
    lazy = arrays.npy(path) if path.suffix == ".npy" else arrays.lazy(path, "u")
    assert lazy.chunksize[0] >= 1000
    lazy[7].compute(scheduler="synchronous")  # imports what reads, for the first time
    tracemalloc.start()
    lazy[7].compute(scheduler="synchronous")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # a frame is 16 KiB, a chunk 16 MiB


def test_chunks_are_whole_chunks_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1000)
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        stream.create_dataset("u", data=np.zeros((50, 3, 5), np.float32), chunks=(7, 3, 5))
    assert arrays.hdf5(tmp_path / "a.h5", "u").chunksize == (14, 3, 5)  # of 60 bytes a frame
    data = grid(50)[["t"]]
    data["t"].encoding |= {"chunksizes": (6, 3, 2)}
    assert file.load(source(write(tmp_path / "a.nc", data), "t"))["frames"].chunks[0][:2] == (18, 18)
    assert arrays.contiguous((50, 3, 5), 4) == (16, 3, 5)
    assert arrays.contiguous((50, 300, 5), 4) == (1, 50, 5)  # what lies in one run of the file
    assert arrays.contiguous((2, 3, 4000), 4) == (1, 1, 250)


# --- file: plain arrays --------------------------------------------------------------------------------------------


def test_plain_arrays_are_dated_by_the_parameters(tmp_path):
    path = write_array(tmp_path / "a.npy", np.zeros((3, 2, 2), np.int16))
    dated = file.load(source(path, "u", start="2014-04-01", step_minutes=90))
    assert dated.indexes["time"].tolist() == pd.date_range("2014-04-01", periods=3, freq="90min").tolist()
    assert "nominal_time" not in dated.attrs
    counted = file.load(source(path, "u", step_minutes=90))
    assert counted.indexes["time"].tolist() == pd.date_range("2000-01-01", periods=3, freq="90min").tolist()
    assert counted.attrs["nominal_time"] == 1
    assert counted["frames"].dtype == np.float32
    with pytest.raises(UserError, match=r"a.npy has no times; give source.step_minutes"):
        file.load(source(path, "u"))
    with pytest.raises(UserError, match=r"a.nc has its own times; leave source.start"):
        file.load(source(write(tmp_path / "a.nc", grid()), "t", step_minutes=60))


def test_data_sets_become_channels_with_their_units(tmp_path):
    values = np.arange(2 * 3 * 2 * 2, dtype=np.float64).reshape(2, 3, 2, 2)
    with h5py.File(tmp_path / "a.h5", "w") as stream:
        stream.create_dataset("flow/uv", data=values[:, :2]).attrs.update(
            units="m s-1", long_name=np.bytes_("velocity")
        )
        stream.create_dataset("density", data=values[:, 2]).attrs["_FillValue"] = values[1, 2, 0, 1]
    data = file.load(source(tmp_path / "a.h5", "density", "flow/uv", step_minutes=1))
    assert data["channel"].values.tolist() == ["density", "flow/uv_0", "flow/uv_1"]
    assert data["units"].values.tolist() == ["", "m s-1", "m s-1"]
    assert data["long_name"].values.tolist() == ["", "velocity", "velocity"]
    frames = data["frames"].to_numpy()
    np.testing.assert_array_equal(frames[:, 1:], values[:, :2])
    assert np.argwhere(np.isnan(frames)).tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "values", "variables", "message"),
    [
        ("a.npy", np.zeros((3, 2, 2)), ("u", "v"), r"has 1 channels, and source.variables names 2 \(u, v\)"),
        ("a.npy", np.zeros((3, 4)), ("u",), r"the array has rank 2, shape \(3, 4\); frames are \(time, y, x\)"),
        ("a.npy", np.array([{}, {}]), ("u",), "holds object, not numbers"),
        ("a.npy", np.zeros((0, 2, 2)), ("u",), r"is empty, of shape \(0, 2, 2\)"),
        ("a.npz", np.zeros((3, 2, 2)), ("w",), "has no array 'w'; it has: u"),
        ("packed.npz", np.zeros((3, 2, 2)), ("w",), "has no array 'w'; it has: u, v"),
        ("a.h5", np.zeros((3, 2, 2)), ("w",), "has no data set 'w'; it has: u"),
        ("a.h5", np.zeros((3, 2, 2), "S3"), ("u",), r"data set 'u' holds \|S3, not numbers"),
    ],
)
def test_plain_arrays_that_cannot_be_used_are_explained(tmp_path, name, values, variables, message):
    path = write_array(tmp_path / name, values)
    with pytest.raises(UserError, match=message) as error:
        file.load(source(path, *variables, step_minutes=60))
    assert str(path) in str(error.value)


def test_data_sets_on_different_grids_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", u=np.zeros((3, 2, 2)), v=np.zeros((3, 2, 2, 4)))
    with pytest.raises(UserError, match=r"'u' and 'v' are on different grids, .* \(3, 2, 2\) and \(3, 2, 4\)"):
        file.load(source(tmp_path / "a.npz", "u", "v", step_minutes=60))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "packed.npz", "a.h5"])
def test_truncated_files_are_named(tmp_path, name):
    path = write_array(tmp_path / name, np.random.default_rng(0).normal(size=(10, 8, 8)))
    path.write_bytes(path.read_bytes()[:-2000])
    what = "is truncated: its header says (10, 8, 8) of float64, which takes 5248 bytes, and there are 3248"
    expected = what if name == "a.npy" else "no such file, truncated or corrupt"
    with pytest.raises(UserError) as error:
        file.load(source(path, "u", step_minutes=60))
    assert f"{path} " in str(error.value)
    assert expected in str(error.value)


def test_damage_inside_a_file_is_told_by_the_task_that_meets_it(tmp_path):
    path = write_array(tmp_path / "packed.npz", np.random.default_rng(0).normal(size=(10, 8, 8)))
    damaged = bytearray(path.read_bytes())
    damaged[2000:2100] = bytes(100)
    path.write_bytes(damaged)
    frames = file.load(source(path, "u", step_minutes=60))["frames"]
    with pytest.raises(UserError, match=r"packed.npz cannot be read as NumPy, .*fetch it again"):
        frames.data.compute(scheduler="synchronous")


# --- file: several -------------------------------------------------------------------------------------------------


def days(*numbers: int, variable: str = "t") -> xr.Dataset:
    """Some days of one variable, out of a record of twelve."""
    whole = grid(48)[[variable]]
    return whole.isel(time=np.concatenate([np.arange(4 * day, 4 * day + 4) for day in numbers]))


def test_files_of_a_pattern_are_put_together_by_their_coordinates(tmp_path, cluster):
    for name, day in [("a", 2), ("b", 0), ("c", 1)]:
        for variable in ("t", "wind"):
            write(tmp_path / f"{variable}_{name}.nc", days(day, variable=variable))
    data = file.load(source(tmp_path / "*.nc", "wind", "t"))
    assert data.indexes["time"].tolist() == pd.date_range("2001-01-01", periods=12, freq="6h").tolist()
    expected = np.arange(12 * 6).reshape(12, 3, 2)
    np.testing.assert_array_equal(
        cluster.compute(data["frames"].data).result(), np.stack([100 + expected, expected], axis=1)
    )
    assert data["frames"].chunks[0] == (4, 4, 4)
    assert data["y"].values.tolist() == [10.0, 20.0, 30.0]
    assert data.attrs["source"] == "*.nc"
    two = file.load(source(tmp_path / "t_[ab].nc", "t"))  # the day between is missing
    assert two.indexes["time"].tolist() == days(0, 2).indexes["time"].tolist()


def test_zarr_folders_of_a_pattern(tmp_path):
    for day in (0, 1):
        write(tmp_path / f"{day}.zarr", days(day))
    frames = file.load(source(tmp_path / "*.zarr", "t"))["frames"]
    np.testing.assert_array_equal(frames.to_numpy()[:, 0], np.arange(48).reshape(8, 3, 2))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (days(0, 1), r"overlap in time: 't' runs to 2001-01-01 18:00:00 in the first and from 2001-01-01 00:00:00 in"),
        (
            days(1).assign_coords(lat=[10.0, 20.0, 31.0]),
            r"are on different grids: 't' is .*'lat': 3.* coordinates diff",
        ),
        (days(1).isel(lon=[0]), r"are on different grids: 't' is .*'lon': 2.* and .*'lon': 1"),
        (days(1).assign(t=days(1)["t"].assign_attrs(units="degC")), r"have mixed units: 't' is in 'K' and 'degC'"),
    ],
)
def test_files_that_do_not_fit_together_are_both_named(tmp_path, second, message):
    first, second = write(tmp_path / "a.nc", days(0)), write(tmp_path / "b.nc", second)
    with pytest.raises(UserError, match=message) as error:
        file.load(source(tmp_path / "*.nc", "t"))
    assert f"{first} and {second}" in str(error.value)


def test_variables_of_other_times_are_refused(tmp_path):
    write(tmp_path / "a.nc", days(0, 1))
    write(tmp_path / "b.nc", days(1, 2, variable="wind"))
    with pytest.raises(UserError, match=r"variables 't' and 'wind' hold different times"):
        file.load(source(tmp_path / "*.nc", "t", "wind"))


def test_arrays_of_a_pattern_follow_each_other_by_the_numbers_in_their_names(tmp_path):
    for number in (9, 10, 100):
        np.save(tmp_path / f"part{number}.npy", np.full((2, 3, 3), number))
    data = file.load(source(tmp_path / "part*.npy", "u", step_minutes=60))
    assert data["frames"].to_numpy()[:, 0, 0, 0].tolist() == [9, 9, 10, 10, 100, 100]
    np.save(tmp_path / "part101.npy", np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match=r"part9.npy and .*part101.npy are on different grids: .* \(1, 3, 3\) and"):
        file.load(source(tmp_path / "part*.npy", "u", step_minutes=60))


def test_a_pattern_names_files_of_one_kind(tmp_path):
    with pytest.raises(UserError, match=r"no file matches .*\*.nc; put the files there"):
        file.load(source(tmp_path / "*.nc", "t"))
    write(tmp_path / "a.nc", grid())
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 3)))
    with pytest.raises(UserError, match=r"files of two kinds, such as .*a.nc and .*a.npy; name one kind"):
        file.load(source(tmp_path / "a.n*", "t"))
