"""Zarr stores in public buckets, and variables of a global one regridded to larger cells, a day at a time.

Of ARCO-ERA5 a whole chunk is read for each hour: 4 MB of a variable at the surface, 154 MB of one on pressure levels.
So each day regridded is kept in a cache: an interrupted run goes on where it stopped, one more channel costs itself.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse
import xarray as xr
from jaxtyping import Float32

from s2kd.sources.file import open_file
from s2kd.sources.regridding import equiangular, latitude_weights, longitude_weights, regrid
from s2kd.stage import UserError, atomic

if TYPE_CHECKING:
    import dask.array as da

HOURS = 24  # regridded by one task and kept in one file of the cache
READ_BYTES = 2**25  # decoded at a time, unless one hour takes more


@functools.lru_cache(maxsize=4)  # in each process of a cluster
def open_store(location: str) -> xr.Dataset:
    """Open a store in a bucket (``gs://…``, anonymously) or a copy on disk; nothing but its metadata is read.

    Raises:
        UserError: it is not there or cannot be reached.
    """
    if "://" not in location:
        return open_file(Path(location))
    # Else gcsfs asks another host what kind of bucket it is, which anonymous users may not know.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    options = {"token": "anon"} if location.startswith("gs://") else {}
    with _reached(location):
        return xr.open_dataset(
            location, engine="zarr", chunks=None, cache=False, decode_timedelta=False, storage_options=options
        )


def regridded(
    location: str, variable: str, level: int | None, times: pd.DatetimeIndex, degrees: float, cache: Path | None
) -> "da.Array":
    """Means of a variable over the cells of WeatherBench's grid, float32 (time, y, x), read when they are computed.

    Args:
        location: of a store with the dimensions ``time``, ``latitude``, ``longitude`` and perhaps ``level``.
        variable: its name there.
        level: in hPa, of a variable that has any.
        times: hours, without a gap.
        degrees: between the centres of cells.
        cache: folder that keeps the days regridded.
    """
    import dask.array as da

    folder = "" if cache is None else str(cache / (variable if level is None else f"{variable}_{level}"))
    shape = (len(times), *map(len, equiangular(degrees)))
    array = _Regridded(location, variable, level, times[0].isoformat(), shape, degrees, folder)
    return da.from_array(array, (HOURS, *shape[1:]), inline_array=True, fancy=False, meta=np.empty((0, 0, 0), "f4"))


@dataclass(frozen=True)
class _Regridded:
    """What a task holds: no open store, so that it can be sent to another process."""

    location: str
    variable: str
    level: int | None
    start: str  # of the first hour
    shape: tuple[int, int, int]
    degrees: float
    folder: str  # for the days, empty for none
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)
    ndim: ClassVar[int] = 3

    def __getitem__(self, index: tuple) -> np.ndarray:
        hours, *cells = index
        wanted = np.arange(self.shape[0])[hours]
        days, position = np.unique(wanted // HOURS, return_inverse=True)
        frames = np.concatenate([self._day(int(day)) for day in days])
        return frames[position * HOURS + wanted % HOURS][(..., *cells)]  # none but the last day is shorter

    def _day(self, day: int) -> Float32[np.ndarray, "hour y x"]:
        start = pd.Timestamp(self.start) + pd.Timedelta(hours=day * HOURS)
        n_hours = min(HOURS, self.shape[0] - day * HOURS)
        path = Path(self.folder) / f"{start:%Y-%m-%dT%H}.npy"
        if self.folder and path.is_file():
            kept = np.load(path)
            if kept.shape == (n_hours, *self.shape[1:]):
                return kept
        frames = self._read(start, n_hours)
        if self.folder:
            with atomic(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, frames)
        return frames

    def _read(self, start: pd.Timestamp, n_hours: int) -> Float32[np.ndarray, "hour y x"]:
        with _reached(self.location):
            array = open_store(self.location)[self.variable]
            if self.level is not None:
                array = array.sel(level=self.level)
            array = array.sel(time=slice(start, start + pd.Timedelta(hours=n_hours - 1)))
            array = array.transpose("time", "latitude", "longitude")
            # All levels of an hour are one chunk, and decoded together.
            chunk = int(np.prod(array.encoding["chunks"])) * array.dtype.itemsize
            n_read = max(1, READ_BYTES // chunk)
            weights = _weights(self.location, self.degrees)
            frames = [
                regrid(field, *weights)
                for first in range(0, n_hours, n_read)
                for field in array[first : first + n_read].to_numpy()
            ]
        return np.stack(frames)


@functools.lru_cache(maxsize=4)
def _weights(location: str, degrees: float) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    store = open_store(location)
    y, x = equiangular(degrees)
    latitude, longitude = (store[name].to_numpy().astype(np.float64) for name in ("latitude", "longitude"))
    return latitude_weights(latitude, y), longitude_weights(longitude, x)


@contextmanager
def _reached(location: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # those of the network are of many kinds, from four libraries
        if "://" not in location:
            raise
        raise UserError(
            f"{location} could not be read: {error}; try again (what came is kept), or copy it to disk and name the "
            "copy by source.path in params.yaml"
        ) from error
