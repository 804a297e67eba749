"""Roll-out: what becomes of a forecaster that takes its own forecasts for the latest frames, beyond its horizon.

The previous day and week are not rolled out, being periodic, nor is the teacher, whose text tells of its first horizon
alone.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from s2kd.dataset import Frames, Meta
from s2kd.evaluation import evaluated_windows, lead_time


def rollout_windows(
    windows: pd.DataFrame, segment: Int[np.ndarray, " frame"], meta: Meta, factor: int
) -> Int[np.ndarray, " window"]:
    """Ids of the test windows whose frames, extended to ``factor`` horizons, are all test frames of one unbroken run.

    A test frame is one that a test window covers; ``segment`` are the numbers of the runs.
    """
    ids = evaluated_windows(windows)
    starts = windows["start"].to_numpy()[ids]
    is_test = np.zeros(len(segment), dtype=bool)
    is_test[starts[:, None] + np.arange(meta.n_steps_input + meta.n_steps_output)] = True
    n_steps = meta.n_steps_input + factor * meta.n_steps_output
    inside = starts + n_steps <= len(segment)
    ids, starts = ids[inside], starts[inside]
    n_test = np.concatenate([[0], np.cumsum(is_test)])  # before each frame
    whole = (n_test[starts + n_steps] - n_test[starts] == n_steps) & (segment[starts] == segment[starts + n_steps - 1])
    return ids[whole]


def roll_out(
    model: Callable[[Tensor, Tensor], Tensor],
    inputs: Float[Tensor, "batch time_in channel height width"],
    phase: Int[Tensor, " batch"],
    n_rounds: int,
) -> Float[Tensor, "batch time_out channel height width"]:
    """Forecast, take the forecast for the latest frames, and forecast again: ``n_rounds`` horizons in a row."""
    forecasts = []
    for _ in range(n_rounds):
        forecasts.append(model(inputs, phase))
        inputs = torch.cat([inputs, forecasts[-1]], dim=1)[:, -inputs.shape[1] :]
        phase = phase + forecasts[-1].shape[1]
    return torch.cat(forecasts, dim=1)


def evaluate_rollout(
    forecasts: Iterable[Float[Tensor, "_batch time channel height width"]],
    frames: Frames | Float[np.ndarray, "frame channel height width"],
    windows: pd.DataFrame,
    meta: Meta,
    ids: Int[np.ndarray, " window"],
    factor: int,
) -> pd.DataFrame:
    """MSE and RMSE of forecasts of ``factor`` times the horizon, one row a lead time; NaN where ``ids`` is empty.

    The batches together hold the windows ``ids``, those that ``rollout_windows`` found, in that order. Missing targets
    (NaN) are not scored.

    Raises:
        ValueError: the batches hold more or fewer windows than ``ids``.
    """
    n_steps = factor * meta.n_steps_output
    starts = windows["start"].to_numpy()
    squared_error, n_known = torch.zeros((2, n_steps), dtype=torch.float64)
    done = 0
    for batch in forecasts:
        first = starts[ids[done : done + len(batch)]] + meta.n_steps_input
        done += len(batch)
        if done > len(ids):
            break
        targets = torch.from_numpy(frames[first[:, None] + np.arange(n_steps)]).double()
        known = ~targets.isnan()
        squared_error += torch.where(known, batch.cpu().double() - targets, 0.0).square().sum((0, 2, 3, 4))
        n_known += known.sum((0, 2, 3, 4))
    if done != len(ids):
        raise ValueError(f"roll-outs of {len(ids)} windows were expected, the batches hold {done} or more")
    mse = (squared_error / n_known).numpy()
    rows = [lead_time(step, meta) | {"n_windows": len(ids)} for step in range(1, n_steps + 1)]
    return pd.DataFrame(rows).assign(mse=mse, rmse=np.sqrt(mse))
