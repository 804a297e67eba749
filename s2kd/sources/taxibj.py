"""TaxiBJ: how many taxis enter and leave each cell of Beijing in half an hour (Zhang et al. 2017, AAAI).

Two forms go round: the years as their authors published them, with dates, and the windows that OpenSTL cut out of them,
without. Neither says where the cells lie nor which way the rows run.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from s2kd.params import TaxiBJSource, TaxiBJYearsSource
from s2kd.sources import arrays, events, fetch
from s2kd.sources.file import CELLS
from s2kd.stage import UserError

if TYPE_CHECKING:
    import dask.array as da

STEP = pd.Timedelta(minutes=30)
SLOTS = 48  # in a day, counted from 1
GRID = (2, 32, 32)  # inflow and outflow, rows, columns
N_STEPS = 4  # of a window's input and of its output

URL = "https://github.com/chengtan9907/OpenSTL/releases/download/v0.1.0"  # its tools/prepare_data/download_taxibj.sh
ARCHIVE, WINDOWS = "taxibj_dataset.zip", "dataset.npz"
DEEPST = "https://github.com/TolicWang/DeepST/tree/master/data/TaxiBJ"
LICENCE = "not stated; free for research with citation"
CITATION = (
    "Zhang, Zheng and Qi (2017), Deep Spatio-Temporal Residual Networks for Citywide Crowd Flows Prediction, AAAI"
)
# BJ_Meteorology.h5 marks one of these; from the publisher's README.
WEATHER = (
    "sunny", "cloudy", "overcast", "rainy", "sprinkle", "moderate rain", "heavy rain", "rainstorm", "thunderstorm",
    "freezing rain", "snowy", "light snow", "moderate snow", "heavy snow", "foggy", "sandstorm", "dusty",
)  # fmt: skip


def load(source: TaxiBJSource | TaxiBJYearsSource) -> xr.Dataset:
    """Open the windows of OpenSTL or the years of DeepST."""
    return _load_windows(source) if isinstance(source, TaxiBJSource) else _load_years(source)


# --- windows -------------------------------------------------------------------------------------------------------


def _load_windows(source: TaxiBJSource) -> xr.Dataset:
    """Open OpenSTL's ``dataset.npz``; each of its windows is an event of 8 frames, with the published split.

    Values are shares of the largest flow in training: OpenSTL's ``(x + 1) / 2`` of what the file holds, scaled to
    [-1, 1]. The factor back to taxis is not published, and its metrics are of the shares; they are sums over a frame,
    2048 times the mean squared (or absolute) error. It validates on the test windows, which we do not.
    """
    path = _windows_file(source)
    parts = []
    for split, expected in (("train", source.n_train), ("test", source.n_test)):
        pair = [arrays.npz(path, f"{name}_{split}") for name in "XY"]
        for name, array in zip("XY", pair, strict=True):
            check_shape(f"{path}: {name}_{split}", array.shape, (expected, N_STEPS, *GRID))
        parts.append((split, *((array.astype(np.float32) + 1) / 2 for array in pair)))
    channels = {"in": ("1", "inflow, share of the largest"), "out": ("1", "outflow, share of the largest")}
    return pre_cut(parts, channels, {"source": path.name, "license": LICENCE, "references": CITATION})


def _windows_file(source: TaxiBJSource) -> Path:
    if source.path:
        path = Path(source.path)
        return path / WINDOWS if path.is_dir() else path
    folder = fetch.cache_folder() / "taxibj"
    archive = fetch.fetch({ARCHIVE: f"{URL}/{ARCHIVE}"}, folder)[ARCHIVE]
    found = [path for name, path in fetch.extract(archive, folder).items() if Path(name).name == WINDOWS]
    if not found:
        raise UserError(f"{archive} holds no {WINDOWS}; get it from {DEEPST} or elsewhere and name it in source.path")
    return found[0]


def check_shape(what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Compare the shape of an array of windows: their number, steps, channels, rows and columns."""
    if shape[1:] != expected[1:]:
        raise UserError(
            f"{what} has shape {shape}, not (windows, {', '.join(map(str, expected[1:]))}); it is another data set"
        )
    if shape[0] != expected[0]:
        raise UserError(
            f"{what} holds {shape[0]} windows, and params.yaml says {expected[0]}; correct the number there, or bring "
            "the published file"
        )


