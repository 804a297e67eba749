"""Studies: designs and their identity, a runner that is killed, and the statistics that the tables rest on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, environment

from s2kd.stage import UserError
from studies import figures, tables
from studies.design import Cell, cells_of, literal
from studies.rows import add_rows, load_rows
from studies.statistics import choose, gain, holm, interval
from studies.summarise import refreshed
from studies.tables import Study, load_study

# A pipeline of the same shape as ours, whose "trainings" are sums: the log beside the repository counts them.
TOY = """
import json, os, pathlib, sys, time
from ruamel.yaml import YAML
params = YAML(typ="safe").load(pathlib.Path("params.yaml"))
stage, *words = sys.argv[1:]
with open(os.environ["TOY_LOG"], "a") as log:
    log.write(" ".join([stage, *words]) + chr(10))
width = params["teacher"]["width"]
if stage == "train_teacher":
    time.sleep(0.5)
    pathlib.Path("data").mkdir(exist_ok=True)
    pathlib.Path("data/features").write_text(f"{width} {params['datasets']['toy']['source']['path']}")
else:
    variant, seed = words
    weight = params["variants"][variant]["weight"]
    if weight < 0:
        sys.exit("weights must not be negative")
    if os.environ.get("TOY_HANGS") == str(weight):
        time.sleep(60)
    curves = pathlib.Path(f"metrics/toy/training/{variant}-{seed}")
    for split in ("train", "validation"):
        path = curves / "plots/metrics" / split / "prediction.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = [2, 1 + weight + int(seed) / 100, 3]
        path.write_text("step\\tprediction\\n" + "".join(f"{i}\\t{value}\\n" for i, value in enumerate(values)))
"""
TOY_DVC = """
stages:
  train_teacher:
    cmd: python toy.py train_teacher
    deps: [toy.py]
    params: [teacher, datasets]
    outs: [data/features]
  distill:
    matrix:
      variant: ${runs.variants}
      seed: ${runs.seeds}
    cmd: python toy.py distill ${item.variant} ${item.seed}
    deps: [toy.py, data/features]
    params: ["variants.${item.variant}"]
    plots:
    - metrics/toy/training/${item.variant}-${item.seed}/plots/metrics: {cache: false}
"""
TOY_PARAMS = """
dataset: toy
datasets:
  toy:
    source:
      path: missing
teacher:
  seed: 0
  width: 1
variants:
  plain:
    weight: 0
  ours:
    weight: 0.5
runs:
  variants:
  - plain
  - ours
  seeds:
  - 0
  - 1
"""
TOY_DESIGN = """
question: Does the toy add up?
stage: distill
cells:
  plain: {set: {runs.variants: [plain]}}
  ours:
    set: {runs.variants: [ours]}
    grid: {variants.ours.weight: [0.25, 0.75]}
