"""Arrays in files as lazy Dask arrays: opening reads the header, a task opens the file by its path and reads its slice.

So they may be computed by other processes, of this computer or of a Dask cluster that sees the same files.
"""

import functools
import io
import math
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2kd.stage import UserError

if TYPE_CHECKING:
    import dask.array as da
    import h5py

CHUNK_BYTES = 2**24  # of one task: a quarter of what is written as one file, so that little is read twice
HDF5 = {".h5", ".hdf5", ".he5", ".mat"}
NUMPY = {".npy", ".npz"}


def lazy(path: Path | str, name: str | None = None, chunks: Any = None) -> "da.Array":
    """Open an array by the suffix of its file: ``.npy``, ``.npz`` or HDF5; the last two need the name of the array."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return npy(path, chunks)
    if suffix not in HDF5 | NUMPY:
        raise UserError(f"{path}: suffix {suffix!r} is none of {', '.join(sorted(HDF5 | NUMPY))}; rename the file")
    if name is None:
        raise UserError(f"{path} holds named arrays; say which: {describe(path)}")
    return npz(path, name, chunks) if suffix == ".npz" else hdf5(path, name, chunks)


def npy(path: Path | str, chunks: Any = None) -> "da.Array":
    """Open a NumPy file, in C or Fortran order; tasks map it into memory.

    Args:
        path: of the file.
        chunks: as Dask takes them; by default whole rows of the file, ``CHUNK_BYTES`` a chunk.

    Raises:
        UserError: the file is missing, no NumPy file, shorter than its header says, empty or holds Python objects.
    """
    path = _existing(path)
    with _readable(path, "NumPy"), path.open("rb") as stream:
        shape, fortran, dtype = _header(path, "", stream)
        offset = stream.tell()
    _check_size(path, "", offset, shape, dtype, path.stat().st_size)
    return _dask(_Mapped(*_stamp(path), shape, dtype, offset, fortran), chunks, fortran=fortran)


def npz(path: Path | str, name: str, chunks: Any = None) -> "da.Array":
    """Open one array of a NumPy archive.

    What ``np.savez`` wrote is mapped into memory as a ``.npy`` is. What ``np.savez_compressed`` wrote is unpacked from
    its beginning, no more than a chunk in memory; a process does so once, then it goes on from the nearest of the
    places where it kept the state of the unpacking.

    Raises:
        UserError: as of ``npy``; the archive has no array of this name.
    """
    path = _existing(path)
    with _readable(path, "NumPy"), zipfile.ZipFile(path) as archive:
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise UserError(f"{path} has no array {name!r}; it has: {describe(path)}")
        info = archive.getinfo(member)
        with archive.open(info) as stream:
            shape, fortran, dtype = _header(path, f" array {name!r}", stream)
            offset = stream.tell()
        _check_size(path, f" array {name!r}", offset, shape, dtype, info.file_size)
        start = _member_start(path, info)
        if info.compress_type == zipfile.ZIP_STORED:
            _check_size(path, f" array {name!r}", start + offset, shape, dtype, path.stat().st_size)
            return _dask(_Mapped(*_stamp(path), shape, dtype, start + offset, fortran), chunks, fortran=fortran)
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise UserError(f"{path}: array {name!r} is neither stored nor deflated; write it by np.savez anew")
    member = _Member(str(path.absolute()), start, info.CRC, info.file_size)
    return _dask(_Deflated(*_stamp(path), shape, dtype, offset, fortran, member), chunks, fortran=fortran)


def hdf5(path: Path | str, name: str, chunks: Any = None) -> "da.Array":
    """Open a data set of an HDF5 file (``.h5``, or MATLAB's ``.mat`` since v7.3) by its path in the file.

    The axes are those of the file: MATLAB writes its own reversed, which the caller undoes with ``.T``. Chunks are
    whole chunks of the file.

    Raises:
        UserError: the file is missing, truncated or no HDF5, has no such data set, or it holds no numbers.
    """
    path = _existing(path)
    with _hdf5(path) as file:
        data = file.get(name)
        if not hasattr(data, "shape"):
            raise UserError(f"{path} has no data set {name!r}; it has: {_names(file)}")
        shape, dtype, stored = data.shape, data.dtype, data.chunks
    _check_numbers(path, f" data set {name!r}", shape, dtype)
    return _dask(_Hdf5(*_stamp(path), shape, dtype, name), chunks, stored)


def read(path: Path | str, name: str) -> np.ndarray:
    """Read a small data set of an HDF5 file as a whole: times, coordinates, text."""
    path = _existing(path)
    with _hdf5(path) as file, _readable(path, "HDF5"):
        if not hasattr(file.get(name), "shape"):
            raise UserError(f"{path} has no data set {name!r}; it has: {_names(file)}")
        return np.asarray(file[name])


def attributes(path: Path | str, name: str) -> dict[str, str | float]:
    """Return the attributes of a data set of an HDF5 file that are text or one number: unit, long name, fill value."""
    with _hdf5(_existing(path)) as file:
        found = {key: value.decode() if isinstance(value, bytes) else value for key, value in file[name].attrs.items()}
    single = {
        key: value.item() if np.size(value) == 1 and hasattr(value, "item") else value for key, value in found.items()
    }
    return {key: value for key, value in single.items() if isinstance(value, str | int | float)}


def describe(path: Path | str) -> str:
    """Return the names of the arrays in an archive or HDF5 file, for messages."""
    path = _existing(path)
    if path.suffix.lower() == ".npz":
        with _readable(path, "NumPy"), zipfile.ZipFile(path) as archive:
            return ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "none"
    with _hdf5(path) as file:
        return _names(file)


# --- what tasks hold: a path and a shape, no open file ------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    path: str
    version: tuple[int, int]  # size and time of the file: another file is another array to Dask
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class _Mapped(_Stored):
    offset: int
    fortran: bool

    def __getitem__(self, index: Any) -> np.ndarray:
        order = "F" if self.fortran else "C"
        with _readable(Path(self.path), "NumPy"):
            mapped = np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order)
            return np.array(mapped[index])  # a copy, so that the mapping ends with the task


@dataclass(frozen=True)
class _Hdf5(_Stored):
    name: str

    def __getitem__(self, index: Any) -> np.ndarray:
        box, rest = _box(index, self.shape)
        with _hdf5(Path(self.path)) as file, _readable(Path(self.path), "HDF5"):
            return file[self.name][box][rest]


@dataclass(frozen=True)
class _Member:
    """A deflated member of a zip file."""

    path: str
    start: int  # of its data in the file
    crc: int
    size: int  # unpacked


@dataclass(frozen=True)
class _Deflated(_Stored):
    offset: int
    fortran: bool
    member: _Member

    def __getitem__(self, index: Any) -> np.ndarray:
        (first, *others), rest = _box(index, self.shape)
        shape = self.shape
        if self.fortran:  # in the file the reversed array in C order
            (first, *others), shape = [*reversed(others), first], shape[::-1]
        row = math.prod(shape[1:]) * self.dtype.itemsize
        with _readable(Path(self.path), "NumPy"):
            data = _unpacker(self.member, self.version).read(
                self.offset + first.start * row, self.offset + first.stop * row
            )
        found = np.frombuffer(data, self.dtype).reshape(-1, *shape[1:])[:: first.step, *others]
        return np.array((found.T if self.fortran else found)[rest])


class _Unpacker:
    """Reads anywhere in a deflated member by going on from the last kept state before that place."""

    def __init__(self, member: _Member) -> None:
        self.member = member
        self.lock = threading.Lock()
        self.states = [(0, 0, zlib.decompressobj(-zlib.MAX_WBITS))]  # place unpacked, place packed, state (40 kB)
        self.reached, self.crc = 0, 0  # the farthest place unpacked so far, and the check sum up to there

    def read(self, first: int, stop: int) -> bytes:
        found = bytearray()
        with self.lock, open(self.member.path, "rb") as stream:
            place, packed, state = max((kept for kept in self.states if kept[0] <= first), key=lambda kept: kept[0])
            state = state.copy()
            while place < stop:
                stream.seek(self.member.start + packed)
                given = stream.read(PIECE)
                piece = state.decompress(given, PIECE)
                if not piece and not given:
                    raise EOFError("the file ends early")
                packed += len(given) - len(state.unconsumed_tail)
                self._check(place, piece)
                found += piece[max(0, first - place) : max(0, stop - place)]
                place += len(piece)
                if place >= self.states[-1][0] + CHUNK_BYTES:
                    self.states.append((place, packed, state.copy()))
        return bytes(found)

    def _check(self, place: int, piece: bytes) -> None:
        """Carry on the check sum over what is unpacked for the first time."""
        if new := piece[max(0, self.reached - place) :]:
            self.crc, self.reached = zlib.crc32(new, self.crc), place + len(piece)
            if self.reached >= self.member.size and self.crc != self.member.crc:
                raise ValueError("wrong check sum")


PIECE = 2**18  # bytes read, and at most unpacked, at a time


@functools.lru_cache(maxsize=16)
def _unpacker(member: _Member, version: tuple[int, int]) -> _Unpacker:
    return _Unpacker(member)


def _box(index: Any, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple]:
    """Split an index of integers, slices and lists into slices to read and the index to apply to what was read."""
    index = index if isinstance(index, tuple) else (index,)
    box: list[slice] = []
    rest: list[Any] = []
    for part, size in zip((*index, *(slice(None),) * (len(shape) - len(index))), shape, strict=True):
        if isinstance(part, slice):
            box.append(slice(*part.indices(size)))
            rest.append(slice(None))
        else:
            wanted = np.asarray(part, dtype=np.int64) % size
            box.append(slice(int(wanted.min()), int(wanted.max()) + 1, 1))
            rest.append(wanted - wanted.min() if wanted.ndim else 0)
    return tuple(box), tuple(rest)


# --- headers and checks -------------------------------------------------------------------------------------------


def _dask(
    stored: _Stored, chunks: Any = None, multiple: tuple[int, ...] | None = None, fortran: bool = False
) -> "da.Array":
    import dask.array as da

    if chunks is None and fortran:
        chunks = contiguous(stored.shape[::-1], stored.dtype.itemsize)[::-1]
    elif chunks is None:
        chunks = contiguous(stored.shape, stored.dtype.itemsize, multiple)
    # Neither inline_array nor fancy=False: with them Dask does not pass the slice asked for on to the file.
    return da.from_array(stored, chunks, fancy=True, meta=np.empty((0,) * stored.ndim, stored.dtype))


def contiguous(shape: tuple[int, ...], itemsize: int, multiple: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the shape of chunks that lie in one run of a C-ordered file and hold at most ``CHUNK_BYTES``.

    Args:
        shape: of the array.
        itemsize: bytes of an element.
        multiple: the file's own chunks, of which each is a multiple (and may then be larger).
    """
    multiple = multiple or (1,) * len(shape)
    chunks = list(shape)
    for axis, (size, unit) in enumerate(zip(shape, multiple, strict=True)):
        item = math.prod((*multiple[:axis], *shape[axis + 1 :])) * itemsize
        chunks[axis] = min(size, max(unit, CHUNK_BYTES // item // unit * unit))
        if item * unit <= CHUNK_BYTES:
            break
    return tuple(chunks)


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; put the file there or correct source.path in params.yaml")
    return path


def _stamp(path: Path) -> tuple[str, tuple[int, int]]:
    found = path.stat()
    return str(path.absolute()), (found.st_size, found.st_mtime_ns)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as {kind}, it is no such file, truncated or corrupt ({error}); fetch it again"
        ) from None


@contextmanager
def _hdf5(path: Path) -> Iterator["h5py.File"]:
    import h5py

    with _readable(path, "HDF5"):
        file = h5py.File(path, "r")
    with file:
        yield file


def _names(file: "h5py.File") -> str:
    """Return the paths of the data sets in the file, without what MATLAB keeps to itself (#refs#)."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") and name[0] != "#" else None)
    return ", ".join(names) or "none"


def _header(path: Path, what: str, stream: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    _check_numbers(path, what, shape, dtype)
    return shape, fortran, dtype


def _check_numbers(path: Path, what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind not in "fiub":
        raise UserError(f"{path}:{what} holds {dtype}, not numbers; choose another")
    if 0 in shape:
        raise UserError(f"{path}:{what} is empty, of shape {shape}; bring more data")


def _check_size(path: Path, what: str, offset: int, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    needed = offset + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise UserError(
            f"{path} is truncated:{what} its header says {shape} of {dtype}, which takes {needed} bytes, and there "
            f"are {size}; fetch it again"
        )


def _member_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Find the first byte of a stored member: after its own header, of 30 bytes, a name and extra fields."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        return info.header_offset + 30 + sum(np.frombuffer(stream.read(4), "<u2").tolist())
