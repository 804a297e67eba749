"""Evaluation of one forecaster on the test windows, and the files that hold it."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from tqdm import tqdm

from s2kd.dataset import Frames, Meta, blocks
from s2kd.metrics import (
    anomaly_scores,
    anomaly_sums,
    latitude_weights,
    pixel_scores,
    pixel_sums,
    radial_power,
    spectral_scores,
    spectral_sums,
)
from s2kd.naive import Climatology
from s2kd.stage import atomic, write_text
from s2kd.windows import train_mask

MAX_SPECTRAL_WINDOWS = 256  # of the spectral protocol; evenly spaced over the test split


@dataclass(frozen=True)
class Evaluation:
    """Scores of one forecaster; a score that does not exist is NaN or infinite here and null or empty in the files."""

    n_windows: int
    n_windows_spectral: int
    n_windows_hard: int
    scores: dict[str, float]  # over all lead times and channels; mse_hard over the hard windows alone
    channels: dict[str, dict[str, float]]  # the cell-by-cell scores of each channel
    lead_times: pd.DataFrame  # one row a lead time
    spectrum: pd.DataFrame  # one row an annulus
    example_window: int
    example: Float[np.ndarray, "time channel height width"]  # NaN where the forecaster has none for that window


def evaluate(
    forecasts: Iterable[Float[Tensor, "_batch time channel height width"]],
    frames: Frames | Float[np.ndarray, "frame channel height width"],
    windows: pd.DataFrame,
    meta: Meta,
    usual: Climatology,
    hard: Int[np.ndarray, " hard"],
    ids: Int[np.ndarray, " window"] | None = None,
) -> Evaluation:
    """Score batches of forecasts in physical units against the frames they forecast.

    The truth is cut from ``frames`` here, batch by batch, so that every forecaster is compared with the same numbers.
    The batches, of any size, together hold the test windows ``ids`` in that order (None: all of them). ``hard`` are the
    ids that ``hard_windows`` chose. Missing targets (NaN) are not scored; a grid with latitudes has its scores weighted
    by them as well.

    Raises:
        ValueError: the batches hold more or fewer windows than ``ids``.
    """
    test = evaluated_windows(windows)
    ids = test if ids is None else ids
    spectral_ids = test[_evenly_spaced(len(test), MAX_SPECTRAL_WINDOWS)]
    example_window = int(test[len(test) // 2])
    value_range, active = training_statistics(frames, windows, meta)
    weights = latitude_weights(meta.y) if meta.y_name == "latitude" else None

    def cell_sums(predictions: Tensor, targets: Tensor, usual: Tensor) -> dict[str, Tensor]:
        pixels = pixel_sums(predictions, targets, value_range, active, weights)
        return pixels | anomaly_sums(predictions, targets, usual, weights)

    shape = (meta.n_steps_output, *frames.shape[1:])
    example = np.full(shape, np.nan, dtype=np.float32)
    nothing = torch.zeros((1, *shape), dtype=torch.float64)
    cells = {key: torch.zeros_like(value) for key, value in cell_sums(nothing, nothing, nothing).items()}
    spectra = {key: value * 0 for key, value in spectral_sums(nothing, nothing).items()}  # keeps NaN of absent bands
    squared_error_hard, n_known_hard = torch.zeros(2, dtype=torch.float64)

    starts = windows["start"].to_numpy()
    done = 0
    with tqdm(total=len(ids), unit="window", disable=None) as progress:
        for batch in forecasts:
            batch_ids = ids[done : done + len(batch)]
            done += len(batch)
            if done > len(ids):
                break
            index = starts[batch_ids, None] + meta.n_steps_input + np.arange(meta.n_steps_output)
            targets = torch.from_numpy(frames[index]).double()
            predictions = batch.cpu().double()
            cells = _add(cells, cell_sums(predictions, targets, torch.from_numpy(usual.at(index)).double()))
            chosen = torch.from_numpy(np.isin(batch_ids, spectral_ids))
            if chosen.any():
                spectra = _add(spectra, spectral_sums(predictions[chosen], targets[chosen]))
            is_hard = torch.from_numpy(np.isin(batch_ids, hard))
            known = ~targets[is_hard].isnan()
            squared_error_hard += torch.where(known, (predictions - targets)[is_hard], 0.0).square().sum()
            n_known_hard += known.sum()
            for forecast in predictions[torch.from_numpy(batch_ids == example_window)]:
                example = forecast.float().numpy()
            progress.update(len(batch))
    if done != len(ids):
        raise ValueError(f"forecasts of {len(ids)} windows were expected, the batches hold {done} or more")

    def cell_scores(rows: slice, channels: slice) -> dict[str, float]:
        chosen = {key: value[rows, channels] for key, value in cells.items()}
        return pixel_scores(chosen, value_range[:, channels]) | anomaly_scores(chosen)

    def scores(rows: slice) -> dict[str, float]:
        return cell_scores(rows, slice(None)) | spectral_scores({k: value[rows] for k, value in spectra.items()})

    return Evaluation(
        n_windows=len(ids),
        n_windows_spectral=int(np.isin(ids, spectral_ids).sum()),
        n_windows_hard=int(np.isin(ids, hard).sum()),
        scores=scores(slice(None)) | {"mse_hard": float(squared_error_hard / n_known_hard)},  # NaN where there is none
        channels={name: cell_scores(slice(None), slice(c, c + 1)) for c, name in enumerate(meta.channels)},
        lead_times=pd.DataFrame(
            [lead_time(step, meta) | scores(slice(step - 1, step)) for step in range(1, meta.n_steps_output + 1)]
        ),
        spectrum=pd.DataFrame({key: value.numpy() for key, value in radial_power(spectra, *shape[-2:]).items()}),
        example_window=example_window,
        example=example,
    )


def write_evaluation(
    evaluation: Evaluation,
    name: str,
    metrics_dir: Path,
    examples_dir: Path,
    parameters: int | None = None,
    flops: int | None = None,
    reason: str | None = None,
    narrative: dict[str, Any] | None = None,
    rollout: pd.DataFrame | None = None,
) -> None:
    """Write ``<name>.json``, ``<name>.csv`` and ``<name>-spectrum.csv`` (6 digits) and the example ``<name>.npy``.

    Of a forecaster that was rolled out also ``<name>-rollout.csv``, and the mean of its MSE into the JSON file.

    The example is the forecast of the test window in the middle: float32, (time, channel, y, x), physical units.
    ``flops`` are those of one window; ``reason`` tells why there are no scores, or fewer windows than usual;
    ``narrative`` tells of the text that the forecaster learned from.
    """
    rolled = {}
    if rollout is not None:
        n_windows = int(rollout["n_windows"].iloc[0])
        rolled = {"n_windows_rollout": n_windows, **_rounded({"mse_rollout": rollout["mse"].mean(skipna=False)})}
        if not n_windows:
            rolled["reason_rollout"] = f"no unbroken run of test frames holds a window and {len(rollout)} lead times"
        write_text(metrics_dir / f"{name}-rollout.csv", _csv(rollout))
    overview = {
        "n_windows": evaluation.n_windows,
        "n_windows_spectral": evaluation.n_windows_spectral,
        "n_windows_hard": evaluation.n_windows_hard,
        "example_window": evaluation.example_window,
        **_rounded(evaluation.scores),
        **rolled,
        "channels": {channel: _rounded(scores) for channel, scores in evaluation.channels.items()},
        "parameters": parameters,
        "flops": flops,
        "narrative": narrative,
    } | ({"reason": reason} if reason else {})
    write_text(metrics_dir / f"{name}.json", json.dumps(overview, indent=2, ensure_ascii=False) + "\n")
    write_text(metrics_dir / f"{name}.csv", _csv(evaluation.lead_times))
    write_text(metrics_dir / f"{name}-spectrum.csv", _csv(evaluation.spectrum))
    with atomic(examples_dir / f"{name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, evaluation.example)


def evaluated_windows(windows: pd.DataFrame) -> Int[np.ndarray, " window"]:
    """Ids of the test windows, in order of time."""
    return windows.loc[windows["split"] == "test", "id"].to_numpy()


def hard_windows(
    frames: Frames | Float[np.ndarray, "frame channel height width"],
    windows: pd.DataFrame,
    meta: Meta,
    usual: Climatology,
    fraction: float,
) -> Int[np.ndarray, " window"]:
    """Ids of the ``fraction`` of the test windows with the largest change, by the data alone: what persistence misses.

    Change is the mean square of target frames minus last input frame, all less the training climatology, so that the
    daily cycle is none. Cells that are missing in either do not count.
    """
    ids = evaluated_windows(windows)
    changes = []
    for start in windows["start"].to_numpy()[ids]:
        index = start + meta.n_steps_input + np.arange(-1, meta.n_steps_output)  # the last input and the targets
        anomalies = frames[index] - usual.at(index)
        change = np.square(anomalies[1:] - anomalies[0])
        changes.append(np.nansum(change, dtype=np.float64) / max(1, np.count_nonzero(~np.isnan(change))))
    n_hard = max(1, round(fraction * len(ids)))
    return np.sort(ids[np.argsort(-np.array(changes), kind="stable")[:n_hard]])


def training_statistics(
    frames: Frames | Float[np.ndarray, "frame channel height width"], windows: pd.DataFrame, meta: Meta
) -> tuple[Float64[Tensor, "2 channel"], Bool[Tensor, "channel height width"] | None]:
    """Minimum and maximum of each channel over the frames of training windows; for traffic its cells ever non-zero."""
    is_train = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    low, high = np.full((2, frames.shape[1]), np.nan)
    active = np.zeros(frames.shape[1:], dtype=bool)
    for part, block in blocks(frames):
        if is_train[part].any():
            training = block[is_train[part]]
            low = np.fmin(low, np.fmin.reduce(training, (0, 2, 3)))  # fmin and fmax pass over NaN
            high = np.fmax(high, np.fmax.reduce(training, (0, 2, 3)))
            active |= ((training != 0) & ~np.isnan(training)).any(0)
    value_range = torch.from_numpy(np.stack([low, high]))
    return value_range, torch.from_numpy(active) if meta.domain == "traffic" else None


def _evenly_spaced(n: int, limit: int) -> Int[np.ndarray, " position"]:
    return np.linspace(0, n - 1, min(n, limit)).round().astype(int)


def lead_time(step: int, meta: Meta) -> dict[str, int | float]:
    """First columns of a table by lead time; steps count from 1."""
    return {"step": step, "lead_time_hours": step * meta.time_step / 3600}


def _add(total: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: total[key] + value for key, value in batch.items()}


def _rounded(scores: dict[str, float]) -> dict[str, float | None]:
    return {key: float(f"{value:.6g}") if math.isfinite(value) else None for key, value in scores.items()}


def _csv(table: pd.DataFrame) -> str:
    return table.replace([np.inf, -np.inf], np.nan).to_csv(index=False, float_format="%.6g", lineterminator="\n")