"""
PATH = "/somewhere/on/this/machine.nc"


@pytest.fixture
def toy(tmp_path) -> Path:
    folder = tmp_path / "toy"
    (folder / "studies").mkdir(parents=True)
    texts = {"toy.py": TOY, "dvc.yaml": TOY_DVC, "params.yaml": TOY_PARAMS, "studies/sums.yaml": TOY_DESIGN}
    texts[".gitignore"] = "/data/\n/.scratch/\n*.tmp\n"
    for name, text in texts.items():
        (folder / name).write_text(text)
    for words in ("git init -q", "dvc init -q", "git add .", "git -c user.name=x -c user.email=x commit -qm toy"):
        subprocess.run(words.split(), cwd=folder, check=True)
    return folder


def toy_environment(toy: Path, **extra: str) -> dict[str, str]:
    return environment(TOY_LOG=str(toy.parent / "log"), DVC_NO_ANALYTICS="1", **extra)


def study(toy: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "studies.run", "sums", f"--set=datasets.toy.source.path={PATH}", *arguments]
    return subprocess.run(command, cwd=toy, env=toy_environment(toy, **extra), capture_output=True, text=True)


def rows(toy: Path) -> pd.DataFrame:
    return pd.read_csv(toy / "studies/sums.csv")


def trainings(toy: Path) -> list[str]:
    return sorted((toy.parent / "log").read_text().splitlines())


# --- runner ------------------------------------------------------------------------------------------------------


def test_a_study_makes_one_row_a_run_and_the_shared_teacher_once(toy):
    process = study(toy, "--jobs=2")
    assert process.returncode == 0, process.stderr
    table = rows(toy)
    assert list(table["cell"]) == [cell for cell in ("plain", "ours/weight=0.25", "ours/weight=0.75") for _ in range(2)]
    assert list(table["seed"]) == [0, 1] * 3
    assert list(table["validation"]) == pytest.approx([1, 1.01, 1.25, 1.26, 1.75, 1.76])
    assert list(table["epoch"]) == [1] * 6
    assert json.loads(table["overrides"][5]) == {"runs.variants": ["ours"], "variants.ours.weight": 0.75}
    assert trainings(toy).count("train_teacher") == 1
    # The workspace is as it was: no cell ran there, and no committed file knows this machine.
    status = subprocess.run(["git", "status", "--porcelain"], cwd=toy, capture_output=True, text=True).stdout
    assert status == "?? studies/sums.csv\n"
    assert PATH not in (toy / "studies/sums.csv").read_text()
    assert f"-S datasets.toy.source.path={PATH}" in process.stderr

    # Nothing is left to do. A changed cell alone runs anew, a new name none; the old rows stay until --prune.
    before = trainings(toy)
    text = (toy / "studies/sums.csv").read_text()
    assert "0 of 3 cells to run" in study(toy).stdout
    assert (toy / "studies/sums.csv").read_text() == text
    design = TOY_DESIGN.replace("0.75", "1.0").replace("plain: ", "alone: ")
    (toy / "studies/sums.yaml").write_text(design)
    assert "1 of 3 cells to run: 2 students" in study(toy, "--dry").stdout
    assert "2 rows of cells that are no longer in the design" in study(toy).stdout
    assert trainings(toy) == sorted([*before, "distill ours 0", "distill ours 1"])
    assert set(rows(toy)["cell"]) == {"alone", "ours/weight=0.25", "ours/weight=1.0", "ours/weight=0.75"}
    study(toy, "--prune")
    assert set(rows(toy)["cell"]) == {"alone", "ours/weight=0.25", "ours/weight=1.0"}

    # --redo asks DVC for all of them, which has kept them.
    before, text = trainings(toy), (toy / "studies/sums.csv").read_text()
    assert study(toy, "--redo").returncode == 0
    assert trainings(toy) == before
    assert (toy / "studies/sums.csv").read_text() == text


def test_a_score_that_does_not_exist_is_empty(tmp_path):
    row = dict.fromkeys(("study", "cell", "key", "dataset", "variant", "device"), "a")
    row |= {
        "seed": 0,
        "validation": 0.5,
        "epoch": 1,
        "train": None,
        "mse": 1.5,
        "mse@1": float("nan"),
        "overrides": "{}",
    }
    add_rows(tmp_path / "a.csv", [row], [])
    (stored,) = load_rows(tmp_path / "a.csv").to_dict("records")
    assert (stored["mse"], stored["mse@1"], stored["train"]) == ("1.5", "", "")


def test_a_killed_study_goes_on_with_the_cells_without_rows(toy):
    command = [sys.executable, "-m", "studies.run", "sums"]
    process = subprocess.Popen(command, cwd=toy, env=toy_environment(toy, TOY_HANGS="0.75"), stderr=subprocess.DEVNULL)
    log, deadline = toy.parent / "log", time.monotonic() + 60
    while not log.exists() or trainings(toy).count("distill ours 0") < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert set(rows(toy)["cell"]) == {"plain", "ours/weight=0.25"}
    before = trainings(toy)
    process = subprocess.run(command, cwd=toy, env=toy_environment(toy), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert len(rows(toy)) == 6
    assert trainings(toy) == sorted([*before, "distill ours 0", "distill ours 1"])


def test_a_failed_cell_is_shown_and_the_others_go_on(toy):
    (toy / "studies/sums.yaml").write_text(TOY_DESIGN.replace("0.25", "-0.25"))
    process = study(toy)
    assert process.returncode == 1
    assert "weights must not be negative" in process.stderr
    assert "-S variants.ours.weight=-0.25" in process.stderr
    assert "1 of 3 cells failed" in process.stderr
    assert set(rows(toy)["cell"]) == {"plain", "ours/weight=0.75"}


def test_only_paths_of_this_machine_may_be_set_beside_the_design(toy):
    process = study(toy, "--set=teacher.width=3")
    assert process.returncode == 1
    assert "--set teacher.width=3" in process.stderr
    assert "Traceback" not in process.stderr


# --- designs -----------------------------------------------------------------------------------------------------

PARAMS = {"dataset": "toy", "a": {"b": 1, "c": {"d": 2}}, "runs": {"variants": ["x"], "seeds": [0]}}


def expanded(text: str) -> dict[str, dict]:
    return {cell.name: cell.overrides for cell in cells_of("study", yaml.safe_load(text), PARAMS)}


def test_a_cell_is_known_by_what_it_sets_and_not_by_order_or_name():
    key = Cell("study", "one", ("distill",), {"a.b": 1, "a.c": {"d": 2, "e": 3}}).key
    assert Cell("study", "two", ("distill",), {"a.c": {"e": 3, "d": 2}, "a.b": 1}).key == key
    assert Cell("study", "one", ("evaluate",), {"a.b": 1, "a.c": {"d": 2, "e": 3}}).key != key
    assert Cell("study", "one", ("distill",), {"a.b": 2, "a.c": {"d": 2, "e": 3}}).key != key


def test_grids_groups_and_cells_unfold():
    design = """
        common: {a.b: 0}
        stage: distill
        grid: {a.b: [3, 4]}
        groups:
        - cells: {one: {}, two: {set: {a.c.d: 5}}}
        - grid: {both: {low: {runs.seeds: [1], a.c.d: 7}}}
        """
    assert expanded(design) == {
        "b=3/one": {"a.b": 3},
        "b=3/two": {"a.b": 3, "a.c.d": 5},
        "b=3/low": {"a.b": 3, "runs.seeds": [1], "a.c.d": 7},
        "b=4/one": {"a.b": 4},
        "b=4/two": {"a.b": 4, "a.c.d": 5},
        "b=4/low": {"a.b": 4, "runs.seeds": [1], "a.c.d": 7},
    }


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ("stage: distill\ncells: {x: {set: {a.e: 1}}}", "params.yaml has no a.e"),
        ("stage: distill\ncells: {x: {set: {a.b.c: 1}}}", "params.yaml has no a.b.c"),
        ("stage: distil\ncells: {x: {}}", "stage must be of"),
        ("stage: distill\ncells: {x: {}, y: {}}", "cells x and y have the same stage and overrides"),
        ("stage: distill\ncells: {x: {sets: {}}}", "unknown sets"),
        ("stage: distill\ncells: {x: {set: {a.b: /home/me/air.nc}}}", "by --set"),
    ],
)
def test_a_wrong_design_is_refused(design, words):
    with pytest.raises(UserError, match=words):
        expanded(design)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, 1e-05, "none", "true", "1e3", "a b", "it's", "x=1,y", "", [0, "a b"], {"a": [1], "b": "c"}],
)
def test_dvc_reads_a_value_as_it_was_written(value):
    from dvc.utils.hydra import to_hydra_overrides

    (read,) = to_hydra_overrides([f"key={literal(value)}"])
    assert read.value() == value
    assert type(read.value()) is type(value)


def test_cells_share_what_their_parameters_share():
    params = {"dataset": "d", "narrative": {"text": "real"}, "teacher": {"width": 1}, "student": {"width": 1}}
    keys = [
        Cell("study", "", ("distill",), overrides).upstream(params)
        for overrides in ({}, {"student.width": 2}, {"teacher.width": 2}, {"narrative.text": "none"}, {"dataset": "d"})
    ]
    assert keys[0] == keys[1] == keys[4]
    assert [len(keys[0] & other) for other in keys] == [3, 3, 2, 1, 3]


# --- statistics --------------------------------------------------------------------------------------------------


def test_interval_of_three_values():
    # mean 2, standard error 1 / sqrt(3); the quantile 0.975 of t with 2 degrees of freedom is 4.302653
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    # with 2 degrees of freedom the two-sided p of t is 1 - t / sqrt(2 + t^2)
    t = 2 * 3**0.5
    assert found.p == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    assert np.isnan(interval([1.0]).low)


def test_gain_is_paired_by_seed_and_better_is_positive():
    assert gain({0: 1.0, 1: 10.0, 2: 5.0}, {1: 9.0, 0: 0.9}).mean == pytest.approx(10)
    found = gain({0: 1.0, 1: 10.0}, {0: 0.9, 1: 9.0})
    assert (found.low, found.high, found.n) == (pytest.approx(10), pytest.approx(10), 2)  # seeds differ, the gain not
    assert gain({0: 0.5}, {0: 0.6}, "ssim").mean == pytest.approx(20)
    with pytest.raises(UserError, match="no seed in common"):
        gain({0: 1.0}, {1: 1.0})


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([float("nan"), 0.02])[1] == 0.02


def test_the_choice_is_the_least_validation_loss_of_equally_many_trials():
    trials = {"a": {"k": {0: 1.0, 1: 3.0}, "l": {0: 1.5, 1: 1.5}}, "b": {"m": {0: 1.0, 1: 1.0}, "n": {0: 2.0, 1: 0.5}}}
    assert choose(trials) == {"a": "l", "b": "m"}
    trials["b"]["o"] = {0: 1.0, 1: 1.0}
    with pytest.raises(UserError, match="a: 2, b: 3"):
        choose(trials)
    del trials["b"]["o"], trials["b"]["n"][1]
    with pytest.raises(UserError, match="different seeds"):
        choose(trials)


# --- tables and figures ------------------------------------------------------------------------------------------

SUMMARY_PARAMS = """
dataset: sea
teacher: {seed: 0}
narrative: {corruption: 0.0}
variants: {kd: {weights: {semantic: 0.0, spectral: 0.0}}, ours: {weights: {semantic: 0.1, spectral: 0.1}}}
runs: {variants: [kd, ours], seeds: [0, 1, 2]}
"""
SUMMARY_DESIGN = """
stage: evaluate
grid: {dataset: [sea, sky]}
groups:
- cells: {kd: {stage: evaluate evaluate_teacher, set: {runs.variants: [kd]}}}
- set: {runs.variants: [ours]}
  grid: {variants.ours.weights.semantic: [0.1, 0.2], variants.ours.weights.spectral: [0.1, 0.4]}
