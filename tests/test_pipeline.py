"""The stages as processes: in order, twice, killed and resumed, on two processes, and misused."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from conftest import (
    DATA,
    EMBEDDINGS,
    EXTRACT,
    INPUTS,
    ROOT,
    VARIANTS,
    call_stage,
    contents,
    environment,
    run_stage,
    training,
)
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file

from s2kd.stage import UserError

STAGES = sorted({path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"})
TRAININGS = ("teacher", "s2kd-0")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
NARRATIVE = {"backend": "template", "view": "history", "text": "real", "corruption": 0, "seed": 0}


@pytest.fixture
def untrained(pipeline, tmp_path) -> Path:
    """A copy of the pipeline with data, without models and curves."""
    folder = tmp_path / "run"
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("models", "metrics", ".scratch"))
    return folder


def change(folder: Path, values: dict[str, object]) -> None:
    """Give parameters of ``folder`` other values, by their dotted names."""
    yaml, path = YAML(), folder / "params.yaml"
    params = yaml.load(path)
    for location, value in values.items():
        *parents, key = location.split(".")
        functools.reduce(lambda node, parent: node[parent], parents, params)[key] = value
    yaml.dump(params, path)


def outputs(folder: Path, name: str) -> dict[str, bytes]:
    """What a training wrote, by path relative to its folder."""
    found = contents(folder / "models" / name, folder / "metrics/training" / name)
    return {path.replace(str(folder), ""): content for path, content in found.items()}


def test_summary_has_its_shape_and_finite_scores(pipeline):
    summary = json.loads((pipeline / "metrics/summary.json").read_text())["toy"]
    gains = {"gain_over_feature_kd_percent", "gain_over_student_only_percent"}
    assert set(summary) == {"baselines", "teacher", "variants", *gains}
    assert set(summary["variants"]) == set(VARIANTS)
    assert all(0 < scores["mse"] < 1000 for scores in [summary["teacher"], *summary["baselines"].values()])
    assert summary["variants"]["s2kd"]["mse"]["n"] == 1
    gain = summary["gain_over_feature_kd_percent"]["s2kd"]
    mse = {variant: summary["variants"][variant]["mse"]["mean"] for variant in ("feature_kd", "s2kd")}
    assert gain["mean"] == pytest.approx(100 * (1 - mse["s2kd"] / mse["feature_kd"]), rel=1e-3)
    assert gain["low"] is None


def test_dvc_yaml_declares_the_files_that_are_written_and_no_others(pipeline):
    """The folders here are those of ``dvc.yaml`` without the data set's name, which ``data`` alone has."""
    declared = set()
    for stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values():
        for entry in [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]:
            path = entry if isinstance(entry, str) else next(iter(entry))
            path = path.replace("data/${dataset}", DATA).replace("/${dataset}", "")
            declared |= {path.replace("${item.variant}-${item.seed}", f"{variant}-0") for variant in VARIANTS}
    files = [
        path.relative_to(pipeline)
        for folder in ("data", "models", "metrics")
        for path in (pipeline / folder).rglob("*")
    ]
    written = {path.as_posix() for path in files if (pipeline / path).is_file()}
    within = {path: next((out for out in declared if f"{path}/".startswith(f"{out}/")), None) for path in written}
    assert [path for path, out in within.items() if out is None] == []
    assert declared - set(within.values()) == set()


