"""The teacher's fused features over all windows: written once, so that no student ever runs the teacher."""

import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from s2kd.batches import Windows
from s2kd.stage import UserError


@torch.no_grad()
def write_features(accelerator: Accelerator, teacher: nn.Module, windows: Windows, batch_size: int, path: Path) -> None:
    """Write float16 (window, width, y, x) as one npy file; the processes share the windows.

    Raises:
        UserError: the disk has no room for the file, whose size is printed beforehand.
    """
    first = windows.__getitems__([0])
    _, fused = teacher(*(first[name].to(accelerator.device) for name in ("inputs", "text", "text_mask")))
    shape = (len(windows), *fused.shape[1:])
    size = 2 * np.prod(shape, dtype=np.int64)
    accelerator.print(f"fused features {shape} float16: {size / 1e6:.0f} MB")
    path.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise UserError(f"{path} needs {size / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free; make room")

    part = path.with_name(f".{path.name}.part")  # one name for all processes
    if accelerator.is_main_process:
        np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape).flush()
    accelerator.wait_for_everyone()
    array = np.lib.format.open_memmap(part, mode="r+")
    batches = [range(first, min(first + batch_size, shape[0])) for first in range(0, shape[0], batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    for positions in tqdm(mine, unit="batch", disable=None if accelerator.is_main_process else True):
        batch = windows.__getitems__(list(positions))
        _, fused = teacher(*(batch[name].to(accelerator.device) for name in ("inputs", "text", "text_mask")))
        array[positions.start : positions.stop] = fused.half().cpu().numpy()
    array.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        part.replace(path)


def load_features(path: Path) -> np.ndarray:
    """Memory-map the features that ``write_features`` wrote."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def channel_statistics(features: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over the windows ``ids`` and all cells, float32 (channel, 1, 1)."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for chunk in np.array_split(ids, -(-len(ids) // 1024)):
        values = features[chunk].astype(np.float64)
        total += values.sum((0, 2, 3))
        squares += (values**2).sum((0, 2, 3))
    count = len(ids) * features.shape[2] * features.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return mean.astype(np.float32).reshape(-1, 1, 1), std.astype(np.float32).reshape(-1, 1, 1)
