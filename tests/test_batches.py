"""A batch against slices and padding by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from s2kd.batches import Texts, Windows, load_batches
from s2kd.dataset import Meta
from s2kd.stage import UserError

N_STEPS_INPUT, N_STEPS_OUTPUT = 3, 2


def a_meta() -> Meta:
    return Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a", "b"), units=("1", "1"),
        time_step=3600.0, start="2001-01-01T00:00:00", n_frames=30, n_steps_input=N_STEPS_INPUT,
        n_steps_output=N_STEPS_OUTPUT, y_name="y", x_name="x", y=(0.0, 1.0), x=(0.0, 1.0, 2.0), mean=(0.0, 0.0),
        std=(1.0, 1.0), period="none", missing="refuse", n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip


def some_frames() -> np.ndarray:
    return np.arange(30 * 2 * 2 * 3, dtype=np.float32).reshape(30, 2, 2, 3)


PHASES = (5 + np.arange(30)) % 24  # the first frame is of five o'clock


def some_windows() -> pd.DataFrame:
    starts = [0, 2, 4, 10, 12, 20, 25]
    splits = ["train", "train", "validation", "train", "test", "train", "test"]
    return pd.DataFrame({"id": range(7), "start": starts, "split": splits})


@pytest.fixture
def embeddings(tmp_path) -> Path:
    """Three texts of 2, 4 and 1 tokens; token k is the vector (k, −k)."""
    values = torch.arange(7.0)[:, None] * torch.tensor([1.0, -1.0])
    tensors = {
        "values": values.half(),
        "offsets": torch.tensor([0, 2, 6, 7]),
        "text_of_window": torch.tensor([2, 0, 1, 1, 0, 2, 0]),
    }
    save_file(tensors, tmp_path / "embeddings.safetensors")
    return tmp_path / "embeddings.safetensors"


def test_a_window_is_its_slice():
    frames, windows = some_frames(), some_windows()
    batch = Windows(frames, PHASES, windows, a_meta()).__getitems__([3, 0])
    assert set(batch) == {"inputs", "targets", "phase"}
    assert torch.equal(batch["inputs"], torch.from_numpy(np.stack([frames[10:13], frames[0:3]])))
    assert torch.equal(batch["targets"], torch.from_numpy(np.stack([frames[13:15], frames[3:5]])))
    assert batch["phase"].tolist() == [15, 5]


def test_where_values_are_missing_the_valid_targets_are_marked():
    frames, meta = some_frames(), a_meta().model_copy(update={"n_missing": 2})
    frames[1, 0, 0, 0] = frames[4, 1, 1, 2] = np.nan  # an input and a target of window 0
    batch = Windows(frames, PHASES, some_windows(), meta).__getitems__([0])
    assert batch["valid"].shape == batch["targets"].shape
    assert (~batch["valid"]).nonzero().tolist() == [[0, 1, 1, 1, 2]]
    assert batch["inputs"].isnan().nonzero().tolist() == [[0, 1, 0, 0, 0]]


def test_the_windows_of_a_split_are_its_own():
    frames, windows = some_frames(), some_windows()
    test = Windows(frames, PHASES, windows[windows["split"] == "test"], a_meta())
    assert len(test) == 2
    batch = test.__getitems__([0, 1])
    assert torch.equal(batch["inputs"], torch.from_numpy(np.stack([frames[12:15], frames[25:28]])))
    assert torch.equal(batch["targets"][1], torch.from_numpy(frames[28:30]))
    assert batch["phase"].tolist() == [17, 6]  # of frames 12 and 25


def test_texts_are_padded_to_the_longest_of_the_batch(embeddings):
    texts = Texts(embeddings, 7)
    assert texts.width == 2
    text, mask = texts.batch(np.array([0, 2, 1]))  # texts 2, 1 and 0: tokens 6; 2 to 5; 0 and 1
    assert text.dtype == torch.float32
    assert text[..., 0].tolist() == [[6, 0, 0, 0], [2, 3, 4, 5], [0, 1, 0, 0]]
    assert torch.equal(text[..., 1], -text[..., 0])
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    shorter, mask = texts.batch(np.array([5, 0]))
    assert shorter.shape == (2, 1, 2)
    assert mask.all()


def test_a_window_without_text_has_no_token(tmp_path):
    tensors = {
        "values": torch.empty(0, 2).half(),
        "offsets": torch.tensor([0, 0]),
        "text_of_window": torch.zeros(7).long(),
    }
    save_file(tensors, tmp_path / "embeddings.safetensors")
    texts = Texts(tmp_path / "embeddings.safetensors", 7)
    assert texts.width == 2
    text, mask = texts.batch(np.array([3, 0]))
    assert text.shape == (2, 0, 2)
    assert mask.shape == (2, 0)


def test_texts_and_arrays_are_those_of_the_window_not_of_the_position(embeddings, tmp_path):
    windows = some_windows()
    np.save(tmp_path / "features.npy", np.arange(7, dtype=np.float16).reshape(7, 1, 1, 1, 1) * np.ones((1, 3, 4, 1, 2)))
    arrays = {
        "features": np.load(tmp_path / "features.npy", mmap_mode="r"),
        "forecasts": -np.arange(7, dtype=np.float16).reshape(7, 1, 1, 1, 1) * np.ones((1, 2, 2, 2, 3), np.float16),
    }
    train = windows[windows["split"] == "train"]
    data = Windows(some_frames(), PHASES, train, a_meta(), Texts(embeddings, 7), arrays)
    batch = data.__getitems__([2, 3, 0])  # windows 3, 5 and 0
    assert set(batch) == {"inputs", "targets", "phase", "text", "text_mask", "features", "forecasts"}
    assert batch["features"].dtype == batch["forecasts"].dtype == torch.float32
    assert batch["features"].shape == (3, 3, 4, 1, 2)
    assert batch["forecasts"].shape == (3, 2, 2, 2, 3)
    assert batch["features"][:, 2, 3, 0, 1].tolist() == [3, 5, 0]
    assert batch["forecasts"][:, 1, 1, 1, 2].tolist() == [-3, -5, 0]
    assert batch["text"][:, 0, 0].tolist() == [2, 6, 6]
    assert batch["text_mask"].sum(1).tolist() == [4, 1, 1]
    assert batch["inputs"][:, 0, 0, 0, 0].tolist() == [12 * 10, 12 * 20, 0]
    assert batch["phase"].tolist() == [15, 1, 5]


def test_embeddings_of_other_windows_are_refused(embeddings):
    with pytest.raises(UserError) as error:
        Texts(embeddings, 8)
    wanted = f"{embeddings} holds narratives of 7 windows, but there are 8; run `dvc repro embed`"
    assert str(error.value) == wanted


def starts(loader) -> list[list[float]]:
    return [(batch["inputs"][:, 0, 0, 0, 0] / 12).tolist() for batch in loader]


def test_in_order_nothing_is_dropped():
    loader = load_batches(Windows(some_frames(), PHASES, some_windows(), a_meta()), 3, shuffle=False)
    assert starts(loader) == [[0, 2, 4], [10, 12, 20], [25]]
    assert len(loader) == 3


def test_shuffled_the_incomplete_batch_is_dropped():
    torch.manual_seed(0)
    loader = load_batches(Windows(some_frames(), PHASES, some_windows(), a_meta()), 3, shuffle=True)
    epochs = [{start for batch in starts(loader) for start in batch} for _ in range(20)]
    assert len(loader) == 2
    assert all(len(epoch) == 6 for epoch in epochs)
    assert set.union(*epochs) == {0, 2, 4, 10, 12, 20, 25}


@pytest.mark.parametrize("shuffle", [False, True])
def test_worker_processes_make_the_same_batches(embeddings, monkeypatch, shuffle):
    def batches() -> list:
        torch.manual_seed(0)
        served = Windows(some_frames(), PHASES, some_windows(), a_meta(), Texts(embeddings, 7))
        return list(load_batches(served, 2, shuffle=shuffle))

    alone = batches()
    monkeypatch.setenv("S2KD_LOADER_WORKERS", "2")
    for one, other in zip(alone, batches(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_too_few_windows_for_a_batch():
    data = Windows(some_frames(), PHASES, some_windows(), a_meta())
    assert [sorted(batch) for batch in starts(load_batches(data, 7, shuffle=True))] == [[0, 2, 4, 10, 12, 20, 25]]
    assert starts(load_batches(data, 8, shuffle=False)) == [[0, 2, 4, 10, 12, 20, 25]]
    with pytest.raises(UserError, match=r"7 windows are too few for a batch of 8; lower training\.batch_size"):
        load_batches(data, 8, shuffle=True)  # the incomplete batch would be dropped, and no step left
    empty = Windows(some_frames(), PHASES, some_windows().iloc[:0], a_meta())
    with pytest.raises(UserError, match="0 windows are too few"):
        load_batches(empty, 8, shuffle=False)
