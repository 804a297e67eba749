"""Windows as batches of tensors: what models are trained and evaluated on."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from s2kd.dataset import Frames, Meta
from s2kd.stage import UserError


class Texts:
    """Token embeddings of the narratives, as ``embed`` wrote them: ragged, one text for one or more windows."""

    def __init__(self, path: Path, n_windows: int) -> None:
        file = safe_open(path, framework="pt")
        self.values = file.get_slice("values")  # stays on disk: a memory-mapped slice is read for each text
        self.offsets = file.get_tensor("offsets").tolist()
        self.text_of_window = file.get_tensor("text_of_window").numpy()
        if len(self.text_of_window) != n_windows:
            raise UserError(
                f"{path} holds narratives of {len(self.text_of_window)} windows, but there are {n_windows}; "
                "run `dvc repro embed`"
            )

    @property
    def width(self) -> int:
        return self.values.get_shape()[1]

    def batch(self, ids: np.ndarray) -> tuple[Float[Tensor, "batch token width"], Bool[Tensor, "batch token"]]:
        """Embeddings of the windows ``ids``, padded with zeros to the longest text, and a mask that is False there."""
        texts = self.text_of_window[ids].tolist()
        tokens = [self.values[self.offsets[text] : self.offsets[text + 1]].float() for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(text) for text in tokens])
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]


class Windows(Dataset):
    """Windows of one split. Frames are in physical units; models standardise them themselves.

    Args:
        frames: (time, channel, y, x), float32; NaN where ``meta.n_missing`` values are missing.
        phases: index of each frame in the period of the models' ``Standardise``.
        windows: the rows of ``windows.csv`` to serve.
        texts: adds ``text`` and ``text_mask`` to the batches.
        arrays: adds each under its name; memory-mapped, float16, one row for each of *all* windows, such as the
            teacher's ``features`` and ``forecasts``.
    """

    def __init__(
        self,
        frames: Frames | Float[np.ndarray, "time channel y x"],
        phases: Int[np.ndarray, " time"],
        windows: pd.DataFrame,
        meta: Meta,
        texts: Texts | None = None,
        arrays: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.frames, self.phases, self.texts, self.arrays = frames, phases, texts, arrays or {}
        self.ids, self.starts = windows["id"].to_numpy(), windows["start"].to_numpy()
        self.n_steps_input, self.n_steps = meta.n_steps_input, meta.n_steps_input + meta.n_steps_output
        self.is_whole = not meta.n_missing

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, positions: list[int]) -> dict[str, Tensor]:
        """A whole batch at once: ``inputs`` and ``targets`` (batch, time, channel, y, x) and what was asked for.

        ``phase`` is that of a window's first frame. Where values are missing, ``valid`` marks the targets that are not.
        """
        ids, starts = self.ids[positions], self.starts[positions]
        frames = torch.from_numpy(self.frames[starts[:, None] + np.arange(self.n_steps)])
        batch = {
            "inputs": frames[:, : self.n_steps_input],
            "targets": frames[:, self.n_steps_input :],
            "phase": torch.from_numpy(self.phases[starts]),
        }
        if not self.is_whole:
            batch["valid"] = ~batch["targets"].isnan()
        if self.texts is not None:
            batch["text"], batch["text_mask"] = self.texts.batch(ids)
        for name, array in self.arrays.items():
            batch[name] = torch.from_numpy(array[ids]).float()
        return batch


def load_batches(windows: Windows, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Batches of ``Windows``; a shuffled loader drops the incomplete last batch, so that every step weighs the same.

    The environment variable ``S2KD_LOADER_WORKERS`` has batches made ahead by that many processes, to the same result.
    They are forks, which share what is mapped into memory.
    """
    if len(windows) < (batch_size if shuffle else 1):
        raise UserError(
            f"{len(windows)} windows are too few for a batch of {batch_size}; lower training.batch_size or change the "
            "split in params.yaml"
        )
    n_workers = int(os.environ.get("S2KD_LOADER_WORKERS", "0"))
    context = "fork" if n_workers else None
    return DataLoader(
        windows,
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        collate_fn=_as_is,
        num_workers=n_workers,
        multiprocessing_context=context,
    )


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
