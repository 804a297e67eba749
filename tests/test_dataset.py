"""Statistics of the grid against numpy, and tables that are refused."""

import numpy as np
import pandas as pd
import pytest
import zarr
from pydantic import ValidationError

from s2kd.dataset import Meta, grid_statistics, load_frames, load_windows
from s2kd.params import Normalisation
from s2kd.stage import UserError

WINDOWS = pd.DataFrame(
    {"id": range(5), "start": [0, 3, 12, 20, 28], "split": ["train", "train", "validation", "test", "train"]}
)
TRAIN = [*range(0, 8), *range(28, 33)]  # frames of windows of 3 + 2 frames from 0, 3 and 28


@pytest.fixture
def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    scale = np.array([[1, 2, 0.5], [3, 1, 0]])  # the last cell never changes
    frames = 280 + rng.normal(size=(40, 2, 2, 3)) * scale
    frames[8:28] += 1000  # neither validation nor test nor what lies in between may count
    return frames.astype(np.float32)


def a_meta(frames: np.ndarray) -> Meta:
    train = frames[TRAIN].astype(np.float64)
    return Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a", "b"), units=("K", "K"),
        time_step=3600.0, start="2001-01-01T00:00:00", n_frames=40, n_steps_input=3, n_steps_output=2, y_name="y",
        x_name="x", y=(0.0, 1.0), x=(0.0, 1.0, 2.0), mean=tuple(train.mean((0, 2, 3)).tolist()),
        std=tuple(train.std((0, 2, 3)).tolist()), licence="-", citation="-",
    )  # fmt: skip


def test_per_cell_is_numpy_over_training_frames(frames):
    mean, std = grid_statistics(frames, WINDOWS, a_meta(frames), Normalisation(per="cell", floor=0.05))
    train = frames[TRAIN].astype(np.float64)
    assert mean.shape == std.shape == (2, 2, 3)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std.ravel()[[0, 1, 2, 3, 4, 6]], train.std(0).ravel()[[0, 1, 2, 3, 4, 6]], rtol=1e-6)


@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_the_floor_is_a_fraction_of_the_deviation_of_the_channel(frames, floor):
    meta = a_meta(frames)
    _, std = grid_statistics(frames, WINDOWS, meta, Normalisation(per="cell", floor=floor))
    assert frames[:, :, 1, 2].std() > 0  # outside of training
    np.testing.assert_allclose(std[:, 1, 2], floor * np.array(meta.std), rtol=1e-6)
    least = floor * np.array(meta.std).reshape(2, 1, 1)
    np.testing.assert_allclose(std, np.maximum(frames[TRAIN].astype(np.float64).std(0), least), rtol=1e-6)


def test_per_channel_is_one_number_everywhere(frames):
    meta = a_meta(frames)
    mean, std = grid_statistics(frames, WINDOWS, meta, Normalisation(per="channel", floor=0.05))
    assert mean.shape == std.shape == (2, 2, 3)
    for channel in range(2):
        assert set(mean[channel].ravel()) == {np.float32(meta.mean[channel])}
        assert set(std[channel].ravel()) == {np.float32(meta.std[channel])}


def test_windows_are_read_as_they_are(tmp_path):
    WINDOWS.to_csv(tmp_path / "windows.csv", index=False)
    windows = load_windows(tmp_path / "windows.csv")
    assert windows["id"].tolist() == [0, 1, 2, 3, 4]
    assert windows["start"].tolist() == [0, 3, 12, 20, 28]
    assert windows["split"].tolist() == WINDOWS["split"].tolist()


@pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5], [0, 1, 1, 3, 4], [0, 2, 1, 3, 4]])
def test_broken_ids_are_refused(tmp_path, ids):
    path = tmp_path / "windows.csv"
    WINDOWS.assign(id=ids).to_csv(path, index=False)
    with pytest.raises(UserError) as error:
        load_windows(path)
    assert str(error.value).startswith(f"{path}: ids are not 0, 1, 2, …; run `dvc repro download`")


def test_frames_are_read_as_they_are(tmp_path, frames):
    zarr.create_group(tmp_path / "frames.zarr").create_array("frames", data=frames)
    assert np.array_equal(load_frames(tmp_path / "frames.zarr"), frames)


def test_meta_comes_back_as_it_was_and_knows_no_other_key(tmp_path, frames):
    meta = a_meta(frames)
    path = tmp_path / "meta.json"
    path.write_text(meta.model_dump_json(indent=2), encoding="utf-8")
    assert Meta.load(path) == meta
    path.write_text(path.read_text().replace('"units"', '"unit"'))
    with pytest.raises(ValidationError, match="unit"):
        Meta.load(path)
