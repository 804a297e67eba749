"""The download stage on two years of air temperature."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import dask
import distributed
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from ruamel.yaml import YAML

from s2kd.dataset import Meta, load_frames, load_segments, load_times, load_windows
from s2kd.stage import UserError
from stages import download

ROOT = Path(__file__).parents[1]
NCEP = ROOT.parent / "shared/data/ncep_air_temperature_2013_2014.nc"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the stage on a file in ``tmp_path`` with the repository's parameters; return the folder it wrote to."""
    monkeypatch.chdir(tmp_path)

    def run(path: Path, folder: str = "out", meta: str = "meta.json", **changes: object) -> Path:
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["datasets"]["file"].update(title="Air", stride=1, n_steps_input=12, n_steps_output=12)
        params["datasets"]["file"]["source"].update(path=str(path), variables=["air"], licence="free", citation="NOAA")
        params["datasets"]["file"]["split"].update(train_end=0.7, validation_end=0.85)
        params["datasets"]["file"].update(changes)
        yaml.dump(params, tmp_path / "params.yaml")
        out = tmp_path / folder
        outputs = {"--frames": out / "frames.zarr", "--windows": out / "windows.csv", "--meta": out / meta}
        words = [str(word) for pair in outputs.items() for word in pair]
        monkeypatch.setattr(sys, "argv", ["download", "--dataset", "file", *words])
        download.main()
        return out

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


needs_ncep = pytest.mark.skipif(not NCEP.is_file(), reason=f"{NCEP.name} is not beside the repository")


@needs_ncep
def test_outputs_are_what_the_other_stages_read(stage, capsys):
    out = stage(NCEP)
    assert "2920 frames of 1 x 25 x 53" in capsys.readouterr().out
    frames = load_frames(out / "frames.zarr")
    with xr.open_dataset(NCEP) as original:
        np.testing.assert_array_equal(frames[:][:, 0], original["air"].to_numpy().astype(np.float32))
    assert frames.dtype == np.float32
    times = load_times(out / "frames.zarr")
    assert times.equals(pd.date_range("2013-01-01", periods=2920, freq="6h"))

    windows = load_windows(out / "windows.csv")
    assert windows["split"].value_counts().to_dict() == {"train": 2021, "validation": 415, "test": 415}
    assert windows["start"].tolist() == [*range(2021), *range(2044, 2459), *range(2482, 2897)]

    meta = Meta.load(out / "meta.json")
    np.testing.assert_allclose(meta.mean, frames[:2044].astype(np.float64).mean())
    np.testing.assert_allclose(meta.std, frames[:2044].astype(np.float64).std())
    assert (meta.channels, meta.units, meta.time_step, meta.n_frames) == (("air",), ("K",), 21600.0, 2920)
    assert (meta.start, meta.y_name, meta.x_name) == ("2013-01-01T00:00:00", "latitude", "longitude")
    assert (meta.y[0], meta.y[-1], meta.x[0], meta.x[-1]) == (75.0, 15.0, 200.0, 330.0)
    assert (meta.licence, meta.citation, meta.dataset) == ("free", "NOAA", "file")


@needs_ncep
def test_frames_are_few_files_in_cf_terms(stage):
    out = stage(NCEP)
    group = json.loads((out / "frames.zarr/zarr.json").read_text())
    assert (group["zarr_format"], "consolidated_metadata" in group) == (3, False)
    assert set(group["attributes"]) == {"Conventions", "title", "source", "license", "references"}
    assert len(list((out / "frames.zarr/frames").rglob("*"))) < 10
    data = xr.open_zarr(out / "frames.zarr", consolidated=False)
    assert data["frames"].dims == ("time", "channel", "y", "x")
    assert (data["channel"].values.tolist(), data["units"].values.tolist()) == (["air"], ["K"])
    assert (data["y"].attrs["standard_name"], data["y"].attrs["units"]) == ("latitude", "degrees_north")


@needs_ncep
def test_two_runs_give_the_same_bytes(stage):
    first, second = contents(stage(NCEP, "first")), contents(stage(NCEP, "second"))
    assert first == second
    assert first == contents(stage(NCEP, "first"))  # over itself


@pytest.mark.filterwarnings("error::zarr.errors.UnstableSpecificationWarning")
def test_a_failure_leaves_the_old_outputs(stage, tmp_path):
    def air(values: np.ndarray) -> Path:
        times = pd.date_range("2001-01-01", periods=len(values), freq="h")
        data = xr.Dataset({"air": (("time", "y", "x"), values)}, coords={"time": times})
        path = tmp_path / f"air-{next(numbers)}.nc"
        data.to_netcdf(path)
        return path

    numbers = itertools.count()

    values = np.random.default_rng(0).normal(size=(200, 3, 4))
    out = stage(air(values))
    before = contents(out)
    assert json.loads(before["meta.json"])["y_name"] == "y"
    assert json.loads(before["meta.json"])["y"] == [0, 1, 2]

    for wrong in (np.ones((200, 3, 4)), values[:30], np.where(values > 2, np.nan, values)):
        with pytest.raises(UserError):
            stage(air(wrong))
    with pytest.raises(OSError, match=r"windows\.csv"):  # a file where a folder should be, found last
        stage(air(2 * values), meta="windows.csv/meta.json")
    assert contents(out) == before