def test_every_window_has_a_narrative_and_an_embedding(pipeline):
    windows = pd.read_csv(pipeline / DATA / "windows.csv")
    lines = [json.loads(line) for line in (pipeline / DATA / "narratives.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == windows["id"].tolist()
    tensors = load_file(pipeline / DATA / "embeddings.safetensors")
    assert len(tensors["text_of_window"]) == len(windows)
    assert tensors["offsets"][-1] == len(tensors["values"])
    assert len(tensors["offsets"]) - 1 == len({line["text"] for line in lines})


def test_models_are_safetensors_with_their_config(pipeline):
    for name in ("teacher", "student_only-0", "feature_kd-0", "s2kd-0"):
        assert {path.name for path in (pipeline / "models" / name).iterdir()} == {"model.safetensors", "config.json"}
    students = [load_file(pipeline / f"models/{name}-0/model.safetensors") for name in ("student_only", "s2kd")]
    assert students[0].keys() == students[1].keys()  # distillation leaves no trace in the architecture


def test_the_narrative_stands_in_all_that_depends_on_it(pipeline):
    with safe_open(pipeline / DATA / "embeddings.safetensors", framework="numpy") as file:
        found = file.metadata()
    assert {"backend": "template", "view": "history", "control": "real", "corruption": "0.0", "seed": "0"}.items() <= (
        found.items()
    )
    for name in ("teacher", "feature_kd-0", "s2kd-0"):
        assert json.loads((pipeline / f"models/{name}/config.json").read_text())["narrative"] == NARRATIVE
        assert json.loads((pipeline / f"metrics/evaluate/{name}.json").read_text())["narrative"] == NARRATIVE
    for name in ("student_only-0", "last_frame"):
        assert json.loads((pipeline / f"metrics/evaluate/{name}.json").read_text())["narrative"] is None
    assert "template backend, history view" in (pipeline / "metrics/results.md").read_text()


def test_models_know_the_period_of_their_means(pipeline):
    for name in ("teacher", "student_only-0", "s2kd-0"):
        assert json.loads((pipeline / f"models/{name}/config.json").read_text())["period"] == "day"
        weights = load_file(pipeline / f"models/{name}/model.safetensors")
        assert weights["standardise.mean"].shape == (24, 1, 7, 10)
        assert weights["standardise.std"].shape == (1, 7, 10)


def test_what_students_learn_from_is_of_the_teacher_standardised(pipeline):
    features, forecasts = (np.load(pipeline / DATA / f"{name}.npy") for name in ("features", "forecasts"))
    windows = pd.read_csv(pipeline / DATA / "windows.csv")
    assert (features.dtype, features.shape) == (np.float16, (len(windows), 2, 16, 2, 3))
    assert (forecasts.dtype, forecasts.shape) == (np.float16, (len(windows), 3, 1, 7, 10))
    train = features[windows["split"] == "train"].astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 3, 4)), 0, atol=2e-3)
    np.testing.assert_allclose(train.std((0, 3, 4)), 1, atol=2e-3)
    # The forecasts of the test windows have the error that the teacher is scored by.
    test = windows[windows["split"] == "test"]
    frames = zarr.open_array(pipeline / DATA / "frames.zarr/frames", mode="r")[:]
    steps = test["start"].to_numpy()[:, None] + 4 + np.arange(3)
    statistics = load_file(pipeline / "models/teacher/model.safetensors")
    usual = statistics["standardise.mean"][steps % 24]  # the record starts at midnight
    restored = forecasts[test["id"]] * statistics["standardise.std"] + usual
    scores = json.loads((pipeline / "metrics/evaluate/teacher.json").read_text())
    assert np.square(restored - frames[steps]).mean() == pytest.approx(scores["mse"], rel=1e-3)


def test_every_term_and_every_error_has_a_curve(pipeline):
    def curves(name: str) -> set[str]:
        folder = pipeline / f"metrics/training/{name}/plots/metrics"
        return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.tsv")}

    always = {"train/prediction", "validation/prediction"}
    assert curves("teacher") == curves("student_only-0") == always
    for variant in ("feature_kd", "s2kd"):
        terms = {f"train/{name}" for name in VARIANTS[variant]}
        assert curves(f"{variant}-0") == always | terms | {"validation/reconstruction"}


def test_a_variant_reads_no_more_of_the_teacher_than_it_learns_from(pipeline, untrained):
    (untrained / DATA / "forecasts.npy").unlink()
    call_stage(untrained, *training("feature_kd-0"))
    assert outputs(untrained, "feature_kd-0") == outputs(pipeline, "feature_kd-0")
    (untrained / DATA / "features.npy").unlink()
    call_stage(untrained, *training("student_only-0"))
    assert outputs(untrained, "student_only-0") == outputs(pipeline, "student_only-0")
    with pytest.raises(OSError, match=r"features\.npy"):
        call_stage(untrained, *training("s2kd-0"))


def test_without_text_the_teacher_is_the_visual_one(pipeline, untrained):
    """The control `none`: the same stages and the same class, no token."""
    change(untrained, {"narrative.text": "none", "teacher.training.epochs": 1, "teacher.tap": "evolved"})
    call_stage(untrained, "narrate", *INPUTS, f"--narratives={DATA}/narratives.jsonl")
    call_stage(untrained, "embed", f"--narratives={DATA}/narratives.jsonl", EMBEDDINGS)
    assert load_file(untrained / DATA / "embeddings.safetensors")["values"].shape == (0, 384)
    call_stage(untrained, *training("teacher"))
    call_stage(untrained, *EXTRACT)
    shapes = [load_file(folder / "models/teacher/model.safetensors") for folder in (untrained, pipeline)]
    assert {name: value.shape for name, value in shapes[0].items()} == {
        name: value.shape for name, value in shapes[1].items()
    }
    config = json.loads((untrained / "models/teacher/config.json").read_text())
    assert config["narrative"] == NARRATIVE | {"text": "none"}
    features = np.load(untrained / DATA / "features.npy")
    assert features.shape == np.load(pipeline / DATA / "features.npy").shape
    assert np.isfinite(features).all()