def pre_cut(
    parts: list[tuple[str, "da.Array", "da.Array"]], channels: dict[str, tuple[str, str]], attrs: dict[str, str]
) -> xr.Dataset:
    """Lay windows that were cut beforehand one after another; each is an event, inputs first.

    Args:
        parts: of each split its name, inputs and outputs, both (window, step, channel, y, x).
        channels: unit and long name of each by its name.
        attrs: ``source``, ``license`` and ``references``.
    """
    import dask.array as da

    windows = [da.concatenate([inputs, outputs], axis=1) for _, inputs, outputs in parts]
    n_steps = windows[0].shape[1]
    frames = da.concatenate([part.reshape(-1, *part.shape[2:]) for part in windows])
    split = np.concatenate([np.repeat(name, len(inputs) * n_steps) for name, inputs, _ in parts])
    event = np.repeat(np.arange(len(frames) // n_steps), n_steps)
    times = pd.date_range(events.START, periods=len(frames), freq=STEP, unit="ns")
    return events.assemble(frames, event, channels, attrs, split=split).assign_coords(time=times)


# --- years ---------------------------------------------------------------------------------------------------------


def _load_years(source: TaxiBJYearsSource) -> xr.Dataset:
    """Open the files ``BJ13_M32x32_T30_InOut.h5`` and on; days that lack a slot are left out, as DeepST leaves them.

    A few negative counts become 0, as there. With ``meteorology`` the coordinates ``temperature``, ``wind_speed`` and
    ``weather`` hold what ``BJ_Meteorology.h5`` says of the slot of each frame (missing or the empty string where it
    says nothing). ``BJ_Holiday.txt`` is not read: in these years its days are the public holidays of China, which
    ``country: CN`` names, and weekends beside them.
    """
    import dask.array as da

    folder = Path(source.path)
    frames, slots, n_dropped = [], [], 0
    for year in source.years:
        path = folder / f"BJ{year}_M32x32_T30_InOut.h5"
        if not path.is_file():
            raise UserError(
                f"{path} is missing; put the files of {DEEPST} into the folder, correct source.path in params.yaml or "
                "leave the year out"
            )
        data, stamps = arrays.hdf5(path, "data"), arrays.read(path, "date").astype("S")
        if data.shape != (len(stamps), *GRID):
            raise UserError(
                f"{path}: data has shape {data.shape}, not ({len(stamps)}, {', '.join(map(str, GRID))}) by its dates "
                "and the published grid"
            )
        kept = complete_days(path, stamps)
        if not kept.any():
            raise UserError(f"{path}: no day has all {SLOTS} half-hours; fetch it again or leave the year out")
        n_dropped += len(set(_days(stamps)) - set(_days(stamps[kept])))
        edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        frames += [data[first:end] for first, end in edges]
        slots.append(stamps[kept])
    stamps = np.concatenate(slots)
    times = _times(stamps)
    if not (times.is_monotonic_increasing and times.is_unique):
        first = times[np.flatnonzero(~(times[1:] > times[:-1]))[0] + 1]
        raise UserError(f"{folder}: {first} comes twice or out of order; name each file once, in order, in years")
    coords = {
        "time": times,
        "channel": ["in", "out"],
        "units": ("channel", ["taxis", "taxis"]),
        "long_name": ("channel", ["taxis that enter", "taxis that leave"]),
        **{dim: (dim, np.arange(n, dtype=np.float64), CELLS[dim]) for dim, n in zip("yx", GRID[1:], strict=True)},
        **(_meteorology(folder / "BJ_Meteorology.h5", stamps) if source.meteorology else {}),
    }
    return xr.Dataset(
        {"frames": (("time", "channel", "y", "x"), da.maximum(da.concatenate(frames).astype(np.float32), 0))},
        coords=coords,
        attrs={
            "source": ", ".join(f"BJ{year}_M32x32_T30_InOut.h5" for year in source.years),
            "license": LICENCE,
            "references": CITATION,
            "comment": f"{n_dropped} days that lack a half-hour are left out",
        },
    )


def complete_days(path: Path, stamps: np.ndarray) -> Bool[np.ndarray, " time"]:
    """Mark the frames of days that have every slot from 1 to 48 once and in order.

    Args:
        path: of the file, for messages.
        stamps: such as ``b"2013070148"``: year, month, day and slot.
    """
    text = stamps.astype("U")
    wrong = np.flatnonzero((np.char.str_len(text) != 10) | ~np.char.isdigit(text))
    if len(wrong):
        raise UserError(f"{path}: date {text[wrong[0]]} (number {wrong[0]}) is not year, month, day and slot")
    days = _days(stamps)
    slots = np.array([int(stamp[8:]) for stamp in text])
    starts = np.concatenate([[0], np.flatnonzero(days[1:] != days[:-1]) + 1])
    kept = np.zeros(len(stamps), dtype=bool)
    for first, end in zip(starts, [*starts[1:], len(stamps)], strict=True):
        kept[first:end] = np.array_equal(slots[first:end], np.arange(1, SLOTS + 1))
    return kept


def _days(stamps: np.ndarray) -> np.ndarray:
    return stamps.astype("U8")


def _times(stamps: np.ndarray) -> pd.DatetimeIndex:
    slots = np.array([int(stamp) for stamp in stamps.astype("U")]) % 100
    return (pd.DatetimeIndex(pd.to_datetime(_days(stamps), format="%Y%m%d")) + (slots - 1) * STEP).as_unit("ns")


def _meteorology(path: Path, stamps: np.ndarray) -> dict:
    dates = pd.Index(arrays.read(path, "date").astype("S").astype("U"))
    expected = {"Temperature": (len(dates),), "WindSpeed": (len(dates),), "Weather": (len(dates), len(WEATHER))}
    held = {name: arrays.read(path, name).astype(np.float32) for name in expected}
    for name, values in held.items():
        if values.shape != expected[name]:
            raise UserError(f"{path}: {name} has shape {values.shape}, not {expected[name]}; it is another file")
    rows = pd.Series(np.arange(len(dates)), dates)
    rows = rows[~rows.index.duplicated()].reindex(stamps.astype("U"), fill_value=-1).to_numpy()
    temperature, wind_speed, marks = (np.where(rows < 0, np.nan, values[rows].T).T for values in held.values())
    marked = np.nan_to_num(marks)
    weather = np.where(marked.any(axis=1), np.array(WEATHER)[marked.argmax(axis=1)], "")
    return {
        "temperature": ("time", temperature, {"units": "degC", "long_name": "air temperature"}),
        "wind_speed": ("time", wind_speed, {"units": "mph", "long_name": "wind speed"}),
        "weather": ("time", weather),
    }
