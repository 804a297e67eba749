"""The download stage on two years of air temperature."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from ruamel.yaml import YAML

from s2kd.dataset import Meta, load_frames, load_times, load_windows
from s2kd.stage import UserError
from stages import download

ROOT = Path(__file__).parents[1]
NCEP = ROOT.parent / "shared/data/ncep_air_temperature_2013_2014.nc"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run the stage on a file in ``tmp_path`` with the repository's parameters; return the folder it wrote to."""
    monkeypatch.chdir(tmp_path)

    def run(path: Path, folder: str = "out", meta: str = "meta.json") -> Path:
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["datasets"]["file"].update(title="Air", stride=1, n_steps_input=12, n_steps_output=12)
        params["datasets"]["file"]["source"].update(path=str(path), variables=["air"], licence="free", citation="NOAA")
        params["datasets"]["file"]["split"] = {"name": "chronological", "train_end": 0.7, "validation_end": 0.85}
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
        np.testing.assert_array_equal(frames[:, 0], original["air"].to_numpy().astype(np.float32))
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
        data.to_netcdf(tmp_path / "air.nc")
        return tmp_path / "air.nc"

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