def test_scratch_is_empty_when_all_is_done(pipeline):
    assert not [path for path in (pipeline / ".scratch").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_training_twice_gives_the_same_bytes(pipeline, untrained, name):
    process = run_stage(untrained, *training(name))
    assert process.returncode == 0, process.stderr
    assert outputs(untrained, name) == outputs(pipeline, name)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_resumes_to_the_same_bytes(pipeline, untrained, name):
    stage, *arguments = training(name)
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    process = subprocess.Popen(command, cwd=untrained, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (states := list(untrained.glob(".scratch/*/state.safetensors"))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert states[0].exists()
    assert not (untrained / "models" / name).exists()

    # Under another learning rate the state is not taken up; under the old one it is.
    shutil.copytree(untrained, other := untrained.with_name("other"))
    change(other, {f"{'teacher' if name == 'teacher' else 'student'}.training.learning_rate": 0.0005})
    call_stage(other, *training(name))
    curve = f"metrics/training/{name}/plots/metrics/train/prediction.tsv"
    first = [pd.read_csv(folder / curve, sep="\t")["prediction"][0] for folder in (pipeline, other)]
    assert first[0] != first[1]

    call_stage(untrained, *training(name))
    assert outputs(untrained, name) == outputs(pipeline, name)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_to_the_result_of_one(pipeline, untrained, name):
    change(untrained, {"teachers.toy.dropout": 0})  # the processes draw different masks
    shutil.copytree(untrained, two := untrained.with_name("two"))
    call_stage(untrained, *training(name))
    process = run_stage(two, *training(name), launcher=TWO, ACCELERATE_USE_CPU="true")
    assert process.returncode == 0, process.stderr
    curve = f"metrics/training/{name}/plots/metrics/validation/prediction.tsv"
    losses = [pd.read_csv(folder / curve, sep="\t")["prediction"] for folder in (untrained, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    weights = [load_file(folder / "models" / name / "model.safetensors") for folder in (untrained, two)]
    for key, value in weights[0].items():
        np.testing.assert_allclose(weights[1][key], value, atol=2e-3, err_msg=key)


def test_two_processes_extract_what_one_does(pipeline, tmp_path):
    """And one writes the same bytes twice."""
    folder = tmp_path / "run"
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("features.npy", "forecasts.npy", "metrics"))
    change(folder, {"evaluation.batch_size": 32})  # three batches for two processes
    shutil.copytree(folder, two := tmp_path / "two")
    call_stage(folder, *EXTRACT)
    process = run_stage(two, *EXTRACT, launcher=TWO, ACCELERATE_USE_CPU="true")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("features.npy") == 1  # told by one of them
    for name in ("features.npy", "forecasts.npy"):
        wanted, *others = (np.load(parent / DATA / name).astype(np.float32) for parent in (pipeline, folder, two))
        for found in others:  # other batches, other rounding
            np.testing.assert_allclose(found, wanted, rtol=2**-10, atol=2e-3)
    change(folder, {"evaluation.batch_size": 64})
    call_stage(folder, *EXTRACT)
    for name in ("features.npy", "forecasts.npy"):
        assert (folder / DATA / name).read_bytes() == (pipeline / DATA / name).read_bytes()
    assert not [path for path in (two / DATA).iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("stage", STAGES)
def test_help_imports_nothing_heavy(stage):
    code = (
        f"import sys; sys.argv = ['x', '--help']; import runpy; runpy.run_module('stages.{stage}', run_name='__main__')"
    )
    guard = "import sys\nfor name in ('torch', 'numpy', 'pandas', 'xarray', 'pydantic'): sys.modules[name] = None\n"
    process = subprocess.run([sys.executable, "-c", guard + code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "usage:" in process.stdout


@pytest.mark.parametrize(
    ("stage", "arguments", "words"),
    [
        ("narrate", [*INPUTS, "--narratives=out.jsonl"], ["params.yaml", "narrative.veiw", "did you mean 'view'"]),
        ("evaluate", [*INPUTS, "--model=models/gone", "--name=x", "--metrics-dir=m", "--examples-dir=e", "--latency=l"],
         ["models/gone", "dvc repro"]),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_message_and_no_traceback(pipeline, tmp_path, stage, arguments, words):
    shutil.copytree(pipeline, folder := tmp_path / "run", ignore=shutil.ignore_patterns("models", ".scratch"))
    if stage == "narrate":
        text = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(text.replace("  view:", "  veiw:"))
    process = run_stage(folder, stage, *arguments)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert all(word in process.stderr for word in words), process.stderr
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("values", "stage", "message"),
    [
        ({"teachers.toy.n_steps_latent": 3}, training("teacher"), r"n_steps_latent = 3 does not divide the 4 input"),
        ({}, [*training("teacher"), "--teacher=tyo"], r"teachers has no 'tyo'; did you mean 'toy'"),
        ({}, [*training("s2kd-0"), "--student=tyo"], r"students has no 'tyo'; did you mean 'toy'"),
        ({}, [*training("s2kd-0"), "--variant=s2dk"], r"variants has no 's2dk'; did you mean 's2kd'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_explained(untrained, values, stage, message):
    change(untrained, values)
    with pytest.raises(UserError, match=message):
        call_stage(untrained, *stage)
