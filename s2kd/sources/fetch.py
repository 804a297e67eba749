"""Files from the network into a cache: resumed where they broke off, several at once, checked before they are used."""

import errno
import gzip
import json
import lzma
import os
import shutil
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from s2kd.stage import UserError, atomic, write_text

TIMEOUT = (10, 30)  # seconds to connect, and without a byte, after which the connection counts as dropped
TRIES = 4  # in a row that bring no new byte
WAIT = 1.0  # seconds before the second try; doubled before each further one
CHUNK = 2**20  # bytes
RECORD = "checksums.json"  # in the folder of the files: what they were when they were first seen
TRANSIENT = {408, 416, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone at the next try
LISTED = 10  # names in an error
CORRUPT = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


def cache_folder() -> Path:
    """The folder for what is fetched: the environment variable ``S2KD_CACHE``, else the user's cache."""
    return Path(os.environ.get("S2KD_CACHE") or pooch.os_cache("s2kd")).expanduser().absolute()


def fetch(
    urls: Mapping[str, str], folder: Path, checksums: Mapping[str, str] | None = None, workers: int = 4
) -> dict[str, Path]:
    """Return the path of each file, after getting over HTTP what is not in the folder yet.

    What is there and right costs no request. A transfer writes ``<name>.part``, goes on from its end after a dropped
    connection or in the next run (if the server says by ETag or date that the file is the same), and takes its name
    only when it is whole and its checksum is right. Processes that fetch into one folder wait for each other.

    Args:
        urls: name of each file, a path below ``folder``, and its address.
        checksums: of some of the names, as the publisher gives them: ``"md5:…"``, or ``"sha256:…"`` with or without
            the prefix. Of a file without one the SHA-256 is recorded in ``<folder>/checksums.json`` when it is first
            seen and compared from then on.
        workers: transfers at a time.

    Raises:
        UserError: a file cannot be had (the message lists addresses and where to put the files by hand), its checksum
            differs from the publisher's or the recorded one, or the disk is too full.
    """
    given = {name: _with_algorithm(text) for name, text in (checksums or {}).items()}
    if missing := _missing(urls, folder, given, workers):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = _missing(missing, folder, given, workers)  # another process may have brought some meanwhile
            title = f"{folder.name}: {len(missing)} files"
            with tqdm(total=0, desc=title, unit="B", unit_scale=True, disable=None) as bar:  # silent without a terminal
                work = _Work(bar)
                try:
                    _in_threads(
                        lambda name: _get(urls[name], folder / name, given.get(name), work), missing, workers, work.stop
                    )
                except _Failed as error:
                    raise UserError(f"{error}\n{_by_hand(urls, folder, given)}") from None
            _missing([name for name in missing if name not in given], folder, given, workers)  # records what they are
    return {name: folder / name for name in urls}


def extract(archive: Path, folder: Path, members: Iterable[str] | None = None) -> dict[str, Path]:
    """Unpack some members of a zip or tar archive, or all plain files, into a folder and return their paths.

    A member that is there in full size already is left alone.

    Raises:
        UserError: the archive is truncated or corrupt or lacks a member, or a member would land outside the folder.
    """
    try:
        with _open_archive(archive) as (sizes, read):
            paths = {name: folder / name for name in (sizes if members is None else members)}
            for name, path in paths.items():
                if name not in sizes:
                    raise UserError(f"{archive} has no file {name!r}; it has: {', '.join(sorted(sizes)[:LISTED])}")
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise UserError(
                        f"{archive}: member {name!r} would be written to {path.resolve()}, outside {folder}; nothing "
                        "was unpacked, do not trust this archive"
                    )
            for name, path in paths.items():
                if not (path.is_file() and path.stat().st_size == sizes[name]):
                    with atomic(path) as temporary, read(name) as packed, temporary.open("wb") as stream:
                        shutil.copyfileobj(packed, stream, CHUNK)
    except CORRUPT as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{archive} is truncated or corrupt ({reason}); delete it to fetch it again") from None
    return paths


@contextmanager
def _open_archive(archive: Path) -> Iterator[tuple[dict[str, int], Callable[[str], IO[bytes]]]]:
    """Yield the size of each plain file in an archive, and a function that opens one."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield {info.filename: info.file_size for info in packed.infolist() if not info.is_dir()}, packed.open
    else:
        with tarfile.open(archive) as packed:
            members = packed.getmembers()
            while packed.fileobj.read(CHUNK):  # the checksum of gzip and others is behind the last member
                pass
            # Links and devices are no plain files and never written.
            yield {info.name: info.size for info in members if info.isfile()}, packed.extractfile


# --- what is there -----------------------------------------------------------------------------------------------


def _with_algorithm(checksum: str) -> str:
    return checksum.lower() if ":" in checksum else f"sha256:{checksum.lower()}"


def _checksum(path: Path, algorithm: str) -> str:
    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def _missing(names: Iterable[str], folder: Path, given: Mapping[str, str], workers: int) -> list[str]:
    """Which must be fetched; the files that are there are compared with the record, or recorded."""
    names = list(names)
    record = folder / RECORD
    recorded = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    present = [name for name in names if (folder / name).is_file()]
    found: dict[str, str] = {}

    def measure(name: str) -> None:
        found[name] = _checksum(folder / name, given.get(name, "sha256").partition(":")[0])

    _in_threads(measure, present, workers, threading.Event())
    unknown = {name: found[name] for name in present if name not in given}
    for name, checksum in unknown.items():
        if checksum != recorded.get(name, checksum):
            raise UserError(
                f"{folder / name} is not what was first fetched: it has {checksum}, {record} says {recorded[name]}; "
                f"delete the file to fetch it again, or its line in {RECORD} to accept this one"
            )
    if unknown.keys() - recorded.keys():
        write_text(record, json.dumps(dict(sorted((recorded | unknown).items())), indent=2) + "\n")
    # A file that differs from the publisher's is fetched again; the right one then takes its place.
    return [name for name in names if name not in found or found[name] != given.get(name, found[name])]


def _by_hand(urls: Mapping[str, str], folder: Path, given: Mapping[str, str]) -> str:
    absent = [name for name in urls if not (folder / name).is_file()] or list(urls)
    lines = [f"  {name}  from {urls[name]}  {given.get(name, '')}".rstrip() for name in absent[:LISTED]]
    if len(absent) > LISTED:
        lines.append(f"  and {len(absent) - LISTED} more")
    return "\n".join([f"place by hand in the folder {folder} (S2KD_CACHE names another cache):", *lines])


# --- transfers ---------------------------------------------------------------------------------------------------


class _Failed(Exception):
    """A file that cannot be had; the message says why."""


class _Stopped(Exception):
    """A transfer that ended because another failed or the user interrupted."""


class _Work:
    """What the transfers share: one bar, whose total grows as servers tell sizes, and the sign to stop."""

    def __init__(self, bar: tqdm):
        self.bar = bar
        self.lock = threading.Lock()
        self.known: set[Path] = set()
        self.stop = threading.Event()

    def expect(self, part: Path, start: int, length: int) -> None:
        with self.lock:
            if part not in self.known:
                self.known.add(part)
                self.bar.total += start + length
                self.bar.update(start)

    def advance(self, n_bytes: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self.lock:
            self.bar.update(n_bytes)


def _get(url: str, path: Path, checksum: str | None, work: _Work) -> None:
    """Fetch one file, going on where an earlier try stopped."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, work)
            break
        except requests.RequestException as error:
            failures = 1 if _size(part) > before else failures + 1
            final = error.response is not None and error.response.status_code not in TRANSIENT
            if final or failures == TRIES:
                raise _Failed(f"{path.name} could not be fetched: {error}") from None
        except OSError as error:
            raise (UserError(_too_full(part, "more")) if error.errno == errno.ENOSPC else error) from None
        if work.stop.wait(WAIT * 2 ** (failures - 1)):
            raise _Stopped
    if checksum and (found := _checksum(part, checksum.partition(":")[0])) != checksum:
        _discard(part)
        raise _Failed(f"{path.name} from {url} has a wrong checksum: {found} came, {checksum} is the publisher's")
    os.replace(part, path)
    _discard(part)


def _transfer(url: str, part: Path, work: _Work) -> None:
    """Append to ``part`` what it lacks, or write it anew if the server's file is not the one it was begun with."""
    validator = part.with_name(f"{part.name}.json")  # by which the server knows the file that was begun
    headers = {"Accept-Encoding": "identity"}  # else the bytes would not be those of the file
    start = _size(part)
    if start and validator.is_file() and (begun := json.loads(validator.read_text()))["url"] == url:
        headers |= {"Range": f"bytes={start}-", "If-Range": begun["validator"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        range_ = response.headers.get("Content-Range", "")
        if response.status_code == 416 and range_ == f"bytes */{start}":
            return  # it was whole already
        if response.status_code == 416 or (response.status_code == 206 and not range_.startswith(f"bytes {start}-")):
            _discard(part)
            raise requests.ConnectionError(f"{url} does not continue at byte {start}")
        response.raise_for_status()
        if "html" in response.headers.get("Content-Type", "") and ".htm" not in part.name:
            raise requests.HTTPError(f"{url} answers with a web page, not with the file", response=response)
        length = int(response.headers.get("Content-Length", 0))
        if length > shutil.disk_usage(part.parent).free:
            raise UserError(_too_full(part, f"{length / 1e9:.2f} GB more"))
        if response.status_code == 200:
            start = 0
            _discard(part)
            # A weak ETag does not vouch for bytes, so nothing can be resumed by it (RFC 9110, 13.1.5).
            etag = response.headers.get("ETag", "W/")
            if known := (response.headers.get("Last-Modified") if etag.startswith("W/") else etag):
                validator.write_text(json.dumps({"url": url, "validator": known}))
        work.expect(part, start, length)
        with part.open("ab") as stream:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                work.advance(len(chunk))


def _too_full(part: Path, needed: str) -> str:
    free = shutil.disk_usage(part.parent).free
    return (
        f"{part.parent} has {free / 1e9:.2f} GB free, and {part.stem} needs {needed}; make room, or name a folder on "
        "another disk by S2KD_CACHE; what came is kept, the next run goes on from there"
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _in_threads(function: Callable[[str], None], names: list[str], workers: int, stop: threading.Event) -> None:
    """Call a function with each name, some at a time; the first error, or an interrupt, ends the others."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(function, name) for name in names]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # nothing is left that it could stop, if all went well
            pool.shutdown(cancel_futures=True)
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in sorted((error for error in errors if error), key=lambda error: isinstance(error, _Stopped)):
        raise error
