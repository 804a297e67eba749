"""Run the cells of studies that lack rows: ``python -m studies.run NAME...``.

Each cell is one ``dvc exp run``, in a clone of the repository at HEAD under ``.scratch/studies/`` that shares its DVC
cache: cells run side by side, the workspace is left alone, and what two cells have in common is made once.
"""

import argparse
import collections
import contextlib
import ctypes
import fnmatch
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from tqdm import tqdm

from s2kd import stage
from s2kd.stage import UserError
from studies.design import Cell, Overrides, cells_of, load_design, override
from studies.rows import add_rows, load_rows, read_runs, save_rows

MACHINE = ("datasets.*.source.*", "text_encoder.model")  # what --set may change: where this machine has its files
N_LINES = 15  # of a failed cell's output
WORKER_CONFIG = """[core]
    analytics = false
    check_update = false
[cache]
    dir = {cache}
    type = hardlink,symlink,copy
"""


@dataclass(frozen=True)
class Worker:
    """A clone of the repository in which one cell runs at a time, held against other runners."""

    folder: Path
    lock: FileLock


@dataclass(frozen=True)
class Run:
    """A cell that is running."""

    cell: Cell
    worker: Worker
    process: subprocess.Popen
    log: Path
    started: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.run", description="Run the cells that lack rows.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="studies/NAME.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side (default: 1)")
    parser.add_argument("--filter", action="append", metavar="GLOB", help="only cells of such names")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a path on this machine")
    parser.add_argument("--redo", action="store_true", help="also cells with rows; DVC restores what did not change")
    parser.add_argument("--prune", action="store_true", help="drop rows of cells that are no longer in the design")
    parser.add_argument("--dry", action="store_true", help="print the commands only")
    args = parser.parse_args()

    root = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    params = YAML(typ="safe").load(_git(root, "show", "HEAD:params.yaml"))
    machine = _machine(args.set, params)
    designs = {name: cells_of(name, load_design(root / f"studies/{name}.yaml"), params) for name in args.names}
    cells = [cell for design in designs.values() for cell in design if _is_wanted(cell, args.filter)]
    if not args.dry:
        for name, design in designs.items():
            _tidy(root, name, design, args.prune)
    done = {key for name in designs for key in load_rows(_table(root, name))["key"]}
    left = cells if args.redo else [cell for cell in cells if cell.key not in done]
    if args.dry:
        for cell in left:
            print(f"# {cell.study}: {cell.name}\n{shlex.join(cell.command(machine))}")
    students = sum(len(cell.models(params)) for cell in left)
    teachers = len({frozenset(cell.upstream(params, machine)) for cell in left})
    print(f"{len(left)} of {len(cells)} cells to run: {students} students, {teachers} teachers or fewer", flush=True)
    if left and not args.dry and not _run_all(root, left, designs, params, machine, args.jobs):
        raise SystemExit(1)


def _is_wanted(cell: Cell, globs: list[str] | None) -> bool:
    return not globs or any(fnmatch.fnmatchcase(cell.name, glob) for glob in globs)


def _machine(settings: list[str], params: dict[str, Any]) -> Overrides:
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not any(fnmatch.fnmatchcase(key, glob) for glob in MACHINE):
            raise UserError(f"--set {setting}: it takes KEY=VALUE with a key like {' or '.join(MACHINE)}; "
                            "what changes results belongs in the design")  # fmt: skip
        overrides[key] = YAML(typ="safe").load(value)
    override(params, overrides, "--set")
    return overrides


# --- running -----------------------------------------------------------------------------------------------------


def _run_all(
    root: Path, left: list[Cell], designs: dict[str, list[Cell]], params: dict[str, Any], machine: Overrides, jobs: int
) -> bool:
    """Run cells, ``jobs`` side by side; False if one failed.

    A cell waits while another makes the same data, narratives or teacher for the first time. All cells are started
    from this thread, because Linux ties a child's death signal to the thread that started it.
    """
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!studies", ":!metrics")
    if changed:
        print(f"warning: cells run at HEAD, without your changes to\n{changed}", file=sys.stderr)
    head = _git(root, "rev-parse", "HEAD")
    env = {"OMP_NUM_THREADS": "1"} | os.environ  # whatever the number of jobs: the last digits depend on the threads
    device = _device()
    waiting, running, failed = collections.deque(left), [], 0
    needs = {cell: cell.upstream(params, machine) for cell in left}
    made: set[str] = set()
    with contextlib.ExitStack() as stack, tqdm(total=len(left), unit="cell", disable=None) as progress:
        workers = [stack.enter_context(_worker(root)) for _ in range(min(jobs, len(left)))]
        stack.callback(lambda: [_stop(run.process) for run in running])
        while waiting or running:
            making = set().union(*(needs[run.cell] for run in running)) - made
            ready = [cell for cell in waiting if not needs[cell] & making]
            if workers and ready:
                waiting.remove(ready[0])
                running.append(_start(root, ready[0], workers.pop(), head, machine, env))
                tqdm.write(f"{ready[0].name}: {shlex.join(ready[0].command(machine))}", file=sys.stderr)
                continue
            ended = [run for run in running if run.process.poll() is not None]
            for run in ended:
                running.remove(run)
                workers.append(run.worker)
                error = _take(root, run, designs[run.cell.study], params, device)
                seconds = time.monotonic() - run.started
                if error:
                    failed += 1
                    command = shlex.join(run.cell.command(machine))
                    tqdm.write(f"{run.cell.name} FAILED after {seconds:.0f} s: {command}\n{error}", file=sys.stderr)
                else:
                    made |= needs[run.cell]
                    tqdm.write(f"{run.cell.name}: done in {seconds:.0f} s", file=sys.stderr)
                progress.update()
            if not ended:
                time.sleep(0.1)
    if failed:
        print(f"{failed} of {len(left)} cells failed", file=sys.stderr)
    return not failed


