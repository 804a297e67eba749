"""What students learn from: the teacher's tapped latents and forecasts over all windows, written once, in float16."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from s2kd.batches import Windows
from s2kd.stage import UserError


@torch.no_grad()
def write_features(
    accelerator: Accelerator,
    teacher: nn.Module,
    tap: str,
    windows: Windows,
    is_train: np.ndarray,
    batch_size: int,
    features: Path,
    forecasts: Path,
) -> None:
    """Write two npy files with a row for each window; the processes share the windows.

    ``features``: (window, step, width, yl, xl), standardised per step and channel over the training windows.
    ``forecasts``: (window, time_out, channel, y, x), standard scores, because float16 holds 280 K to a quarter of a
    kelvin only.

    Raises:
        UserError: the disk has no room for the files, whose sizes are printed beforehand.
    """

    def call(positions: range) -> tuple[Tensor, Tensor]:
        batch = windows.__getitems__(list(positions))
        inputs, phase, *text = (batch[name].to(accelerator.device) for name in ("inputs", "phase", "text", "text_mask"))
        predictions, latents = teacher(inputs, phase, *text)
        return latents[tap], teacher.standardise(predictions, phase + inputs.shape[1])

    shapes = [(len(windows), *part.shape[1:]) for part in call(range(1))]
    sizes = [2 * np.prod(shape, dtype=np.int64) for shape in shapes]
    for path, shape, size in zip((features, forecasts), shapes, sizes, strict=True):
        accelerator.print(f"{path} {shape} float16: {size / 1e6:.1f} MB")
    features.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(features.parent).free) < sum(sizes):
        raise UserError(
            f"{features} and {forecasts} need {sum(sizes) / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free; "
            "make room"
        )
    with ExitStack() as stack:
        arrays = [
            stack.enter_context(_shared(accelerator, path, shape))
            for path, shape in zip((features, forecasts), shapes, strict=True)
        ]
        total, squares = np.zeros((2, *shapes[0][1:3]))
        batches = [range(i, min(i + batch_size, len(windows))) for i in range(0, len(windows), batch_size)]
        mine = batches[accelerator.process_index :: accelerator.num_processes]
        for positions in tqdm(mine, unit="batch", disable=None if accelerator.is_main_process else True):
            parts = [part.float().cpu().numpy() for part in call(positions)]
            for array, part in zip(arrays, parts, strict=True):
                array[positions.start : positions.stop] = part
            # As float16 has them, or a channel that is constant would become its rounding error over nothing.
            stored = arrays[0][positions.start : positions.stop]
            train = stored[is_train[positions.start : positions.stop]].astype(np.float64)
            total += train.sum((0, 3, 4))
            squares += np.square(train).sum((0, 3, 4))
        sums = torch.tensor(np.stack([total, squares]), device=accelerator.device)
        total, squares = accelerator.reduce(sums, "sum").cpu().numpy()
        count = is_train.sum() * np.prod(shapes[0][3:])
        mean = (total / count)[..., None, None]
        std = np.sqrt(np.maximum((squares / count)[..., None, None] - mean**2, 1e-12))
        for positions in mine:
            rows = slice(positions.start, positions.stop)
            arrays[0][rows] = (arrays[0][rows] - mean) / std


@contextmanager
def _shared(accelerator: Accelerator, path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A float16 array on disk that all processes write to, and that takes its name only when all are done."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape).flush()
    accelerator.wait_for_everyone()
    array = np.lib.format.open_memmap(part, mode="r+")
    yield array
    array.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        part.replace(path)


def load_features(path: Path) -> np.ndarray:
    """Memory-map what ``write_features`` wrote."""
    return np.load(path, mmap_mode="r", allow_pickle=False)
