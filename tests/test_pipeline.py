"""The stages as processes: in order, twice, killed and resumed, on two processes, and misused."""

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
from conftest import DATA, INPUTS, ROOT, VARIANTS, call_stage, contents, environment, run_stage, training
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file

STAGES = sorted({path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"})
TRAININGS = ("teacher", "s2kd-0")


@pytest.fixture
def untrained(pipeline, tmp_path) -> Path:
    """A copy of the pipeline with data, without models and curves."""
    folder = tmp_path / "run"
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("models", "metrics", ".scratch"))
    return folder


def outputs(folder: Path, name: str) -> dict[str, bytes]:
    """What a training wrote, by path relative to its folder."""
    found = contents(folder / "models" / name, folder / "metrics/training" / name)
    if name == "teacher":
        found["features"] = (folder / DATA / "features.npy").read_bytes()
    return {path.replace(str(folder), ""): content for path, content in found.items()}


def test_summary_has_its_shape_and_finite_scores(pipeline):
    summary = json.loads((pipeline / "metrics/summary.json").read_text())["toy"]
    assert set(summary) == {"baselines", "teacher", "variants", "gain_over_feature_kd_percent"}
    assert set(summary["variants"]) == set(VARIANTS)
    assert all(0 < scores["mse"] < 1000 for scores in [summary["teacher"], *summary["baselines"].values()])
    assert summary["variants"]["s2kd"]["mse"]["n"] == 1
    gain = summary["gain_over_feature_kd_percent"]["s2kd"]
    mse = {variant: summary["variants"][variant]["mse"]["mean"] for variant in ("feature_kd", "s2kd")}
    assert gain["mean"] == pytest.approx(100 * (1 - mse["s2kd"] / mse["feature_kd"]), rel=1e-3)
    assert gain["low"] is None


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


def test_backend_and_view_stand_in_all_that_depends_on_them(pipeline):
    narrative = {"backend": "template", "view": "history"}
    with safe_open(pipeline / DATA / "embeddings.safetensors", framework="numpy") as file:
        assert narrative.items() <= file.metadata().items()
    for name in ("teacher", "feature_kd-0", "s2kd-0"):
        assert json.loads((pipeline / f"models/{name}/config.json").read_text())["narrative"] == narrative
        assert json.loads((pipeline / f"metrics/evaluate/{name}.json").read_text())["narrative"] == narrative
    for name in ("student_only-0", "last_frame"):
        assert json.loads((pipeline / f"metrics/evaluate/{name}.json").read_text())["narrative"] is None
    assert "template backend, history view" in (pipeline / "metrics/results.md").read_text()


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
    yaml, path = YAML(), untrained / "params.yaml"
    shutil.copytree(untrained, other := untrained.with_name("other"))
    params = yaml.load(path)
    params["teacher" if name == "teacher" else "student"]["training"]["learning_rate"] *= 0.5
    yaml.dump(params, other / "params.yaml")
    call_stage(other, *training(name))
    curve = f"metrics/training/{name}/plots/metrics/train/prediction.tsv"
    first = [pd.read_csv(folder / curve, sep="\t")["prediction"][0] for folder in (pipeline, other)]
    assert first[0] != first[1]

    call_stage(untrained, *training(name))
    assert outputs(untrained, name) == outputs(pipeline, name)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_to_the_result_of_one(pipeline, untrained, name):
    params = YAML().load(untrained / "params.yaml")
    params["teacher"]["model"]["dropout"] = 0  # the processes draw different masks
    YAML().dump(params, untrained / "params.yaml")
    shutil.copytree(untrained, two := untrained.with_name("two"))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    call_stage(untrained, *training(name))
    process = run_stage(two, *training(name), launcher=launcher, ACCELERATE_USE_CPU="true")
    assert process.returncode == 0, process.stderr
    curve = f"metrics/training/{name}/plots/metrics/validation/prediction.tsv"
    losses = [pd.read_csv(folder / curve, sep="\t")["prediction"] for folder in (untrained, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    weights = [load_file(folder / "models" / name / "model.safetensors") for folder in (untrained, two)]
    for key, value in weights[0].items():
        np.testing.assert_allclose(weights[1][key], value, atol=2e-3, err_msg=key)
    if name == "teacher":
        features = [np.load(folder / DATA / "features.npy").astype(np.float32) for folder in (untrained, two)]
        np.testing.assert_allclose(features[1], features[0], atol=2e-2)


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
