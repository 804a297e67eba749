"""Fetching from a server on this computer that can break off, change its file and count what it is asked."""

import collections
import errno
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from s2kd.sources import fetch
from s2kd.stage import UserError

BIG = np.random.default_rng(0).bytes(5 * fetch.CHUNK + 123)


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; what it was asked is in ``asked``, path by path, as (range, status)."""

    def __init__(self):
        super().__init__(("localhost", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: dict[str, list[tuple[str | None, int]]] = collections.defaultdict(list)
        self.breaks: list[int] = []  # bytes after which each of the next answers breaks off
        self.refusals: list[int] = []  # statuses of the next answers
        self.together = threading.Barrier(1)  # so many requests must be under way before any is answered
        self.validator = "ETag"
        self.type = "application/octet-stream"
        self.url = f"http://localhost:{self.server_port}"

    def urls(self, *names: str) -> dict[str, str]:
        return {name: f"{self.url}/{name}" for name in names}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path[1:]
        status, range_ = 200, self.headers["Range"]
        content = self.server.files.get(name, b"")
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if name not in self.server.files:
            status = 404
        elif self.server.refusals:
            status = self.server.refusals.pop(0)
        elif range_ and self.headers["If-Range"] == etag:
            start = int(range_.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(content) else 416
        self.server.asked[name].append((range_, status))
        self.server.together.wait(timeout=20)
        self.send_response(status)
        if status in (206, 416):
            sent = f"{start}-{len(content) - 1}" if status == 206 else "*"
            self.send_header("Content-Range", f"bytes {sent}/{len(content)}")
        body = content[start:] if status in (200, 206) else b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", self.server.type)
        if self.server.validator:
            self.send_header(self.server.validator, etag)
        self.end_headers()
        self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "WAIT", 0.001)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def held(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without the record and the lock."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name not in (fetch.RECORD, ".lock")}


def refused(urls: dict[str, str], folder: Path, checksums: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as error:
        fetch.fetch(urls, folder, checksums)
    return str(error.value)


def test_the_cache_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "there"))
    assert fetch.cache_folder() == tmp_path / "there"
    monkeypatch.setenv("S2KD_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "s2kd"


def test_files_come_once_and_never_again(server, tmp_path):
    server.files = {"a.nc": b"first", "years/b.nc": BIG, "empty": b""}
    urls = server.urls(*server.files)
    for _ in range(2):
        paths = fetch.fetch(urls, tmp_path, {"a.nc": f"md5:{hashlib.md5(b'first').hexdigest()}"})
        assert paths == {name: tmp_path / name for name in server.files}
        assert held(tmp_path) == server.files
        assert server.asked == {name: [(None, 200)] for name in server.files}
    # Of those without a checksum of the publisher's the first sight is the record.
    record = {"empty": f"sha256:{sha256(b'')}", "years/b.nc": f"sha256:{sha256(BIG)}"}
    assert json.loads((tmp_path / fetch.RECORD).read_text()) == record


def test_files_come_side_by_side(server, tmp_path):
    server.files = {f"{number}.nc": bytes([number]) * 1000 for number in range(6)}
    server.together = threading.Barrier(3)
    fetch.fetch(server.urls(*server.files), tmp_path, workers=3)
    assert held(tmp_path) == server.files


def test_a_file_placed_by_hand_needs_no_server(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"by hand")
    paths = fetch.fetch({"a.nc": "http://localhost:9/a.nc"}, tmp_path, {"a.nc": sha256(b"by hand")})
    assert paths["a.nc"].read_bytes() == b"by hand"
    assert not (tmp_path / fetch.RECORD).exists()


def test_a_dropped_connection_goes_on_where_it_broke(server, tmp_path):
    server.files = {"b.nc": BIG}
    server.breaks = [2 * fetch.CHUNK + 7, 11]
    fetch.fetch(server.urls("b.nc"), tmp_path, {"b.nc": sha256(BIG)})
    assert held(tmp_path) == server.files
    (first, *later) = server.asked["b.nc"]
    assert first == (None, 200)
    assert [status for _, status in later] == [206, 206]
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked, _ in later]
    assert 2 * fetch.CHUNK <= starts[0] <= starts[1] <= 2 * fetch.CHUNK + 18


def test_the_next_run_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.files = {"b.nc": BIG}
    server.breaks = [2 * fetch.CHUNK, 0, 0, 0]
    message = refused(server.urls("b.nc"), tmp_path)
    assert "b.nc could not be fetched: " in message
    assert sorted(held(tmp_path)) == ["b.nc.part", "b.nc.part.json"]  # nothing half-written has the name
    server.asked.clear()
    fetch.fetch(server.urls("b.nc"), tmp_path)
    assert server.asked["b.nc"] == [(f"bytes={2 * fetch.CHUNK}-", 206)]
    assert held(tmp_path) == server.files


def test_a_transfer_killed_before_it_was_renamed_is_whole(server, tmp_path):
    server.files = {"a.nc": b"whole"}
    (tmp_path / "a.nc.part").write_bytes(b"whole")
    etag = f'"{hashlib.md5(b"whole").hexdigest()}"'
    (tmp_path / "a.nc.part.json").write_text(json.dumps({"url": f"{server.url}/a.nc", "validator": etag}))
    fetch.fetch(server.urls("a.nc"), tmp_path)
    assert server.asked["a.nc"] == [("bytes=5-", 416)]
    assert held(tmp_path) == server.files


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified", ""])
def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path, validator):
    server.files, server.validator = {"b.nc": BIG}, validator
    server.breaks = [2 * fetch.CHUNK, 0, 0, 0]
    refused(server.urls("b.nc"), tmp_path)
    server.files = {"b.nc": BIG[::-1]}
    fetch.fetch(server.urls("b.nc"), tmp_path)
    assert held(tmp_path) == server.files


def test_a_server_in_trouble_is_asked_again_and_one_without_the_file_is_not(server, tmp_path):
    server.files, server.refusals = {"a.nc": b"first"}, [503, 429]
    fetch.fetch(server.urls("a.nc"), tmp_path)
    assert [status for _, status in server.asked["a.nc"]] == [503, 429, 200]
    message = refused(server.urls("absent.nc"), tmp_path)
    assert "absent.nc could not be fetched: 404 Client Error" in message
    assert len(server.asked["absent.nc"]) == 1


def test_a_web_page_is_not_the_file(server, tmp_path):
    server.files, server.type = {"a.nc": b"<html>please log in</html>"}, "text/html; charset=utf-8"
    assert "answers with a web page" in refused(server.urls("a.nc"), tmp_path)
    assert held(tmp_path) == {}


def test_what_is_missing_is_listed_with_its_address_and_place(server, tmp_path):
    server.files = {"here.nc": b"first"}
    fetch.fetch(server.urls("here.nc"), tmp_path)
    names = [f"{year}.nc" for year in range(1948, 1960)]
    message = refused(server.urls("here.nc", *names), tmp_path, {"1948.nc": f"sha256:{'0' * 64}"})
    lines = message.splitlines()
    assert lines[1] == f"place by hand in the folder {tmp_path} (S2KD_CACHE names another cache):"
    assert lines[2] == f"  1948.nc  from {server.url}/1948.nc  sha256:{'0' * 64}"
    assert lines[3] == f"  1949.nc  from {server.url}/1949.nc"
    assert lines[-1] == "  and 2 more"
    assert sum(map(len, server.asked.values())) < 12  # the first that cannot be had ends the rest


def test_wrong_bytes_never_take_the_name(server, tmp_path):
    server.files = {"a.nc": b"changed"}
    message = refused(server.urls("a.nc"), tmp_path, {"a.nc": f"md5:{'0' * 32}"})
    assert f"md5:{hashlib.md5(b'changed').hexdigest()} came, md5:{'0' * 32} is the publisher's" in message
    assert f"from {server.url}/a.nc" in message
    assert held(tmp_path) == {}


def test_a_file_unlike_the_publishers_is_fetched_again(server, tmp_path):
    server.files = {"a.nc": b"right"}
    (tmp_path / "a.nc").write_bytes(b"wrong")
    fetch.fetch(server.urls("a.nc"), tmp_path, {"a.nc": sha256(b"right")})
    assert held(tmp_path) == server.files


def test_a_file_unlike_the_recorded_one_is_refused(server, tmp_path):
    server.files = {"a.nc": b"first"}
    fetch.fetch(server.urls("a.nc"), tmp_path)
    (tmp_path / "a.nc").write_bytes(b"later")
    message = refused(server.urls("a.nc"), tmp_path)
    for part in (str(tmp_path / "a.nc"), sha256(b"first"), sha256(b"later"), "delete the file to fetch it again"):
        assert part in message
    (tmp_path / "a.nc").unlink()
    fetch.fetch(server.urls("a.nc"), tmp_path)
    server.files = {"a.nc": b"newer"}
    (tmp_path / "a.nc").unlink()
    assert "is not what was first fetched" in refused(server.urls("a.nc"), tmp_path)


def test_a_full_disk_is_told_before_it_is_full(server, tmp_path, monkeypatch):
    server.files = {"b.nc": BIG}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    message = refused(server.urls("b.nc"), tmp_path)
    assert message.startswith(f"{tmp_path} has 0.00 GB free, and b.nc needs 0.01 GB more; make room")
    assert held(tmp_path) == {}


def test_a_disk_that_fills_is_told_and_what_came_is_kept(server, tmp_path, monkeypatch):
    server.files = {"b.nc": BIG}

    class Full(io.FileIO):
        def write(self, content):
            if self.tell() > 2 * fetch.CHUNK:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **more: Full(path, mode) if mode == "ab" else opened(path, mode, **more)
    )
    assert "b.nc needs more; make room" in refused(server.urls("b.nc"), tmp_path)
    monkeypatch.undo()
    fetch.fetch(server.urls("b.nc"), tmp_path)
    assert held(tmp_path) == server.files
    assert server.asked["b.nc"][-1][1] == 206


# --- archives ------------------------------------------------------------------------------------------------------


def pack(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_members_are_unpacked_once(tmp_path, name):
    archive = pack(tmp_path / name, {"data/x.npz": BIG, "data/y.txt": b"y", "../outside": b"z"})
    folder = tmp_path / "out"
    paths = fetch.extract(archive, folder, ["data/x.npz"])
    assert paths == {"data/x.npz": folder / "data/x.npz"}
    assert held(folder) == {"data/x.npz": BIG}
    stamp = paths["data/x.npz"].stat().st_mtime_ns
    assert fetch.extract(archive, folder, ["data/x.npz"]) == paths
    assert paths["data/x.npz"].stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"has no file 'data/z'; it has: ../outside, data/x.npz, data/y.txt"):
        fetch.extract(archive, folder, ["data/z"])


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("member", ["../outside", "data/../../outside", "/tmp/outside"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name, member):
    archive = pack(tmp_path / name, {"x": b"x", member: b"y"})
    with pytest.raises(UserError, match=rf"member '{member}' would be written to .*outside, outside .*out;"):
        fetch.extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_link_that_leads_outside_is_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        info = tarfile.TarInfo("link/escaped")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    fetch.extract(tmp_path / "a.tar", tmp_path / "out")
    assert held(tmp_path / "out") == {"link/escaped": b"x"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "out"}
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2/link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="'link/escaped' would be written to"):
        fetch.extract(tmp_path / "a.tar", tmp_path / "out2")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_truncated_or_corrupt_archive_is_told_and_leaves_nothing(tmp_path, name):
    whole = pack(tmp_path / name, {"x": BIG}).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for wrong in (whole[: len(whole) // 2], b"no archive", bytes(flipped)):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(UserError, match=rf"{name} is truncated or corrupt .*delete it to fetch it again"):
            fetch.extract(tmp_path / name, tmp_path / "out")
        assert held(tmp_path / "out") == {}
