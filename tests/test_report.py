"""The shape of the summary, its intervals by hand, and the report's files from a small data set."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from dvclive import Live
from matplotlib.image import imread
from ruamel.yaml import YAML
from scipy import stats

from s2kd.dataset import Meta, load_frames, load_times
from s2kd.evaluation import evaluate, write_evaluation
from s2kd.figures import draw_forecast
from s2kd.naive import climatology
from s2kd.params import load_params
from s2kd.report import BASELINES, gain_percent, read_curve, spread, summarise
from s2kd.rollout import evaluate_rollout, rollout_windows
from s2kd.stage import UserError
from stages import report

PARAMS = Path(__file__).parents[1] / "params.yaml"


def scores(mse: float) -> dict:
    return {"mse": mse, "mae": 1.0, "rmse": mse**0.5, "n_windows": 5, "parameters": 9, "flops": 8, "channels": {}}


def test_gain_is_paired_by_seed_with_students_interval():
    gain = gain_percent([2.0, 4.0, 5.0], [1.0, 3.0, 4.5])
    gains = np.array([50.0, 25.0, 10.0])
    low, high = stats.t.interval(0.95, df=2, loc=gains.mean(), scale=stats.sem(gains))
    assert gain == pytest.approx({"mean": 85 / 3, "low": low, "high": high}, rel=1e-5)
    assert gain["low"] == pytest.approx(85 / 3 - 4.302653 * gains.std(ddof=1) / 3**0.5, rel=1e-5)


def test_one_seed_has_neither_deviation_nor_interval():
    assert spread([3.0]) == {"mean": 3.0, "low": None, "high": None, "std": None, "n": 1}
    assert gain_percent([2.0], [1.0]) == {"mean": 50.0, "low": None, "high": None}


def test_spread_is_students_interval_and_the_sample_deviation():
    # t at 97.5 % with one degree of freedom is tan(0.475 π), with two 4.302653: closed form and table.
    half = 0.5 * math.tan(0.475 * math.pi)  # of 2 and 3: deviation √½, over √2
    expected = {"mean": 2.5, "low": 2.5 - half, "high": 2.5 + half, "std": 0.5**0.5, "n": 2}
    assert spread([2.0, 3.0]) == pytest.approx(expected, rel=1e-5)
    half = 4.302653 / 3**0.5
    expected = {"mean": 2, "low": 2 - half, "high": 2 + half, "std": 1, "n": 3}
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(expected, rel=1e-5)
    assert spread([2.0, None]) == {"mean": None, "low": None, "high": None, "std": None, "n": 2}


def test_summary_has_exactly_its_shape():
    variants = {
        "student_only": [scores(4.0), scores(4.0)],
        "feature_kd": [scores(2.0), scores(4.0)],
        "s2kd": [scores(1.0), scores(3.0)],
    }
    summary = summarise({"last_frame": scores(9.0)}, scores(1.0), variants)
    same = {"mean": 1.0, "low": 1.0, "high": 1.0, "std": 0.0, "n": 2}
    assert summary == {
        "baselines": {"last_frame": {"mse": 9.0, "mae": 1.0, "rmse": 3.0}},
        "teacher": {"mse": 1.0, "mae": 1.0, "rmse": 1.0},
        "variants": {
            "student_only": {
                "mse": {"mean": 4.0, "low": 4.0, "high": 4.0, "std": 0.0, "n": 2},
                "mae": same,
                "rmse": {"mean": 2.0, "low": 2.0, "high": 2.0, "std": 0.0, "n": 2},
            },
            "feature_kd": {
                "mse": {"mean": 3.0, "low": -9.7062, "high": 15.7062, "std": 1.41421, "n": 2},
                "mae": same,
                "rmse": {"mean": 1.70711, "low": -2.01445, "high": 5.42867, "std": 0.414214, "n": 2},
            },
            "s2kd": {
                "mse": {"mean": 2.0, "low": -10.7062, "high": 14.7062, "std": 1.41421, "n": 2},
                "mae": same,
                "rmse": {"mean": 1.36603, "low": -3.28477, "high": 6.01682, "std": 0.517638, "n": 2},
            },
        },
        "gain_over_feature_kd_percent": {
            "student_only": {"mean": -50.0, "low": -685.31, "high": 585.31},
            "s2kd": {"mean": 37.5, "low": -121.328, "high": 196.328},
        },
        "gain_over_student_only_percent": {
            "feature_kd": {"mean": 25.0, "low": -292.655, "high": 342.655},
            "s2kd": {"mean": 50.0, "low": -267.655, "high": 367.655},
        },
    }
    without = summarise({}, scores(1.0), {"s2kd": [scores(1.0)]})
    assert without["gain_over_feature_kd_percent"] == without["gain_over_student_only_percent"] == {}


# --- the stage ---------------------------------------------------------------------------------------------------


def change_params(source: Path, path: Path, group: str, values: dict) -> None:
    yaml = YAML()
    params = yaml.load(source)
    params[group].update(values)
    yaml.dump(params, path)


def write_frames(path: Path, frames: np.ndarray, times: pd.DatetimeIndex) -> None:
    plain = {"frames": {"chunks": frames.shape, "compressors": None}}
    data = xr.Dataset({"frames": (("time", "channel", "y", "x"), frames)}, coords={"time": times})
    data.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=plain)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """Folder of a small data set, with evaluations and training curves of two variants with two seeds."""
    root = tmp_path_factory.mktemp("report")
    change_params(PARAMS, root / "params.yaml", "runs", {"variants": ["feature_kd", "s2kd"], "seeds": [0, 1]})
    rng = np.random.default_rng(0)
    frames = rng.gamma(2.0, size=(60, 2, 10, 12)).astype(np.float32).cumsum(-1)
    times = pd.date_range("2001-01-01", periods=60, freq="h")
    write_frames(root / "frames.zarr", frames, times)
    starts = np.arange(53)
    split = np.where(starts < 30, "train", np.where(starts < 40, "validation", "test"))
    windows = pd.DataFrame({"id": starts, "start": starts, "split": split})
    windows.to_csv(root / "windows.csv", index=False)
    meta = Meta(
        dataset="toy", title="Toy rain", domain="weather", country=None, channels=("a", "b"), units=("mm", "mm"),
        time_step=3600, start="2001-01-01T00:00:00", n_frames=60, n_steps_input=5, n_steps_output=3, y_name="latitude",
        x_name="longitude", y=tuple(50.0 - np.arange(10)), x=tuple(range(12)), mean=(0, 0), std=(1, 1), period="none",
        missing="refuse", n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip
    (root / "meta.json").write_text(meta.model_dump_json())

    truth = np.stack([frames[start + 5 : start + 8] for start in range(40, 53)])
    extended = rollout_windows(windows, np.zeros(60, dtype=np.int64), meta, 4)
    usual = climatology(frames, times, windows, meta)
    runs = load_params("runs", root / "params.yaml")
    trained = ["teacher", *(f"{variant}-{seed}" for variant in runs.variants for seed in runs.seeds)]
    for name in [*BASELINES, *trained]:
        forecast = torch.from_numpy(truth + rng.normal(size=truth.shape).astype(np.float32))
        flops = None if name in BASELINES else 10**7
        empty = name == "previous_week"
        evaluation = evaluate(
            [] if empty else [forecast],
            frames,
            windows,
            meta,
            usual,
            np.array([41, 45]),
            np.arange(0) if empty else None,
        )
        reason = "too short a record" if empty else None
        rollout = None
        if name in ("last_frame", "climatology") or (name not in BASELINES and name != "teacher"):
            far = frames[extended[:, None] + 5 + np.arange(12)]
            far = torch.from_numpy(far + rng.normal(size=far.shape).astype(np.float32))
            rollout = evaluate_rollout([far], frames, windows, meta, extended, 4)
        write_evaluation(evaluation, name, root / "metrics", root / "examples", flops, flops, reason, rollout=rollout)
    for name in trained:
        for split in ("train", "validation"):
            folder = root / "training" / name / "plots" / "metrics" / split
            folder.mkdir(parents=True)
            (folder / "prediction.tsv").write_text(f"step\tprediction\n0\t3.0\n1\t{rng.random()}\n")
    (root / "latency").mkdir()
    for name in trained:
        (root / "latency" / f"{name}.json").write_text('{"median_ms": 12.3456, "threads": 1}')
    return root


def run_stage(root: Path, monkeypatch) -> None:
    monkeypatch.chdir(root)
    inputs = ["--frames=frames.zarr", "--windows=windows.csv", "--meta=meta.json", "--metrics-dir=metrics"]
    inputs += ["--examples-dir=examples", "--latency-dir=latency", "--training-dir=training"]
    outputs = ["--summary=out/summary.json", "--table=out/results.md", "--csv=out/results.csv", "--figures=out/figures"]
    outputs += ["--latency=out/latency.csv"]
    monkeypatch.setattr(sys, "argv", ["report", *inputs, *outputs])
    report.main()


def test_stage_writes_summary_table_and_figures_the_same_each_time(evaluated, tmp_path, monkeypatch):
    root = shutil.copytree(evaluated, tmp_path / "run")
    run_stage(root, monkeypatch)
    runs = load_params("runs")
    gains = {"gain_over_feature_kd_percent", "gain_over_student_only_percent"}
    summary = json.loads((root / "out/summary.json").read_text())
    assert set(summary) == {"toy"}
    assert set(summary["toy"]) == {"baselines", "teacher", "variants", *gains}
    assert summary["toy"]["baselines"]["previous_week"]["mse"] is None
    assert set(summary["toy"]["variants"]) == set(runs.variants)
    assert set(summary["toy"]["gain_over_feature_kd_percent"]) == set(runs.variants) - {"feature_kd"}
    table = pd.read_csv(root / "out/results.csv", index_col="forecaster")
    assert list(table.index) == [*BASELINES, "teacher", *runs.variants]
    latency = pd.read_csv(root / "out/latency.csv", index_col="model")
    assert latency.loc["teacher"].to_dict() == {"median_ms": 12.3456, "threads": 1}
    assert len(latency) == 1 + len(runs.variants) * len(runs.seeds)
    text = (root / "out/results.md").read_text()
    assert "previous_week: too short a record." in text
    row = next(line for line in text.splitlines() if line.startswith("| s2kd |"))
    mse = summary["toy"]["variants"]["s2kd"]["mse"]
    assert f"| {mse['mean']:#.4g} [{mse['low']:#.4g}, {mse['high']:#.4g}] (2) |" in row
    assert "| MSE, hard windows | MSE, roll-out |" in text
    assert "Hard windows: the 2 in which" in text
    assert "Roll-out: 4 windows" in text
    assert "| MSE, roll-out | RMSE, latitude-weighted | ACC, latitude-weighted | MSE gain" in text
    assert "as in WeatherBench" in text
    assert {"acc", "acc_latitude", "rmse_latitude"} <= set(summary["toy"]["teacher"]) & set(table.columns)
    first = {path.name: path.read_bytes() for path in (root / "out/figures").iterdir()}
    assert set(first) == {"lead_time.png", "spectra.png", "forecast.png", "training.png"}
    for path in (root / "out/figures").iterdir():
        assert imread(path)[..., :3].var() > 1e-3  # not blank
        assert path.stat().st_size < 150_000

    # Evaluations of runs that are no longer asked for change nothing, and a second run the bytes of nothing.
    shutil.copy(root / "metrics/s2kd-0.json", root / "metrics/s2kd-99.json")
    (root / "metrics/gone-0.json").write_text("{}")
    run_stage(root, monkeypatch)
    assert json.loads((root / "out/summary.json").read_text()) == summary
    assert {path.name: path.read_bytes() for path in (root / "out/figures").iterdir()} == first


def test_a_teacher_that_read_the_targets_is_no_forecaster(evaluated, tmp_path, monkeypatch):
    root = shutil.copytree(evaluated, tmp_path / "run")
    change_params(root / "params.yaml", root / "params.yaml", "narrative", {"view": "history_and_target"})
    run_stage(root, monkeypatch)
    assert "teacher" not in pd.read_csv(root / "out/results.csv")["forecaster"].tolist()
    assert "history_and_target" in (root / "out/results.md").read_text()


def test_scores_by_latitude_are_for_machines_where_it_is_not_weather(evaluated, tmp_path, monkeypatch):
    root = shutil.copytree(evaluated, tmp_path / "run")
    meta = Meta.load(root / "meta.json")
    (root / "meta.json").write_text(meta.model_copy(update={"domain": "traffic"}).model_dump_json())
    run_stage(root, monkeypatch)
    assert "ACC" not in (root / "out/results.md").read_text()
    assert {"acc", "acc_latitude", "rmse_latitude"} <= set(pd.read_csv(root / "out/results.csv").columns)


@pytest.mark.parametrize("part", [slice(0, 4), slice(None)])
def test_figures_of_a_truth_with_holes_and_without_a_calendar(evaluated, tmp_path, monkeypatch, part):
    root = shutil.copytree(evaluated, tmp_path / "run")
    frames, times = load_frames(root / "frames.zarr")[np.arange(60)], load_times(root / "frames.zarr")
    frames[40:, :, part] = np.nan
    write_frames(root / "frames.zarr", frames, times)
    meta = Meta.load(root / "meta.json").model_copy(update={"n_missing": 1, "nominal_time": True})
    (root / "meta.json").write_text(meta.model_dump_json())
    run_stage(root, monkeypatch)
    for path in (root / "out/figures").iterdir():
        assert imread(path)[..., :3].var() > 1e-3
    text = (root / "out/results.md").read_text()
    assert "Missing values of the truth are not scored." in text
    assert "3 forecast, one step apart." in text


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("metrics/last_frame.json", "evaluate_naive"),
        ("metrics/teacher-spectrum.csv", "evaluate_teacher"),
        ("metrics/climatology-rollout.csv", "evaluate_naive"),
        ("metrics/s2kd-1-rollout.csv", "evaluate"),
        ("metrics/s2kd-0.json", "evaluate"),
        ("examples/s2kd-0.npy", "evaluate"),
        ("training/s2kd-0/plots/metrics/train/prediction.tsv", "distill"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(evaluated, tmp_path, monkeypatch, file, command):
    root = shutil.copytree(evaluated, tmp_path / "run")
    (root / file).unlink()
    with pytest.raises(UserError, match=rf"{file} is missing; run `dvc repro {command}` "):
        run_stage(root, monkeypatch)


def test_north_is_up_whichever_way_the_rows_run(evaluated, tmp_path):
    meta, times = Meta.load(evaluated / "meta.json"), pd.date_range("2001-01-01", periods=3, freq="h")
    truth = load_frames(evaluated / "frames.zarr")[np.arange(3)]
    northward = meta.model_copy(update={"y": meta.y[::-1]})
    draw_forecast(tmp_path / "down.png", truth, {"s2kd": truth + 1}, times, meta)
    draw_forecast(tmp_path / "up.png", truth[:, :, ::-1], {"s2kd": truth[:, :, ::-1] + 1}, times, northward)
    assert (tmp_path / "down.png").read_bytes() == (tmp_path / "up.png").read_bytes()


def test_training_curve_is_read_as_dvclive_writes_it(tmp_path):
    live = Live(str(tmp_path / "teacher"), dvcyaml=None, save_dvc_exp=False, report=None)
    for loss in (2.5, 1.5):
        live.log_metric("validation/prediction", loss)
        live.next_step()
    curve = read_curve(tmp_path, "teacher", "validation")
    assert curve.to_dict("list") == {"step": [0, 1], "value": [2.5, 1.5]}
