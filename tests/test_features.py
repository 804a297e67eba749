"""What students learn from: the latents and forecasts of the teacher, standardised, whole or not at all."""

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
from s2kd.features import load_features, write_features
from s2kd.layers import Standardise
from s2kd.stage import UserError
from s2kd.teacher import Teacher

N_WINDOWS = 10
IS_TRAIN = np.arange(N_WINDOWS) % 5 < 3
HALF = 2.0**-10  # a step of float16, relative


@pytest.fixture
def windows(tmp_path) -> Windows:
    rng = np.random.default_rng(0)
    frames = (280 + 3 * rng.normal(size=(30, 1, 5, 7))).astype(np.float32)
    meta = Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a",), units=("1",), time_step=3600.0,
        start="2001-01-01T00:00:00", n_frames=30, n_steps_input=3, n_steps_output=2, y_name="y", x_name="x",
        y=tuple(map(float, range(5))), x=tuple(map(float, range(7))), mean=(0.0,), std=(1.0,), period="none",
        missing="refuse", n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip
    lengths = torch.tensor([0, *(1 + torch.arange(N_WINDOWS) % 4)])
    tensors = {
        "values": torch.randn(int(lengths.sum()), 6, generator=torch.Generator().manual_seed(0)).half(),
        "offsets": lengths.cumsum(0),
        "text_of_window": torch.arange(N_WINDOWS).flip(0),
    }
    save_file(tensors, tmp_path / "embeddings.safetensors")
    table = pd.DataFrame({"id": range(N_WINDOWS), "start": np.arange(N_WINDOWS) * 2, "split": "train"})
    return Windows(frames, np.arange(30) % 24, table, meta, Texts(tmp_path / "embeddings.safetensors", N_WINDOWS))


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    mean = 280 + torch.randn(24, 1, 5, 7)
    teacher = Teacher(
        mean, torch.full((1, 5, 7), 3.0), n_steps_input=3, n_steps_output=2, text_width=6, n_steps_latent=3, width=8,
        stride=2, encoder_depth=1, alignment_depth=1, evolution_depth=1, n_heads=2, dropout=0.3, gate=0.0,
    )  # fmt: skip
    with torch.no_grad():
        teacher.alignment[0].attention_gate.fill_(1)
    return teacher.eval()


def write(teacher, windows: Windows, folder: Path, tap: str = "fused") -> tuple[np.ndarray, np.ndarray]:
    """Write in batches of 4, 4 and 2 and return what the files hold."""
    paths = folder / "features.npy", folder / "forecasts.npy"
    write_features(Accelerator(), teacher, tap, windows, IS_TRAIN, 4, *paths)
    return tuple(map(load_features, paths))


@torch.no_grad()
def by_hand(teacher: Teacher, windows: Windows, tap: str) -> tuple[np.ndarray, np.ndarray]:
    """Latents and forecasts of every window by itself, in float32."""
    rows = []
    for position in range(N_WINDOWS):
        batch = windows.__getitems__([position])
        predictions, latents = teacher(*(batch[name] for name in ("inputs", "phase", "text", "text_mask")))
        rows.append((latents[tap][0].numpy(), predictions[0].numpy()))
    return tuple(map(np.stack, zip(*rows, strict=True)))


@pytest.mark.parametrize("tap", ["fused", "evolved"])
def test_features_are_the_tapped_latents_standardised_over_training_windows(windows, teacher, tmp_path, tap):
    features, _ = write(teacher, windows, tmp_path / "new", tap)
    assert isinstance(features, np.memmap)
    assert features.dtype == np.float16
    assert features.shape == (N_WINDOWS, 3, 8, 3, 4)
    train = features[IS_TRAIN].astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 3, 4)), 0, atol=HALF)
    np.testing.assert_allclose(train.std((0, 3, 4)), 1, atol=HALF)
    latents, _ = by_hand(teacher, windows, tap)
    mean, std = (getattr(latents[IS_TRAIN], name)((0, 3, 4), keepdims=True) for name in ("mean", "std"))
    # Rounded to float16 before and after they are standardised.
    error = np.abs(features - (latents - mean) / std)
    assert (error <= HALF * (np.abs(latents) / std + np.abs((latents - mean) / std)) + 1e-4).all()
    assert np.abs(features[~IS_TRAIN].astype(np.float64).mean((0, 3, 4))).max() > 1e-2  # these did not count


def test_forecasts_invert_to_those_of_the_teacher(windows, teacher, tmp_path):
    _, forecasts = write(teacher, windows, tmp_path)
    assert isinstance(forecasts, np.memmap)
    assert forecasts.dtype == np.float16
    assert forecasts.shape == (N_WINDOWS, 2, 1, 5, 7)
    _, predictions = by_hand(teacher, windows, "fused")
    scores = torch.from_numpy(forecasts.astype(np.float32))
    assert scores.abs().max() < 4  # kelvins near 280 would be held to 0.25
    phase = torch.from_numpy(windows.phases[windows.starts]) + 3
    restored = teacher.standardise.inverse(scores, phase)
    np.testing.assert_allclose(restored.numpy(), predictions, rtol=0, atol=4 * 3 * HALF / 2 + 1e-4)
    same = Standardise(teacher.standardise.mean, teacher.standardise.std)  # a student's, of the same frames
    assert torch.equal(same.inverse(scores, phase), restored)


def test_the_two_files_appear_only_when_both_are_complete(windows, teacher, tmp_path, capsys):
    paths = [tmp_path / name for name in ("features.npy", "forecasts.npy")]
    calls = []

    class Broken(torch.nn.Module):
        standardise = teacher.standardise

        def forward(self, *inputs):
            calls.append([path.exists() for path in paths])
            if len(calls) == 4:  # the first finds the shapes; the last of three batches
                raise KeyboardInterrupt
            return teacher(*inputs)

    with pytest.raises(KeyboardInterrupt):
        write(Broken(), windows, tmp_path)
    assert calls == [[False, False]] * 4
    assert not any(path.exists() for path in paths)
    written = capsys.readouterr().out
    assert f"{paths[0]} (10, 3, 8, 3, 4) float16: 0.0 MB" in written  # told before the work
    assert f"{paths[1]} (10, 2, 1, 5, 7) float16: 0.0 MB" in written
    write(teacher, windows, tmp_path)  # what was left does not disturb
    assert sorted(path for path in tmp_path.iterdir() if path.suffix != ".safetensors") == paths


def test_written_twice_the_bytes_are_the_same(windows, teacher, tmp_path):
    for folder in ("a", "b"):
        write(teacher, windows, tmp_path / folder)
    for name in ("features.npy", "forecasts.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_full_disk_is_told_before_the_work(windows, teacher, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    needed = 2 * N_WINDOWS * (3 * 8 * 3 * 4 + 2 * 5 * 7)  # of both files
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 100, needed - 1))
    with pytest.raises(UserError, match="make room") as error:
        write(teacher, windows, tmp_path)
    assert str(tmp_path / "features.npy") in str(error.value)
    assert not list(tmp_path.glob("*.npy*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 100, needed))
    write(teacher, windows, tmp_path)


def test_a_constant_channel_becomes_zero(windows, teacher, tmp_path):
    class Constant(torch.nn.Module):
        standardise = teacher.standardise

        def forward(self, *inputs):
            predictions, latents = teacher(*inputs)
            latents["fused"][:, :, 3] = 0.1  # which float16 does not hold
            return predictions, latents

    features, _ = write(Constant(), windows, tmp_path)
    assert np.abs(features[:, :, 3]).max() < 1e-3
    assert np.isfinite(features).all()