def _start(root: Path, cell: Cell, worker: Worker, head: str, machine: Overrides, env: dict[str, str]) -> Run:
    (worker.folder / ".git/index.lock").unlink(missing_ok=True)  # of a git that was killed
    _git(worker.folder, "reset", "--quiet", "--hard", head)
    _git(worker.folder, "clean", "--quiet", "-d", "--force")
    # DVC parses the lock file some fifteen times a run, and the committed one is long. Nothing is lost: what has been
    # made before comes from DVC's run cache.
    (worker.folder / "dvc.lock").unlink(missing_ok=True)
    log = root / f".scratch/studies/{cell.study}-{cell.key}.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                cell.command(machine),
                cwd=worker.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except FileNotFoundError:
            raise UserError("dvc is not on the PATH; activate the environment of requirements.txt") from None
    return Run(cell, worker, process, log, time.monotonic())


def _die_with_parent() -> None:
    """Have the kernel end this ``dvc``, and with it its stage, when the runner is killed (``PR_SET_PDEATHSIG``)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _take(root: Path, run: Run, cells: list[Cell], params: dict[str, Any], device: str) -> str:
    """Store the rows of a cell that has ended; what to tell the user if it failed, else nothing."""
    if run.process.returncode:
        return "\n".join(run.log.read_text(errors="replace").splitlines()[-N_LINES:])
    try:
        rows = read_runs(run.worker.folder, run.cell, params, device)
        with _table_lock(root, run.cell.study):
            add_rows(_table(root, run.cell.study), rows, cells)
    except (OSError, KeyError, ValueError) as error:
        return f"its metrics cannot be read: {type(error).__name__}: {error}"
    run.log.unlink()
    return ""


# --- workers and tables ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _worker(root: Path):
    """Hold the first clone that no other runner holds; make it where there is none."""
    folder = root / ".scratch/studies"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        lock = FileLock(folder / f"worker-{number}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            break
    clone = folder / f"worker-{number}"
    if not (clone / ".dvc/config.local").exists():  # written last
        shutil.rmtree(clone, ignore_errors=True)
        _git(root, "clone", "--quiet", "--shared", str(root), str(clone))
        cache = subprocess.run(["dvc", "cache", "dir"], cwd=root, check=True, capture_output=True, text=True)
        stage.write_text(clone / ".dvc/config.local", WORKER_CONFIG.format(cache=cache.stdout.strip()))
    try:
        yield Worker(clone, lock)
    finally:
        lock.release()


def _table(root: Path, name: str) -> Path:
    return root / f"studies/{name}.csv"


def _table_lock(root: Path, name: str) -> FileLock:
    (root / ".scratch/studies").mkdir(parents=True, exist_ok=True)
    return FileLock(root / f".scratch/studies/{name}.csv.lock")


def _tidy(root: Path, name: str, cells: list[Cell], prune: bool) -> None:
    """Order and name rows as the design does; drop those of other cells, or say how many there are."""
    path = _table(root, name)
    with _table_lock(root, name):
        if not path.exists():
            return
        table = load_rows(path)
        is_known = table["key"].isin({cell.key for cell in cells})
        if not is_known.all() and not prune:
            print(
                f"{path.name}: {(~is_known).sum()} rows of cells that are no longer in the design; --prune drops them"
            )
        save_rows(path, table[is_known] if prune else table, cells)


def _git(folder: Path, *words: str) -> str:
    process = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"git {' '.join(words)}: {process.stderr.strip()}")
    return process.stdout.strip()


if __name__ == "__main__":
    stage.run(main)
