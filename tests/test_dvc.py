"""dvc.yaml held against the code: what a stage declares is what it imports, reads and is told on its command line."""

import ast
import shlex
from modulefinder import ModuleFinder
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from s2kd.params import load_params

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
# Left out on purpose: a new parameter shall not re-run every stage, DVC tracks the groups of params.yaml one by one.
NOT_DECLARED = {"s2kd/params.py"}


def script(stage: str) -> str:
    words = shlex.split(STAGES[stage]["cmd"])
    return words[words.index("-m") + 1].replace(".", "/") + ".py"


def paths(entries: list) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def outputs(stage: str) -> set[str]:
    return set().union(*(paths(STAGES[stage].get(kind, [])) for kind in ("outs", "metrics", "plots")))


def options(stage: str) -> dict[str, str]:
    words = shlex.split(STAGES[stage]["cmd"])
    return {word: words[index + 1] for index, word in enumerate(words) if word.startswith("--")}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_described_and_has_the_script_of_its_name(stage):
    assert STAGES[stage]["desc"]
    assert script(stage) == f"stages/{stage}.py"
    assert (ROOT / script(stage)).is_file()


def test_every_script_is_a_stage():
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_declared_modules_are_the_import_closure(stage):
    finder = ModuleFinder(path=[str(ROOT)])
    finder.run_script(str(ROOT / script(stage)))
    files = {Path(module.__file__).relative_to(ROOT) for module in finder.modules.values() if module.__file__}
    imported = {path.as_posix() for path in files if path.suffix == ".py" and path.name != "__init__.py"}
    declared = {path for path in paths(STAGES[stage]["deps"]) if path.endswith(".py")}
    assert declared == imported - NOT_DECLARED


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_those_that_are_read(stage):
    read = set()
    for node in ast.walk(ast.parse((ROOT / script(stage)).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params":
            read.add(ast.unparse(node.args[0]).removeprefix("f").strip("'\""))
    # f"variants.{args.variant}" in the code is variants.${item.variant} in dvc.yaml, where --variant gives it.
    given = options(stage)
    for option, value in given.items():
        read = {group.replace("{args." + option[2:] + "}", value) for group in read}
    assert read == set(STAGES[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_paths_of_the_command_are_deps_or_outs(stage):
    declared = {path for path in paths(STAGES[stage]["deps"]) if not path.endswith(".py")}
    inputs, written = set(), outputs(stage)
    for option, value in options(stage).items():
        if not value.startswith(("data/", "models/", "metrics/")):
            continue
        if value in declared:
            inputs.add(value)
        else:  # a folder that outs lie in, or an out
            assert any(out == value or out.startswith(value + "/") for out in written), (option, value)
    assert inputs == declared
    for out in written:
        assert any(out == value or out.startswith(value + "/") for value in options(stage).values()), out


def test_a_student_is_evaluated_without_text_and_without_teacher():
    deps = " ".join(paths(STAGES["evaluate"]["deps"]))
    for word in ("teacher", "narrat", "embeddings.", "features"):
        assert word not in deps


def test_metrics_and_plots_are_in_git_and_the_rest_in_the_cache():
    for name, stage in STAGES.items():
        for entry in [*stage.get("metrics", []), *stage.get("plots", [])]:
            assert next(iter(entry.values()))["cache"] is False, name
        uncached = [entry for entry in stage.get("outs", []) if not isinstance(entry, str)]
        # An uncached out switches DVC's run-cache off, which the report alone can afford.
        assert uncached == ([{"metrics/results.md": {"cache": False}}] if name == "report" else []), name


def test_the_matrix_has_every_variant_and_seed():
    runs = load_params("runs", ROOT / "params.yaml")
    with Repo(ROOT) as repo:
        names = {stage.addressing for stage in repo.index.stages}
    for stage in ("distill", "evaluate"):
        wanted = {f"{stage}@{variant}-{seed}" for variant in runs.variants for seed in runs.seeds}
        assert {name for name in names if name.startswith(f"{stage}@")} == wanted


def test_the_lock_is_of_this_pipeline():
    lock = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    with Repo(ROOT) as repo:
        commands = {stage.addressing: stage.cmd for stage in repo.index.stages}
    assert {name: entry["cmd"] for name, entry in lock.items()} == commands