- cells: {ours: {set: {runs.variants: [ours]}}}
  grid: {narrative.corruption: [0.5, 1.0]}
tables:
  main:
    by: dataset
    rows: [variant, "variants.{variant}.weights.semantic"]
    where: {narrative.corruption: 0.0, variants.ours.weights.spectral: 0.1, variant: [kd, ours]}
    columns: [mse, mse@1, parameters]
    gains: mse
    reference: [kd, 0.0]
    correct: holm
  teacher: {by: dataset, rows: variant, where: {cell.1: kd}, columns: mse, reference: teacher}
  chosen: {kind: choice, where: {variant: ours, narrative.corruption: 0.0}}
  commands: {kind: commands, cells: sky/kd}
figures:
  points: {by: dataset, rows: [variant, variants.ours.weights.semantic], column: mse,
    where: {narrative.corruption: 0.0, variants.ours.weights.spectral: 0.1}, reference: {variant: kd}}
  leads: {kind: lead_times, by: dataset, rows: variant, where: {cell: ["*kd", "*0.5/ours"]}, column: mse, reference: kd}
  dose: {kind: dose, by: dataset, rows: variant, x: narrative.corruption, column: mse, reference: {variant: kd},
    where: {variant: ours, variants.ours.weights.semantic: 0.1, variants.ours.weights.spectral: 0.1}}
  map: {kind: heat_map, by: dataset, x: variants.ours.weights.semantic, y: variants.ours.weights.spectral, column: mse,
    where: {narrative.corruption: 0.0, variant: ours}, reference: {variant: kd}}
