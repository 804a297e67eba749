"""A small data set on disk and two ways to run the stages on it: in this process, which is quick, and as processes."""

import contextlib
import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the same bytes here and in the processes started below

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
DATA = "data/toy"
VARIANTS = {  # with the terms that each learns by; together they read all that the teacher leaves
    "student_only": (),
    "feature_kd": ("feature",),
    "s2kd": ("semantic", "spectral", "output", "boundary", "band"),
}
INPUTS = [f"--frames={DATA}/frames.zarr", f"--windows={DATA}/windows.csv", f"--meta={DATA}/meta.json"]
EMBEDDINGS = f"--embeddings={DATA}/embeddings.safetensors"
EXTRACTED = (f"--features={DATA}/features.npy", f"--forecasts={DATA}/forecasts.npy")
EXTRACT = ("extract", *INPUTS, EMBEDDINGS, "--model=models/teacher", *EXTRACTED)


def write_weather(path: Path) -> None:
    """Three hundred hours of a wave that drifts east under a daily cycle, on a grid that no stride divides."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2001-01-01", periods=300, freq="h")
    hour, y, x = np.meshgrid(np.arange(300), np.arange(7), np.arange(10), indexing="ij")
    wave = 5 * np.cos(2 * np.pi * (x / 10 - hour / 20)) + 3 * np.cos(2 * np.pi * hour / 24) + y
    air = (280 + wave + rng.normal(scale=0.3, size=wave.shape)).astype(np.float32)
    coordinates = {"time": times, "lat": 60.0 - 2.5 * np.arange(7), "lon": 2.5 * np.arange(10)}
    array = xr.DataArray(air, coordinates, ("time", "lat", "lon"), attrs={"units": "K", "long_name": "air temperature"})
    xr.Dataset({"air": array}).to_netcdf(path)


def write_params(path: Path) -> None:
    """The parameters of the repository, cut down to a data set and models that train in seconds."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["datasets"]["toy"] = params["datasets"]["file"]
    toy = params["datasets"]["toy"]
    toy.update({"n_steps_input": 4, "n_steps_output": 3, "stride": 3, "period": "day"})
    toy["source"].update({"path": "air.nc", "variables": ["air"]})
    params["runs"].update({"variants": list(VARIANTS), "seeds": [0]})
    params["teacher"]["model"] = params["student"]["model"] = "toy"
    params["teachers"]["toy"] = {
        "n_steps_latent": 2, "width": 16, "stride": 4, "encoder_depth": 1, "alignment_depth": 1, "evolution_depth": 1,
        "n_heads": 2, "dropout": 0.1, "gate": 0,
    }  # fmt: skip
    params["students"]["toy"] = {"name": "unet", "width": 8, "n_scales": 2, "dropout": 0}
    for variant, names in VARIANTS.items():
        weights = {name: 0.01 if name in names else 0 for name in params["variants"]["s2kd"]["weights"]}
        params["variants"][variant] = {"weights": weights}
    for part in ("teacher", "student"):
        params[part]["training"].update({"epochs": 3, "batch_size": 16})
    params["evaluation"].update({"latency_repeats": 3})
    yaml.dump(params, path)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a user's shell at the root of the repository, one thread, as if DVC_ROOT were not set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | extra


def run_stage(folder: Path, name: str, *arguments: str, launcher: tuple[str, ...] = (), **extra: str):
    """Run a stage in a folder and return the finished process."""
    command = [*(launcher or (sys.executable,)), "-m", f"stages.{name}", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(**extra), capture_output=True, text=True)


def call_stage(folder: Path, name: str, *arguments: str) -> None:
    """Run the main of a stage in a folder, in this process."""
    old = sys.argv
    sys.argv = [f"stages/{name}.py", *arguments]
    try:
        with contextlib.chdir(folder):
            importlib.import_module(f"stages.{name}").main()
    finally:
        sys.argv = old


def training(name: str) -> tuple[str, ...]:
    """Stage and arguments that train ``teacher`` or ``<variant>-<seed>``."""
    common = (*INPUTS, f"--model=models/{name}", f"--curves=metrics/training/{name}")
    if name == "teacher":
        return ("train_teacher", *common, EMBEDDINGS, "--teacher=toy")
    variant, seed = name.rsplit("-", 1)
    return ("distill", *common, *EXTRACTED, "--student=toy", f"--variant={variant}", f"--seed={seed}")


def contents(*folders: Path) -> dict[str, bytes]:
    """Bytes of every file below some folders."""
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Path:
    """A folder in which every stage has run on the toy data set, in the order of the DAG. Not to be written to."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_weather(folder / "air.nc")
    write_params(folder / "params.yaml")
    narratives = f"--narratives={DATA}/narratives.jsonl"
    scores = ("--metrics-dir=metrics/evaluate", f"--examples-dir={DATA}/examples")
    students = [f"{variant}-0" for variant in VARIANTS]
    call_stage(folder, "download", "--dataset=toy", *INPUTS)
    call_stage(folder, "narrate", *INPUTS, narratives)
    call_stage(folder, "embed", narratives, EMBEDDINGS)
    call_stage(folder, *training("teacher"))
    call_stage(folder, *EXTRACT)
    for name in students:
        call_stage(folder, *training(name))
    for name in ("teacher", *students):
        model = (f"--model=models/{name}", f"--name={name}", f"--latency={DATA}/latency/{name}.json")
        if name == "teacher":
            call_stage(folder, "evaluate_teacher", *INPUTS, *model, *scores, EMBEDDINGS)
        else:
            call_stage(folder, "evaluate", *INPUTS, *model, *scores)
    call_stage(folder, "evaluate_naive", *INPUTS, *scores)
    written = {"summary": "summary.json", "table": "results.md", "csv": "results.csv", "latency": "latency.csv"}
    report = [f"--{option}=metrics/{file}" for option, file in written.items()] + ["--figures=metrics/figures"]
    report += [f"--latency-dir={DATA}/latency", "--training-dir=metrics/training"]
    call_stage(folder, "report", *INPUTS, *scores, *report)
    return folder
