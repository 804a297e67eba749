"""Roll-outs by hand: of a linear model with a known error, and which windows may be rolled out."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from s2kd.dataset import Meta
from s2kd.evaluation import evaluate, write_evaluation
from s2kd.naive import Climatology
from s2kd.rollout import evaluate_rollout, roll_out, rollout_windows


def a_meta(n_steps_input: int, n_steps_output: int, n_frames: int = 60) -> Meta:
    return Meta(
        dataset="toy", title="Toy", domain="weather", country=None, channels=("a",), units=("1",), time_step=3600,
        start="2001-01-01T00:00:00", n_frames=n_frames, n_steps_input=n_steps_input, n_steps_output=n_steps_output,
        y_name="y", x_name="x", y=(0, 1, 2), x=(0, 1), mean=(0,), std=(1,), period="none", missing="refuse",
        n_missing=0, nominal_time=False, licence="-", citation="-",
    )  # fmt: skip


def some_windows(split_starts: dict[str, list[int]]) -> pd.DataFrame:
    rows = sorted((start, split) for split, starts in split_starts.items() for start in starts)
    windows = pd.DataFrame(rows, columns=["start", "split"])
    windows.insert(0, "id", np.arange(len(windows)))
    return windows


def unbroken(n: int) -> np.ndarray:
    """Numbers of the runs of ``n`` frames that are all in one."""
    return np.zeros(n, dtype=np.int64)


def powers(factor: float, n_steps_output: int, seen: list):
    """x_{t+1} = factor · x_t, n_steps_output steps ahead."""

    def model(inputs, phase):
        seen.append((inputs[:, :, 0, 0, 0].tolist(), phase.tolist()))
        exponents = torch.arange(1, n_steps_output + 1).reshape(1, -1, 1, 1, 1)
        return inputs[:, -1:] * factor**exponents

    return model


@pytest.mark.parametrize(("n_steps_input", "n_steps_output"), [(3, 2), (2, 2), (2, 5)])
def test_error_of_a_linear_model_grows_as_its_powers(n_steps_input, n_steps_output):
    meta = a_meta(n_steps_input, n_steps_output, n_frames=40)
    truth, wrong = 1.05, 1.1
    frames = np.full((40, 1, 3, 2), 1, dtype=np.float32) * np.float32(truth) ** np.arange(40).reshape(-1, 1, 1, 1)
    n_steps = 3 * n_steps_output
    starts = list(range(40 - n_steps_input - n_steps_output + 1))
    windows = some_windows({"test": starts})
    ids = rollout_windows(windows, unbroken(40), meta, 3)
    assert ids.tolist() == list(range(40 - n_steps_input - n_steps + 1))

    def forecasts():
        for first in range(0, len(ids), 4):  # the last batch is smaller
            known = windows["start"].to_numpy()[ids[first : first + 4], None] + np.arange(n_steps_input)
            inputs = torch.from_numpy(frames[known])
            yield roll_out(powers(wrong, n_steps_output, []), inputs, torch.zeros(len(inputs), dtype=torch.long), 3)

    table = evaluate_rollout(forecasts(), frames, windows, meta, ids, 3)
    steps = np.arange(1, n_steps + 1)
    last = truth ** (ids[:, None] + n_steps_input - 1)
    expected = ((last * wrong**steps - last * truth**steps) ** 2).mean(0)
    np.testing.assert_allclose(table["mse"], expected, rtol=1e-4)
    np.testing.assert_allclose(table["rmse"], np.sqrt(expected), rtol=1e-4)
    assert table["lead_time_hours"].tolist() == steps.tolist()
    assert set(table["n_windows"]) == {len(ids)}


def test_own_forecasts_become_inputs_and_the_phase_advances():
    inputs = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1, 1)
    seen = []
    forecast = roll_out(powers(2.0, 2, seen), inputs, torch.tensor([5]), 3)
    assert forecast.flatten().tolist() == [8, 16, 32, 64, 128, 256]
    # Of three frames seen, the third stays as the tail before two forecasts.
    assert seen == [([[1, 2, 4]], [5]), ([[4, 8, 16]], [7]), ([[16, 32, 64]], [9])]
    seen = []
    roll_out(powers(2.0, 5, seen), inputs, torch.tensor([5]), 2)
    assert seen == [([[1, 2, 4]], [5]), ([[32, 64, 128]], [10])]


def test_a_roll_out_stays_in_an_unbroken_run_of_test_frames():
    # Windows have 2 + 1 frames, three horizons 2 + 3 = 5. Test frames: 10 to 17, 20 to 23, 30 to 36, 50 to 59.
    starts = [*range(10, 16), 20, 21, *range(30, 35), *range(50, 58)]
    windows = some_windows({"train": list(range(7)), "validation": [38, 39, 40], "test": starts})
    start_of = windows["start"].to_numpy()

    def usable(segment: np.ndarray) -> list[int]:
        return start_of[rollout_windows(windows, segment, a_meta(2, 1), 3)].tolist()

    assert usable(unbroken(60)) == [10, 11, 12, 13, 30, 31, 32, *range(50, 56)]
    gap = np.repeat([0, 1], [55, 5])  # an hour is missing, or an event ends, between frames 54 and 55
    assert usable(gap) == [10, 11, 12, 13, 30, 31, 32, 50, 55]


def test_windows_that_lie_apart_make_no_run_and_those_that_touch_do():
    meta = a_meta(2, 1)
    touching, apart = some_windows({"test": [0, 3, 6]}), some_windows({"test": [0, 4, 8]})
    assert rollout_windows(touching, unbroken(60), meta, 3).tolist() == [0, 1]
    assert rollout_windows(apart, unbroken(60), meta, 3).tolist() == []


def test_missing_targets_are_not_scored():
    meta, windows = a_meta(2, 1), some_windows({"test": [0, 3, 6]})
    frames = np.zeros((60, 1, 3, 2), dtype=np.float32)
    frames[3, :, 1:] = np.nan  # the second target of the first window, the first row apart; the first one's last input
    frames[7] = np.nan  # the third target of the second window
    forecast = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1).expand(2, 3, 1, 3, 2).clone()
    forecast[0, 1, :, 0] = 5
    table = evaluate_rollout([forecast], frames, windows, meta, np.array([0, 1]), 3)
    # At the second lead time 2 cells of 5 and 6 of 2 count, at the third those of the first window alone.
    assert table["mse"].tolist() == [1, (2 * 25 + 6 * 4) / 8, 9]


def test_no_window_gives_nulls_and_a_reason(tmp_path):
    meta = a_meta(2, 1)
    windows = some_windows({"train": [0, 1], "test": [10, 11]})
    frames = np.zeros((60, 1, 3, 2), dtype=np.float32)
    frames[3] = 1
    rollout = evaluate_rollout([], frames, windows, meta, np.arange(0), 4)
    usual = Climatology(np.zeros((1, 1, 3, 2), dtype=np.float32), np.zeros(60, dtype=np.int64))
    evaluation = evaluate([torch.zeros(2, 1, 1, 3, 2)], frames, windows, meta, usual, np.array([2]))
    write_evaluation(evaluation, "toy-0", tmp_path, tmp_path, rollout=rollout)
    written = json.loads((tmp_path / "toy-0.json").read_text())
    assert (written["mse_rollout"], written["n_windows_rollout"]) == (None, 0)
    assert written["reason_rollout"] == "no unbroken run of test frames holds a window and 4 lead times"
    table = pd.read_csv(tmp_path / "toy-0-rollout.csv")
    assert list(table.columns) == ["step", "lead_time_hours", "n_windows", "mse", "rmse"]
    assert table["mse"].isna().all()
    assert len(table) == 4


def test_too_few_or_too_many_roll_outs_are_refused():
    frames, windows, meta = (
        np.zeros((60, 1, 3, 2), dtype=np.float32),
        some_windows({"test": [0, 1, 2, 3]}),
        a_meta(2, 1),
    )
    for n in (3, 5):
        with pytest.raises(ValueError, match="4 windows"):
            evaluate_rollout([torch.zeros(n, 2, 1, 3, 2)], frames, windows, meta, np.arange(4), 2)
