"""What every stage shares: errors a user can mend, outputs that are never half-written, no orphans."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend; its message names the file, the value and the remedy."""


def run(main: Callable[[], None]) -> None:
    """Run the ``main`` of a stage: a user's mistake becomes one message and exit code 1, without a traceback."""
    _die_with_dvc()
    try:
        main()
    except (UserError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which takes its place only if the block succeeds.

    The block may write a file or a folder there. On an error the temporary path is removed and ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():  # os.replace cannot replace a folder that holds something
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave the old one."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _die_with_dvc() -> None:
    """End this process as soon as the ``dvc`` that started it, or a launcher in between, is gone.

    A killed ``dvc`` leaves its stage running, which would go on writing beside the next ``dvc repro``. A signal on the
    parent's death (``PR_SET_PDEATHSIG``) does not reach through ``accelerate launch``, so every ancestor up to ``dvc``
    is watched from a thread instead.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    ancestors = psutil.Process().parents()
    is_dvc = [any("dvc" in Path(word).name for word in _command(ancestor)[:3]) for ancestor in ancestors]
    if True not in is_dvc:
        return

    def watch(ancestor: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):
            ancestor.wait()
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    for ancestor in ancestors[: is_dvc.index(True) + 1]:
        threading.Thread(target=watch, args=(ancestor,), daemon=True).start()


def _command(process) -> list[str]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
