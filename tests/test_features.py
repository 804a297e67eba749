"""The features on disk are those of the teacher, and their statistics those of numpy."""

import collections
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from s2kd.batches import Texts, Windows
from s2kd.dataset import Meta
from s2kd.features import channel_statistics, load_features, write_features
from s2kd.stage import UserError
from s2kd.teacher import Teacher

N_WINDOWS = 10


@pytest.fixture
def windows(tmp_path) -> Windows:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(30, 1, 5, 7)).astype(np.float32)
    meta = Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a",), units=("1",), time_step=3600.0,
        start="2001-01-01T00:00:00", n_frames=30, n_steps_input=3, n_steps_output=2, y_name="y", x_name="x",
        y=tuple(map(float, range(5))), x=tuple(map(float, range(7))), mean=(0.0,), std=(1.0,), licence="-",
        citation="-",
    )  # fmt: skip
    lengths = torch.tensor([0, *(1 + torch.arange(N_WINDOWS) % 4)])
    tensors = {
        "values": torch.randn(int(lengths.sum()), 6, generator=torch.Generator().manual_seed(0)).half(),
        "offsets": lengths.cumsum(0),
        "text_of_window": torch.arange(N_WINDOWS).flip(0),
    }
    save_file(tensors, tmp_path / "embeddings.safetensors")
    table = pd.DataFrame({"id": range(N_WINDOWS), "start": np.arange(N_WINDOWS) * 2, "split": "train"})
    return Windows(frames, table, meta, Texts(tmp_path / "embeddings.safetensors", N_WINDOWS))


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    teacher = Teacher(
        torch.zeros(1, 5, 7), torch.ones(1, 5, 7), n_steps_input=3, n_steps_output=2, text_width=6, width=8, stride=2,
        encoder_depth=1, alignment_depth=1, evolution_depth=1, n_heads=2, dropout=0.3,
    )  # fmt: skip
    with torch.no_grad():
        teacher.alignment[0].attention_gate.fill_(1)
    return teacher.eval()


def test_every_window_has_the_fused_features_of_the_teacher(windows, teacher, tmp_path):
    path = tmp_path / "new/features.npy"
    write_features(Accelerator(), teacher, windows, 4, path)  # batches of 4, 4 and 2
    features = load_features(path)
    assert isinstance(features, np.memmap)
    assert features.dtype == np.float16
    assert features.shape == (N_WINDOWS, 8, 3, 4)
    with torch.no_grad():
        for position in range(N_WINDOWS):
            batch = windows.__getitems__([position])
            fused = teacher(batch["inputs"], batch["text"], batch["text_mask"])[1][0]
            # Other neighbours in the batch, other rounding: one step of float16 is 2⁻¹⁰ of the value.
            np.testing.assert_allclose(features[position].astype(np.float32), fused.numpy(), rtol=2**-10, atol=1e-5)
    assert list(path.parent.iterdir()) == [path]


def test_written_twice_the_bytes_are_the_same(windows, teacher, tmp_path):
    for name in ("a.npy", "b.npy"):
        write_features(Accelerator(), teacher, windows, 4, tmp_path / name)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_full_disk_is_told_before_the_work(windows, teacher, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 100, N_WINDOWS * 8 * 3 * 4 * 2 - 1))
    path = tmp_path / "features.npy"
    with pytest.raises(UserError, match="make room") as error:
        write_features(Accelerator(), teacher, windows, 4, path)
    assert str(path) in str(error.value)
    assert not list(Path(tmp_path).glob("*.npy*"))


@pytest.mark.parametrize("n", [1, 7, 1024, 1500])
def test_statistics_are_those_of_numpy(n):
    rng = np.random.default_rng(0)
    scale, offset = np.array([1, 0.01, 30]).reshape(3, 1, 1), np.array([0, 5, -100]).reshape(3, 1, 1)
    features = (rng.normal(size=(1600, 3, 2, 3)) * scale + offset).astype(np.float16)
    ids = rng.permutation(1600)[:n]  # only these count
    mean, std = channel_statistics(features, ids)
    wanted = features[ids].astype(np.float64)
    assert mean.shape == std.shape == (3, 1, 1)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean.ravel(), wanted.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std.ravel(), wanted.std((0, 2, 3)), rtol=1e-5)


def test_a_constant_channel_can_be_divided_by():
    mean, std = channel_statistics(np.full((5, 2, 3, 3), 0.1, np.float16), np.arange(5))
    np.testing.assert_allclose(mean.ravel(), np.float16(0.1), rtol=1e-6)
    assert (std > 0).all()
