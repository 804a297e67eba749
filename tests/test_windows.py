"""Windows against lists written out by hand, and what must hold for every setting."""

import datetime
import itertools

import numpy as np
import pandas as pd
import pytest

from s2kd.params import Dataset
from s2kd.stage import UserError
from s2kd.windows import make_windows, statistics, time_step, train_mask


def dataset(split: dict, n_steps_input: int = 3, n_steps_output: int = 1, stride: int = 1) -> Dataset:
    source = {"name": "file", "path": "x.nc", "variables": ["a"], "licence": "", "citation": ""}
    sizes = {"n_steps_input": n_steps_input, "n_steps_output": n_steps_output, "stride": stride}
    about = {"title": "Test", "domain": "weather", "country": None}
    return Dataset.model_validate({**about, **sizes, "source": source, "split": split})


def blocks(length: int = 10, gap: int = 2, pattern: tuple = ("train", "train", "validation", "test")) -> dict:
    return {"name": "blocks", "length": length, "gap": gap, "pattern": list(pattern)}


def chronological(train_end: object = 0.5, validation_end: object = 0.75) -> dict:
    return {"name": "chronological", "train_end": train_end, "validation_end": validation_end}


def hours(n: int) -> pd.DatetimeIndex:
    return pd.date_range("2001-01-01", periods=n, freq="h")


def starts(windows: pd.DataFrame) -> dict[str, list[int]]:
    return {str(split): group["start"].tolist() for split, group in windows.groupby("split")}


def test_blocks_by_hand():
    windows = make_windows(hours(50), dataset(blocks()))
    assert starts(windows) == {
        "train": [*range(0, 17), *range(42, 47)],  # frames 0-19 and 42-49
        "validation": list(range(22, 27)),  # frames 22-29
        "test": list(range(32, 37)),  # frames 32-39
    }
    assert windows["id"].tolist() == list(range(len(windows)))
    assert windows["start"].is_monotonic_increasing


def test_chronological_fractions_and_dates_are_exclusive():
    by_fraction = make_windows(hours(96), dataset(chronological(0.5, 0.75)))
    assert starts(by_fraction) == {
        "train": list(range(0, 45)),
        "validation": list(range(48, 69)),
        "test": list(range(72, 93)),
    }
    dates = dataset(chronological(datetime.date(2001, 1, 3), "2001-01-04"))
    pd.testing.assert_frame_equal(make_windows(hours(96), dates), by_fraction)


def test_a_fraction_is_rounded_not_truncated():
    windows = make_windows(hours(2920), dataset(chronological(0.7, 0.85)))  # 0.7 * 2920 = 2043.99… in floats
    assert starts(windows)["validation"][0] == 2044


def test_stride_counts_from_the_first_frame_of_a_segment():
    windows = make_windows(hours(40), dataset(blocks(), stride=3))
    assert starts(windows) == {"train": [0, 3, 6, 9, 12, 15], "validation": [22, 25], "test": [32, 35]}


def test_no_window_spans_a_gap_in_time():
    times = hours(41).delete(5)  # frame 5 is 06:00
    windows = make_windows(times, dataset(blocks(gap=0)))
    assert starts(windows)["train"] == [0, 1, *range(5, 17)]
    assert time_step(times) == np.timedelta64(1, "h")


def test_short_months_are_no_gap():
    months = pd.date_range("2001-01-01", periods=48, freq="MS")
    assert len(make_windows(months, dataset(chronological()))) == 48 - 3 * 3


def test_every_setting_keeps_the_splits_apart():
    rng = np.random.default_rng(0)
    n_made = 0
    for _ in range(300):
        n_in, n_out, stride = (int(n) for n in rng.integers(1, 6, 3))
        if rng.random() < 0.7:
            length, gap = int(rng.integers(2, 25)), int(rng.integers(0, 6))
            pattern = rng.permutation(["train", "train", "validation", "test"]).tolist()
            settings = dataset(blocks(length, gap, pattern), n_in, n_out, stride)
        else:
            gap = 0
            ends = np.sort(rng.random(2)).tolist()
            settings = dataset(chronological(*ends), n_in, n_out, stride)
        times = hours(int(rng.integers(40, 400)))
        is_whole = rng.random() < 0.5
        if not is_whole:
            times = times.delete(rng.choice(len(times), 3, replace=False))
        try:
            windows = make_windows(times, settings)
        except UserError:
            continue
        n_made += 1

        frames = windows["start"].to_numpy()[:, None] + np.arange(n_in + n_out)
        assert frames.min() >= 0
        assert frames.max() < len(times)
        assert (np.diff(times.to_numpy()[frames], axis=1) == np.timedelta64(1, "h")).all()
        used = {split: set(frames[windows["split"] == split].ravel()) for split in ("train", "validation", "test")}
        assert sum(map(len, used.values())) == len(set().union(*used.values()))
        if is_whole and stride == 1 and (settings.split.name == "chronological" or length - gap >= n_in + n_out):
            owner = sorted((frame, split) for split, covered in used.items() for frame in covered)
            between = {after - before - 1 for (before, a), (after, b) in itertools.pairwise(owner) if a != b}
            assert between == {gap}
    assert n_made > 150


def test_a_split_without_a_window_says_what_to_do():
    with pytest.raises(
        UserError, match=r"'validation' of 'Test' has no window.* 3 of 40 frames, 3 of them in a row.*= 4"
    ):
        make_windows(hours(40), dataset(chronological(0.5, 0.575)))
    with pytest.raises(UserError, match=r"'test'.* 0 of 40 frames"):
        make_windows(hours(40), dataset(chronological(0.5, 1)))
    with pytest.raises(UserError, match=r"train_end 0.8 \(frame 32\) is after split.validation_end 0.5"):
        make_windows(hours(40), dataset(chronological(0.8, 0.5)))
    with pytest.raises(UserError, match="1 frames and no time step"):
        make_windows(hours(1), dataset(chronological()))
    with pytest.raises(UserError, match=r"'train' of 'Test' has no window.* of 3 frames"):  # shorter than a window
        make_windows(hours(3), dataset(blocks()))


def test_train_mask_covers_training_windows_only():
    windows = pd.DataFrame({"start": [1, 3, 8], "split": ["train", "train", "test"]})
    assert np.flatnonzero(train_mask(12, windows, 4)).tolist() == [1, 2, 3, 4, 5, 6]


def test_statistics_in_closed_form():
    frames = np.zeros((6, 2, 2, 2), np.float32)
    frames[:4, 0] = np.array([1, 2, 3, 4])[:, None, None]
    frames[:4, 1] = 1e4 + np.array([-1, 1, -1, 1])[:, None, None]  # float32 sums would lose this
    mask = np.arange(6) < 4
    mean, std = statistics(frames, mask)
    np.testing.assert_allclose(mean, [2.5, 1e4])
    np.testing.assert_allclose(std, [np.sqrt(1.25), 1])
    assert mean.dtype == std.dtype == np.float64


def test_a_constant_channel_is_refused():
    frames = np.stack([np.arange(5.0), np.full(5, 0.1)], axis=1).astype(np.float32)[:, :, None, None]
    with pytest.raises(UserError, match=r"channel 1 \(from 0\) is 0.1"):
        statistics(frames, np.ones(5, bool))
