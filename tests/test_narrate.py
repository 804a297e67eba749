"""The stage from files to file, on a small data set made here."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from s2kd.dataset import Meta
from s2kd.stage import UserError
from stages.narrate import main

N_FRAMES, SHAPE = 96, (6, 9)


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four days of traffic, windows of 4 + 2 frames."""
    write_frames(tmp_path, np.random.default_rng(0).poisson(5, (N_FRAMES, 2, *SHAPE)).astype(np.float32))
    starts = np.arange(N_FRAMES - 5)
    split = np.where(starts < 60, "train", "test")
    pd.DataFrame({"id": starts, "start": starts, "split": split}).to_csv(tmp_path / "windows.csv", index=False)
    meta = Meta(
        dataset="made", title="Made by hand", domain="traffic", country="US", channels=("inflow", "outflow"),
        units=("taxis", "taxis"), time_step=3600, start="2001-01-01T00:00:00", n_frames=N_FRAMES, n_steps_input=4,
        n_steps_output=2, y_name="latitude", x_name="longitude", y=tuple(range(40, 34, -1)), x=tuple(range(9)),
        mean=(5, 5), std=(2, 2), licence="", citation="",
    )  # fmt: skip
    (tmp_path / "meta.json").write_text(meta.model_dump_json(indent=2))
    monkeypatch.chdir(Path(__file__).parents[1])
    return tmp_path


def write_frames(folder: Path, frames: np.ndarray) -> None:
    times = pd.date_range("2001-01-01", periods=len(frames), freq="h")
    data = xr.Dataset({"frames": (("time", "channel", "y", "x"), frames)}, {"time": times})
    data.to_zarr(folder / "frames.zarr", mode="w", zarr_format=3, consolidated=False)


def narrate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    names = {"frames": "frames.zarr", "windows": "windows.csv", "meta": "meta.json", "narratives": "narratives.jsonl"}
    monkeypatch.setattr(sys, "argv", ["narrate", *(f"--{option}={folder / name}" for option, name in names.items())])
    main()
    return [json.loads(line) for line in (folder / "narratives.jsonl").read_text().splitlines()]


def test_one_line_a_window_in_order_of_id(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = narrate(dataset, monkeypatch)
    assert [row["id"] for row in rows] == list(range(N_FRAMES - 5))
    assert {(row["backend"], row["view"]) for row in rows} == {("template", "history")}
    assert all(list(row) == ["id", "backend", "view", "text"] for row in rows)
    assert rows[0]["text"].startswith(
        "4 hours to Monday 1 January 4 h, weekday night, New Year's Day, a public holiday."
    )
    assert "91 narratives" in capsys.readouterr().out
    written = (dataset / "narratives.jsonl").read_bytes()
    narrate(dataset, monkeypatch)
    assert (dataset / "narratives.jsonl").read_bytes() == written


def test_targets_of_a_test_window_do_not_change_its_text(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = narrate(dataset, monkeypatch)
    frames = xr.open_zarr(dataset / "frames.zarr", consolidated=False)["frames"].to_numpy()
    frames[-2:] += 50
    write_frames(dataset, frames)
    after = narrate(dataset, monkeypatch)
    assert after == before  # the last two frames are no window's input


def test_windows_beyond_the_frames_are_the_users_mistake(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = dataset / "windows.csv"
    table.write_text(table.read_text() + f"{N_FRAMES - 5},{N_FRAMES - 5},test\n")
    with pytest.raises(UserError, match=r"windows\.csv: 92 windows of 6 frames do not fit the 96 frames"):
        narrate(dataset, monkeypatch)
    assert not (dataset / "narratives.jsonl").exists()