"""


@pytest.fixture
def summary(tmp_path) -> Study:
    """Rows in which kd has the MSE 10, 20 and 30, and ours 10 % less for each 0.1 of its semantic weight."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "params.yaml").write_text(SUMMARY_PARAMS)
    (tmp_path / "studies/sums.yaml").write_text(SUMMARY_DESIGN)
    rows = []
    for cell in cells_of("sums", yaml.safe_load(SUMMARY_DESIGN), params := yaml.safe_load(SUMMARY_PARAMS)):
        values = cell.params(params)
        for variant, seed in [*cell.models(params), *([("teacher", 0)] if "evaluate_teacher" in cell.stages else [])]:
            gain = values["variants"].get(variant, {"weights": {"semantic": 0.5}})["weights"]["semantic"]
            mse = 10 * (seed + 1) * (1 - gain)
            row = {"study": "sums", "cell": cell.name, "key": cell.key, "dataset": values["dataset"]}
            row |= {"variant": variant, "seed": seed, "device": "cpu", "validation": mse, "epoch": 3, "train": mse}
            row |= {"mse": mse, "parameters": 1000, "mse@1": mse / 2, "mse@2": 2 * mse}
            rows.append(row | {"overrides": json.dumps(cell.overrides)})
    pd.DataFrame(rows).to_csv(tmp_path / "studies/sums.csv", index=False)
    return load_study(tmp_path, "sums")


