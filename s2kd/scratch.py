"""Where long work keeps what it has done so far, so that a killed run goes on instead of starting again."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from s2kd.stage import UserError


def fingerprint(values: Any, inputs: list[Path]) -> str:
    """Hash of parameters, of the input files and of all code: equal only if the work would be the same.

    A file of up to 64 MiB counts by its bytes, a larger one by size and time of change.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode())
    files = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    root = Path(__file__).parent.parent
    code = [file for folder in ("s2kd", "stages") for file in sorted((root / folder).rglob("*.py"))]
    for file in [*files, *code]:
        if file.is_file():
            status = file.stat()
            content = (
                file.read_bytes() if status.st_size <= 2**26 else str((status.st_size, status.st_mtime_ns)).encode()
            )
            digest.update(file.name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


@contextlib.contextmanager
def scratch(name: str, key: str, *, is_main: bool) -> Iterator[Path]:
    """A folder for resumable state, kept when the block fails or is killed and removed when it ends well.

    It lies in ``.scratch`` of the DVC repository, which neither git nor DVC looks at. Scratch of the same name under
    another key is stale and goes.

    Raises:
        UserError: another process works in it.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".scratch"
    folder = root / f"{name}-{key}"
    if not is_main:
        yield folder
        return
    root.mkdir(exist_ok=True)
    try:
        with FileLock(root / f"{name}.lock", timeout=0):
            for stale in root.glob(f"{name}-*"):
                if stale != folder and len(stale.name) == len(folder.name):
                    shutil.rmtree(stale)
            folder.mkdir(exist_ok=True)
            yield folder
            shutil.rmtree(folder)
    except Timeout:
        raise UserError(f"another process is running {name} in {root}; wait for it or stop it") from None
