"""Windows served from the memory-mapped frames, against copies of all windows in memory, as OpenSTL keeps them.

Each way is measured in a process of its own, in the same order of windows; the bandwidth of memory is what copying
batches of the same size within it reaches.

    python -m benchmarks.loader [--frames 8760] [--grid 32 64] [--batch-size 32]
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from s2kd.batches import Windows, load_batches
from s2kd.dataset import Meta, load_frames

N_STEPS = 12  # seen, and as many forecast


class Copies(Dataset):
    """Inputs and targets of every window as arrays of their own, an item at a time."""

    def __init__(self, frames: np.ndarray, starts: np.ndarray) -> None:
        self.inputs = np.stack([frames[start : start + N_STEPS] for start in starts])
        self.targets = np.stack([frames[start + N_STEPS : start + 2 * N_STEPS] for start in starts])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.inputs[index]), torch.tensor(self.targets[index])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8760, help="in the record (default: 8760, a year of hours)")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 64), help="rows and columns (default: 32 64)")
    parser.add_argument("--batch-size", type=int, default=32, help="windows (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turn (default: 5)")
    args = parser.parse_args()

    shape = (args.frames, 1, *args.grid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.zarr"
        n_frames = min(args.frames, 2**26 // (4 * args.grid[0] * args.grid[1]))
        array = zarr.create_group(path).create_array(
            "frames", shape=shape, dtype="float32", chunks=(n_frames, *shape[1:]), compressors=None
        )
        rng = np.random.default_rng(0)
        for first in range(0, args.frames, n_frames):
            array[first : first + n_frames] = rng.random((min(n_frames, args.frames - first), *shape[1:]), np.float32)
        results: dict[str, list[tuple[float, int, int]]] = {}
        for _ in range(args.rounds):
            for way in ("mapped", "mapped, 2 workers", "copies"):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    results.setdefault(way, []).append(pool.submit(_measure, way, path, args.batch_size).result())
    n_windows = args.frames - 2 * N_STEPS + 1
    n_bytes = n_windows * 2 * N_STEPS * 4 * args.grid[0] * args.grid[1]
    bandwidth = _bandwidth(args.batch_size * 2 * N_STEPS * 4 * args.grid[0] * args.grid[1])
    print(f"{n_windows} windows of {2 * N_STEPS} x 1 x {args.grid[0]} x {args.grid[1]} float32, {n_bytes / 1e9:.1f} GB "
          f"as copies, frames {np.prod(shape) * 4 / 1e6:.0f} MB; memory copies {bandwidth / 1e9:.1f} GB/s")  # fmt: skip
    base = [seconds for seconds, _, _ in results["copies"]]
    for way, rounds in results.items():
        times, private, mapped = zip(*rounds, strict=True)
        seconds = np.median(times)
        ratio = np.median([other / own for other, own in zip(base, times, strict=True)])
        print(
            f"{way:>18}: {n_windows / seconds:8.0f} windows/s, {ratio:5.2f} x copies, "
            f"{n_bytes / seconds / bandwidth:4.0%} of memory bandwidth; resident {max(private) / 1e6:6.0f} MB private, "
            f"{max(mapped) / 1e6:4.0f} MB of the page cache"
        )


def _measure(way: str, path: Path, batch_size: int) -> tuple[float, int, int]:
    """Seconds of an epoch, and the growth of private and of mapped memory in bytes over all processes."""
    torch.set_num_threads(1)
    frames, n_workers = load_frames(path), 2 if "workers" in way else 0
    starts = np.arange(len(frames) - 2 * N_STEPS + 1)
    before = _resident()
    torch.manual_seed(0)
    if way.startswith("mapped"):
        os.environ["S2KD_LOADER_WORKERS"] = str(n_workers)
        windows = pd.DataFrame({"id": starts, "start": starts, "split": "train"})
        meta = Meta.model_construct(n_steps_input=N_STEPS, n_steps_output=N_STEPS, n_missing=0)
        served = Windows(frames, np.zeros(len(frames), dtype=np.int64), windows, meta)
        loader = load_batches(served, batch_size, shuffle=True)
    else:
        copies = Copies(frames.read(slice(None)), starts)
        loader = DataLoader(copies, batch_size, shuffle=True, drop_last=True, num_workers=n_workers)
    peak = before
    start = time.perf_counter()
    for number, batch in enumerate(loader):
        if number == len(loader) // 2:
            peak = _resident()
        del batch
    return time.perf_counter() - start, max(0, peak[0] - before[0]), max(0, peak[1] - before[1])


def _resident() -> tuple[int, int]:
    """Private and file-backed resident bytes of this process and its children."""
    process = psutil.Process()
    private = mapped = 0
    for each in (process, *process.children(recursive=True)):
        for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Pss_Anon":
                private += int(value.split()[0]) * 1024
            elif name == "Pss_File":
                mapped += int(value.split()[0]) * 1024
    return private, mapped


def _bandwidth(n_bytes: int) -> float:
    source, target = np.ones(n_bytes // 4, np.float32), np.empty(n_bytes // 4, np.float32)
    np.copyto(target, source)
    start = time.perf_counter()
    for _ in range(50):
        np.copyto(target, source)
    return 50 * n_bytes / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
