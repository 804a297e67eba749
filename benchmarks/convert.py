"""The download stage on a NetCDF file and on one ten times as large: peak memory, and speed beside a plain copy.

    python -m benchmarks.convert [--gigabytes 0.25] [--rounds 3]

Memory is the largest resident set of the stage's process, imports and all.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
GRID = (128, 256)  # 1.40625 degrees
STEP = 256  # frames written at a time
FACTOR = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.25, help="of the smaller file (default: 0.25)")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turn (default: 3)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [round(factor * args.gigabytes * 1e9 / (4 * GRID[0] * GRID[1])) for factor in (1, FACTOR)]
        peaks: dict[int, list[float]] = {n_frames: [] for n_frames in sizes}
        ratios: dict[int, list[float]] = {n_frames: [] for n_frames in sizes}
        for n_frames in sizes:
            source = folder / "source.nc"
            _write(source, n_frames)
            for _ in range(args.rounds):
                start = time.perf_counter()
                shutil.copyfile(source, folder / "copy.nc")
                os.sync()
                copied = time.perf_counter() - start
                (folder / "copy.nc").unlink()
                start = time.perf_counter()
                peaks[n_frames].append(_convert(folder, source))
                os.sync()
                converted = time.perf_counter() - start
                ratios[n_frames].append(copied / converted)
                shutil.rmtree(folder / "out")
            gigabytes = source.stat().st_size / 1e9
            print(
                f"{gigabytes:5.2f} GB: peak {max(peaks[n_frames]):6.0f} MB; converted at {gigabytes / converted:.2f} "
                f"GB/s, {statistics.median(ratios[n_frames]):.2f} x a plain copy at {gigabytes / copied:.2f} GB/s"
            )
        small, large = (statistics.median(peaks[n_frames]) for n_frames in sizes)
        print(f"peak memory for {FACTOR} times the data: {large / small:.2f} x")


def _write(path: Path, n_frames: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(280, 10, size=(STEP, *GRID)).astype(np.float32)
    with netCDF4.Dataset(path, "w") as data:
        for dim, size in zip(("time", "lat", "lon"), (n_frames, *GRID), strict=True):
            data.createDimension(dim, size)
        time = data.createVariable("time", "i4", ("time",))
        time.units, time.standard_name = "hours since 2000-01-01", "time"
        time[:] = np.arange(n_frames)
        for dim, units, span, size in (("lat", "degrees_north", 180, GRID[0]), ("lon", "degrees_east", 360, GRID[1])):
            axis = data.createVariable(dim, "f8", (dim,))
            axis.units = units
            axis[:] = (np.arange(size) + 0.5) * span / size - (90 if dim == "lat" else 0)
        t2m = data.createVariable("t2m", "f4", ("time", "lat", "lon"), chunksizes=(24, *GRID))
        t2m.units = "K"
        for first in range(0, n_frames, STEP):
            t2m[first : first + STEP] = noise[: n_frames - first] + first % 7


def _convert(folder: Path, source: Path) -> float:
    """Run the stage and return the peak of its memory in MB."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["datasets"]["file"]["source"].update(path=str(source), variables=["t2m"])
    yaml.dump(params, folder / "params.yaml")
    files = {"frames": "frames.zarr", "windows": "windows.csv", "meta": "meta.json"}
    outputs = [f"--{name}={folder / 'out' / file}" for name, file in files.items()]
    command = [sys.executable, "-m", "stages.download", "--dataset=file", *outputs]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("the stage failed")
    assert isinstance(usage, resource.struct_rusage)
    return usage.ru_maxrss / 1000


if __name__ == "__main__":
    main()