def gappy(tmp_path: Path, n_frames: int = 200) -> Path:
    """A file with a fifth of its values missing, a cell without any, and a missing hour."""
    rng = np.random.default_rng(0)
    values = rng.normal(280, 5, size=(n_frames, 3, 4)).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    values[:, 0, 0] = np.nan
    times = pd.date_range("2001-01-01", periods=n_frames + 1, freq="h").delete(100)
    xr.Dataset({"air": (("time", "y", "x"), values)}, coords={"time": times}).to_netcdf(tmp_path / "gappy.nc")
    return tmp_path / "gappy.nc"


def test_missing_values_are_refused_filled_or_kept(stage, tmp_path):
    path = gappy(tmp_path)
    values = xr.load_dataset(path)["air"].to_numpy()
    is_missing = np.isnan(values)
    with pytest.raises(
        UserError, match=r"gappy\.nc: \d+ of 2400 values are not finite; first 'air' at 2001-01-01 00:00"
    ) as e:
        stage(path)
    assert str(e.value).endswith("or set missing to fill or mask in params.yaml")

    masked = stage(path, "masked", missing="mask")
    frames = load_frames(masked / "frames.zarr")[:][:, 0]
    np.testing.assert_array_equal(frames, values)
    meta = Meta.load(masked / "meta.json")
    assert meta.n_missing == is_missing.sum()
    train = values[:140].astype(np.float64)  # 0.7 of the frames
    np.testing.assert_allclose(meta.mean[0], np.nanmean(train))
    np.testing.assert_allclose(meta.std[0], np.nanstd(train))

    filled = stage(path, "filled", missing="fill")
    frames = load_frames(filled / "frames.zarr")[:][:, 0]
    np.testing.assert_array_equal(frames[~is_missing], values[~is_missing])
    wanted = np.nanmean(train.reshape(140, 12)[:, 1:], axis=0)
    for cell, mean in enumerate(wanted, start=1):
        np.testing.assert_allclose(
            frames.reshape(200, 12)[:, cell][is_missing.reshape(200, 12)[:, cell]], mean, rtol=1e-6
        )
    np.testing.assert_allclose(frames[:, 0, 0], np.nanmean(train), rtol=1e-6)  # a cell without data: its channel's mean
    assert Meta.load(filled / "meta.json").n_missing == 0


def test_infinite_values_are_refused_whatever_the_policy(stage, tmp_path):
    path = gappy(tmp_path)
    data = xr.load_dataset(path)
    data = data.astype(np.float64)
    data["air"][7, 2, 3] = 1e39  # more than float32 holds
    data.to_netcdf(tmp_path / "large.nc")
    with pytest.raises(UserError, match="first 'air' at 2001-01-01 07:00:00, row 2, column 3 = inf"):
        stage(tmp_path / "large.nc", missing="mask")


def test_no_window_spans_the_missing_hour(stage, tmp_path):
    out = stage(gappy(tmp_path), missing="mask")
    assert load_segments(out / "frames.zarr").tolist() == [0] * 100 + [1] * 100
    starts = load_windows(out / "windows.csv")["start"].to_numpy()
    assert not ((starts < 100) & (starts + 24 > 100)).any()


def test_many_chunks_are_written_and_a_killed_run_goes_on(stage, tmp_path, monkeypatch):
    """Ten frames a file; the run dies after the third file, and the next one writes the others only."""
    path = gappy(tmp_path)
    monkeypatch.setattr("s2kd.conversion.CHUNK_BYTES", 10 * 12 * 4)
    whole = contents(stage(path, "whole", missing="mask"))
    assert len([name for name in whole if name.startswith("frames.zarr/frames/c/")]) == 20
    written = []

    def compute(tasks):
        if len(written) >= 3:
            raise KeyboardInterrupt
        written.extend(tasks)
        return real_compute(tasks)

    real_compute = dask.compute
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("s2kd.conversion.dask.compute", compute)
    with pytest.raises(KeyboardInterrupt):
        stage(path, "killed", missing="mask")
    assert not (tmp_path / "killed").exists()
    assert len(list((tmp_path / ".scratch").rglob("frames/c/*/0/0/0"))) == 3
    monkeypatch.setattr("s2kd.conversion.dask.compute", lambda tasks: written.extend(tasks) or real_compute(tasks))
    assert contents(stage(path, "killed", missing="mask")) == whole
    assert len(written) == 20
    assert not list((tmp_path / ".scratch").glob("download-*[!k]"))  # all but the lock


def test_a_full_disk_is_seen_before_anything_is_written(stage, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 100))
    with pytest.raises(UserError, match=r"frames\.zarr needs 0\.0 GiB more, the disk has 0\.0 GiB; free some"):
        stage(gappy(tmp_path), missing="mask")
    assert not (tmp_path / "out").exists()


def test_a_cluster_writes_the_same_bytes(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("s2kd.conversion.CHUNK_BYTES", 50 * 12 * 4)
    path = gappy(tmp_path)
    alone = contents(stage(path, "alone", missing="mask"))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        assert contents(stage(path, "cluster", missing="mask")) == alone
