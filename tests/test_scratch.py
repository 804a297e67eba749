"""Scratch is kept, resumed and swept as it should, and its key is of all that the work depends on."""

import datetime
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2kd.params import Weights
from s2kd.scratch import fingerprint, scratch
from s2kd.stage import UserError

ROOT = Path(__file__).parent.parent


def test_fingerprint_follows_params_and_content_and_nothing_else(tmp_path):
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "file").write_text("a")
    (tmp_path / "folder/deep/part").write_text("b")
    inputs = [tmp_path / "file", tmp_path / "folder"]
    numbers = {"semantic": 0.1, "spectral": 0, "feature": 0, "output": 0, "boundary": 0, "band": 0}
    weights = Weights(**numbers)
    key = fingerprint([weights, 0], inputs)
    assert len(key) == 16
    for path in ("file", "folder/deep/part"):
        os.utime(tmp_path / path, (1, 1))
    assert fingerprint([Weights(**numbers), 0], inputs) == key
    assert fingerprint([weights, 1], inputs) != key
    assert fingerprint([weights.model_copy(update={"spectral": 1e-9}), 0], inputs) != key
    assert fingerprint([weights, 0], inputs[:1]) != key
    (tmp_path / "folder/deep/part").write_text("c")  # the same size
    changed = fingerprint([weights, 0], inputs)
    assert changed != key
    (tmp_path / "folder/deep/part").write_text("b")
    assert fingerprint([weights, 0], inputs) == key
    (tmp_path / "folder/deep/more").write_text("")
    assert fingerprint([weights, 0], inputs) not in (key, changed)


def test_a_date_is_a_parameter_like_others():
    keys = {fingerprint({"end": datetime.date(2016, 1, day)}, []) for day in (1, 2, 1)}
    assert len(keys) == 2


@pytest.mark.parametrize("changed", ["s2kd/training.py", "stages/distill.py"])
def test_fingerprint_follows_all_code(tmp_path, changed):
    for folder in ("s2kd", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("copied_checkpoint", tmp_path / "s2kd/scratch.py")
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    key = copied.fingerprint([], [])
    assert copied.fingerprint([], []) == key
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    assert copied.fingerprint([], []) != key


def test_fingerprint_of_a_large_file_follows_size_and_time(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**26 + 1)  # sparse: no byte of it is written
    os.utime(path, (1, 1))
    key = fingerprint([], [path])
    assert fingerprint([], [path]) == key
    os.utime(path, (2, 2))
    assert fingerprint([], [path]) != key


A, B = "a" * 16, "b" * 16


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".scratch"


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def leave(name: str, key: str) -> None:
    """Fail in the middle of a scratch."""

    def fail() -> None:
        with scratch(name, key, is_main=True) as folder:
            (folder / "state").write_text(key)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_scratch_is_kept_on_an_error_found_again_and_removed_on_success(root):
    leave("distill-s2kd-1", A)
    assert folders(root) == {f"distill-s2kd-1-{A}"}
    with scratch("distill-s2kd-1", A, is_main=True) as folder:
        assert (folder / "state").read_text() == A
    assert folders(root) == set()


def test_stale_scratch_goes_and_that_of_others_stays(root):
    others = ["distill-s2kd-10", "distill-s2kd-1-0", "distill-s2kd", "distill-s2kd-2", "train_teacher"]
    for name in [*others, "distill-s2kd-1"]:
        leave(name, A)
    with scratch("distill-s2kd-1", B, is_main=True) as folder:
        assert list(folder.iterdir()) == []
        assert folders(root) == {f"{name}-{A}" for name in others} | {folder.name}
    with scratch("distill-s2kd", B, is_main=True):
        pass
    assert folders(root) == {f"{name}-{A}" for name in others if name != "distill-s2kd"}


def test_scratch_without_dvc_lies_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    with scratch("train_teacher", A, is_main=True) as folder:
        assert folder.resolve().parent == tmp_path / ".scratch"


def test_only_the_main_process_makes_and_removes(root):
    with scratch("train_teacher", A, is_main=True) as folder:
        with scratch("train_teacher", A, is_main=False) as same:
            assert same == folder
        assert folder.is_dir()


def test_a_second_process_is_refused_until_the_first_has_gone(root):
    code = (
        "import sys; from s2kd.scratch import scratch\n"
        f"with scratch('distill-s2kd-1', '{B}', is_main=True):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    process = subprocess.Popen([sys.executable, "-c", code], **options)
    try:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="another process is running distill-s2kd-1"):
            scratch("distill-s2kd-1", A, is_main=True).__enter__()
        assert folders(root) == {f"distill-s2kd-1-{B}"}  # the running one's is not stale
        with scratch("distill-s2kd-10", A, is_main=True):
            pass
    finally:
        process.kill()
        process.communicate()
    with scratch("distill-s2kd-1", B, is_main=True) as folder:  # a killed process holds no lock
        assert folder.is_dir()
