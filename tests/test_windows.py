"""Windows against lists written out by hand, and what must hold for every setting."""

import datetime
import itertools

import numpy as np
import pandas as pd
import pytest

from s2kd.params import Dataset
from s2kd.stage import UserError
from s2kd.windows import make_windows, segments, time_step, train_mask


def dataset(split: dict, n_steps_input: int = 3, n_steps_output: int = 1, stride: int = 1) -> Dataset:
    source = {"name": "file", "path": "x.nc", "variables": ["a"], "start": None, "step_minutes": None}
    source |= {"licence": "", "citation": ""}
    sizes = {"n_steps_input": n_steps_input, "n_steps_output": n_steps_output, "stride": stride}
    about = {"title": "Test", "domain": "weather", "country": None, "period": "none", "missing": "refuse"}
    return Dataset.model_validate({**about, **sizes, "source": source, "split": split})


def blocks(length: int = 10, gap: int = 2, pattern: tuple = ("train", "train", "validation", "test")) -> dict:
    return {"name": "blocks", "length": length, "gap": gap, "pattern": list(pattern)}


def chronological(train_end: object = 0.5, validation_end: object = 0.75, trim: int = 0) -> dict:
    return {"name": "chronological", "train_end": train_end, "validation_end": validation_end, "trim": trim}


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


def test_trimmed_splits_have_openstl_s_counts():
    """Hourly 12 to 12, trained on 2010 to 2015, tested on 2017 and 2018; two frames fewer than the years have."""
    times = pd.date_range("2010-01-01", "2018-12-31 23:00", freq="h")
    windows = make_windows(times, dataset(chronological("2016-01-01", "2017-01-01", trim=2), 12, 12))
    assert windows["split"].value_counts().to_dict() == {"train": 52559, "validation": 8759, "test": 17495}


def test_jitter_is_no_gap_but_a_missing_frame_is():
    jitter = pd.to_timedelta(np.random.default_rng(0).integers(-99, 99, 50), unit="us")
    assert segments(hours(50) + jitter).tolist() == [0] * 50
    assert segments((hours(50) + jitter).delete(20)).tolist() == [0] * 20 + [1] * 29


def test_no_window_spans_two_events():
    event = np.repeat([4, 9, 1, 7], [6, 5, 4, 5])
    windows = make_windows(hours(20), dataset({"name": "events", "validation": 1, "test": 1}), event)
    assert starts(windows) == {"train": [0, 1, 2, 6, 7], "validation": [11], "test": [15, 16]}


def test_parts_of_events_are_numbers_or_fractions():
    event = np.arange(1200 * 20) // 20
    times = hours(len(event))
    by_number = make_windows(times, dataset({"name": "events", "validation": 100, "test": 100}, 10, 10), event)
    assert by_number["split"].value_counts().to_dict() == {"train": 1000, "validation": 100, "test": 100}
    by_fraction = make_windows(times, dataset({"name": "events", "validation": 0.25, "test": 0.5}, 10, 10), event)
    assert by_fraction["split"].tolist() == ["train"] * 300 + ["validation"] * 300 + ["test"] * 600


def test_the_published_split_is_kept_and_validation_comes_from_the_end_of_training():
    event = np.arange(40) // 4
    published = np.repeat(["train", "test", "", "train"], [20, 8, 4, 8]).astype(object)
    windows = make_windows(hours(40), dataset({"name": "published", "validation": 2, "gap": 1}), event, published)
    assert starts(windows) == {"train": [0, 4, 8, 12], "test": [20, 24], "validation": [32, 36]}
    published[:4] = "validation"
    windows = make_windows(hours(40), dataset({"name": "published", "validation": 0, "gap": 0}), event, published)
    assert starts(windows) == {"validation": [0], "train": [4, 8, 12, 16, 32, 36], "test": [20, 24]}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"name": "events", "validation": 1, "test": 1}, "'Test' has no events; give it another split"),
        ({"name": "published", "validation": 0, "gap": 0}, "'Test' comes without a split; give it another"),
    ],
)
def test_a_split_that_the_source_cannot_have(split, message):
    with pytest.raises(UserError, match=message):
        make_windows(hours(50), dataset(split))