def test_tables_hold_means_and_paired_gains(summary):
    lines = tables.scores(summary, summary.design["tables"]["main"]).splitlines()
    assert lines[0] == "| dataset | variant | semantic | n | MSE | Gain (%) | p (Holm) | mse@1 | Parameters |"
    assert lines[2] == "| sea | kd | 0.0 | 3 | 20.00 ± 25 | reference |  | 10.00 ± 12 | 1,000 |"
    assert lines[3].startswith("| sea | ours | 0.1 | 3 | 18.00 ± 22 | +10.00 [+10.00, +10.00] |")
    assert lines[4].startswith("| sea | ours | 0.2 | 3 | 16.00 ± 20 | +20.00 [+20.00, +20.00] |")
    assert lines[7].startswith("| sky | ours | 0.2 | 3 |")
    # one teacher against three students: 10, 20 and 30 are 100, 300 and 500 % worse than 5
    lines = tables.scores(summary, summary.design["tables"]["teacher"]).splitlines()
    assert "| sea | kd | 3 | 20.00 ± 25 | -300.00 [-796.83, +196.83] |" in lines
    assert "| sea | teacher | 1 | 5 | reference |" in lines


def test_the_choice_names_what_was_tried(summary):
    text = tables.choice(summary, summary.design["tables"]["chosen"])
    chosen = "`variants.ours.weights.semantic=0.2`, `variants.ours.weights.spectral=0.1`"
    assert f"| sea | ours | 4 | 3 | {chosen} | 16.00 ± 20 | 18 |" in text
    with pytest.raises(UserError, match="unequal numbers of trials"):
        tables.choice(summary, {"where": {"narrative.corruption": 0.0}})


def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(summary):
    with pytest.raises(UserError, match="several runs of one seed"):
        tables.scores(summary, {"by": "dataset", "rows": "variant", "columns": "mse"})


def test_text_around_the_tables_stays_and_a_second_time_changes_nothing(summary):
    places = "\n".join(f"Before.\n<!-- table {key} -->\nold\n<!-- end -->" for key in summary.design["tables"])
    text = refreshed(summary, places + "\nAfter.\n")
    assert text.count("Before.") == 4
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert "old" not in text
    assert "dvc exp run evaluate evaluate_teacher -S dataset=sky -S 'runs.variants=[kd]'\n" in text
    assert refreshed(summary, text) == text
    with pytest.raises(UserError, match="has places for the tables"):
        refreshed(summary, "no place")


@pytest.mark.parametrize("key", ["points", "leads", "dose", "map"])
def test_a_figure_is_the_same_bytes_twice(summary, tmp_path, key):
    spec = summary.design["figures"][key]
    images = []
    for path in (tmp_path / "one.png", tmp_path / "two.png"):
        figures.KINDS[spec.get("kind", "points")](path, summary, spec)
        images.append(path.read_bytes())
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")


# --- the committed studies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.md")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_committed_rows(path):
    study, text = load_study(ROOT, path.stem), path.read_text(encoding="utf-8")
    assert refreshed(study, text) == text
    rows = pd.read_csv(path.with_suffix(".csv"))
    assert set(rows["key"]) <= {cell.key for cell in study.cells}  # no row of a design that is gone
    for figure in study.design.get("figures") or {}:
        assert f"({path.stem}-{figure}.png)" in text
        assert (path.parent / f"{path.stem}-{figure}.png").exists()
