"""Outputs are whole or untouched, mistakes are one message, and a stage does not outlive its dvc."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from s2kd.stage import UserError, atomic, run, write_text

ROOT = Path(__file__).parent.parent


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text(text)


def test_a_file_takes_its_place_only_when_complete(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that renaming is atomic
    assert tree(tmp_path) == {"new/file": "one"}
    with atomic(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert tree(tmp_path) == {"new/file": "two"}


def test_a_folder_takes_its_place_only_when_complete(tmp_path):
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with atomic(path) as temporary:
            fill(temporary, text)
    assert tree(tmp_path) == {"folder/deep/file": "two"}
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_of_the_old_folder_stays(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "stale").write_text("old")
    with atomic(path) as temporary:
        fill(temporary, "new")
    assert tree(tmp_path) == {"folder/deep/file": "new"}


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_an_error_keeps_the_old_and_leaves_no_temporary(tmp_path, is_folder, exists):
    def write(path: Path, text: str) -> None:
        fill(path, text) if is_folder else path.write_text(text)

    path = tmp_path / "out"
    if exists:
        write(path, "old")
    before = tree(tmp_path)

    def fail() -> None:
        with atomic(path) as temporary:
            write(temporary, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert tree(tmp_path) == before
    assert list(tmp_path.iterdir()) == ([path] if exists else [])


def test_a_file_does_not_replace_a_folder(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "out", "new")
    assert tree(tmp_path) == {"out/deep/file": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_text_is_utf8_and_as_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "file", "Zürich ≤ 3 °C\n")
    finally:
        os.umask(old)
    assert (tmp_path / "file").read_bytes() == "Zürich ≤ 3 °C\n".encode()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [UserError("params.yaml: x = 1: raise x"), PermissionError(13, "denied", "data/x")])
def test_a_mistake_is_one_message_without_traceback(error, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stages/narrate.py"])
    monkeypatch.delenv("DVC_STAGE", raising=False)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    assert stopped.value.__suppress_context__
    assert capsys.readouterr() == ("", f"narrate: error: {error}\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


CHILD = """
import os, time
from pathlib import Path
from s2kd.stage import run

def main():
    Path("pid.part").write_text(str(os.getpid()))
    Path("pid.part").rename("pid")
    time.sleep(60)

run(main)
"""
DVC = """
import subprocess, sys, time
subprocess.run(["sh", "-c", f"{sys.executable} child.py; true"])  # "; true" keeps the shell as a process in between
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("killed", ["dvc", "shell"])
def test_a_stage_dies_with_the_dvc_that_started_it(tmp_path, killed):
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "dvc").write_text(DVC)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "download"}
    dvc = subprocess.Popen([sys.executable, str(tmp_path / "dvc")], cwd=tmp_path, env=environment)
    stage = None
    try:
        wait_until(lambda: (tmp_path / "pid").exists())
        stage = psutil.Process(int((tmp_path / "pid").read_text()))
        shell = stage.parent()
        assert shell.ppid() == dvc.pid
        (dvc if killed == "dvc" else shell).kill()
        if killed == "dvc":
            dvc.wait(10)  # a process that its parent has not waited for is not gone yet
        wait_until(lambda: is_gone(stage))
    finally:
        dvc.kill()
        dvc.wait()
        with contextlib.suppress(psutil.Error, AttributeError):
            stage.kill()


def wait_until(is_so, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
