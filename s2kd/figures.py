"""Figures of the report, drawn without pyplot and the user's matplotlibrc: the same numbers give the same bytes."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from s2kd.dataset import Meta
from s2kd.stage import atomic

# Okabe and Ito's palette, which the colour-blind can tell apart: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = {"last_frame": ":", "previous_day": "--", "previous_week": "-.", "climatology": "-"}
DPI = 100
N_COLOURS = 33  # of a map: few, for small files; odd, so that an error of zero is neutral


def styles(names: list[str]) -> dict[str, dict[str, Any]]:
    """Line style of each forecaster, the same in all figures: naive grey, teacher black, variants in colour."""
    lines: dict[str, dict[str, Any]] = {}
    n_variants = 0
    for name in names:
        if name in DASHES:
            lines[name] = {"color": "0.5", "linestyle": DASHES[name], "linewidth": 1.3}
        elif name == "teacher":
            lines[name] = {"color": "black", "linestyle": "-", "linewidth": 1.5}
        else:
            repeat, colour = divmod(n_variants, len(COLOURS))
            lines[name] = {"color": COLOURS[colour], "linestyle": ("-", "--", ":")[repeat % 3], "linewidth": 1.8}
            n_variants += 1
    return lines


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure (inches) and write it as PNG to ``path``, without time stamp or version."""
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})


# --- lines -------------------------------------------------------------------------------------------------------


def draw_lead_time(
    path: Path,
    tables: dict[str, list[pd.DataFrame]],
    rollouts: dict[str, list[pd.DataFrame]],
    meta: Meta,
    unit: str,
) -> None:
    """Draw RMSE by lead time, and apart by that of the roll-out, which fewer windows have.

    A variant is the mean of its seeds in a band from the least to the greatest.
    """
    lines = styles(list(tables))
    n_windows = min(table["n_windows"].min() for runs in rollouts.values() for table in runs)
    x, label = ("step", "Lead time (steps)") if meta.nominal_time else ("lead_time_hours", "Lead time (h)")
    with drawing(path, 10.5, 4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 4))
        _draw_members(left, tables, x, "rmse", lines)
        _draw_members(right, rollouts, x, "rmse", lines)
        for axes, name in ((left, "To the horizon"), (right, f"Roll-out ({n_windows} windows)")):
            _set_scale(axes)
            axes.set(title=name, xlabel=label)
            axes.grid(alpha=0.25, which="both")
        horizon = next(iter(tables.values()))[0][x].max()
        right.axvline(horizon, color="0.35", linewidth=0.8, linestyle=(0, (2, 3)))
        left.set_ylabel(f"RMSE ({unit})")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False)
        figure.suptitle(f"{meta.title}: error by lead time")


def draw_spectra(path: Path, tables: dict[str, list[pd.DataFrame]], title: str, unit: str) -> None:
    """Draw radial power of truth and forecasts, and that of the errors, by wavenumber."""
    with drawing(path, 9.5, 4.0) as figure:
        left, right = figure.subplots(1, 2, sharex=True)
        lines = styles(list(tables))
        truth = next(iter(tables.values()))[0]
        truth = truth.dropna()
        left.plot(truth["wavenumber"], truth["power_truth"], color="0.8", linewidth=6, label="truth")
        _draw_members(left, tables, "wavenumber", "power_forecast", lines)
        _draw_members(right, tables, "wavenumber", "power_error", lines)
        for axes, name in ((left, "Power of forecasts and truth"), (right, "Power of the error")):
            axes.set_yscale("log")
            axes.set_title(name, pad=20)
            axes.set_xlabel("Wavenumber (cycles a cell)")
            axes.set_xlim(left=0)
            axes.grid(alpha=0.25)
            for border, band in ((1 / 16, "low"), (3 / 16, "mid"), (0.45, "high")):
                axes.text(
                    border, 1.01, band, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color="0.35"
                )
            for border in (1 / 8, 1 / 4):
                axes.axvline(border, color="0.35", linewidth=0.8, linestyle=(0, (2, 3)))
        left.set_ylabel(f"Mean power a coefficient, ({unit})²")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
        figure.suptitle(title)


def draw_training(path: Path, curves: dict[str, list[tuple[pd.DataFrame, pd.DataFrame]]], title: str) -> None:
    """Draw prediction losses on train (dashed) and validation (solid): a panel a model, a line a seed."""
    lines = styles(list(curves))
    n_columns = min(4, len(curves))
    n_rows = -(-len(curves) // n_columns)
    with drawing(path, 2.9 * n_columns, 2.7 * n_rows + 0.5) as figure:
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        for axes in panels.flat[len(curves) :]:
            axes.remove()
        for axes, (name, runs) in zip(panels.flat, curves.items(), strict=False):
            for seed, (train, validation) in enumerate(runs):
                labels = ("train", "validation") if seed == 0 else (None, None)
                style: dict[str, Any] = {"color": lines[name]["color"], "linewidth": 1.2}
                axes.plot(train["step"], train["value"], "--", alpha=0.6, label=labels[0], **style)
                axes.plot(validation["step"], validation["value"], "-", label=labels[1], **style)
            _set_scale(axes)
            axes.set_title(name)
            axes.grid(alpha=0.25, which="both")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(frameon=False)
        figure.supxlabel("Epoch", fontsize="medium")
        figure.supylabel("Prediction loss", fontsize="medium")
        figure.suptitle(title)


def _draw_members(
    axes: Axes, tables: dict[str, list[pd.DataFrame]], x: str, y: str, lines: dict[str, dict[str, Any]]
) -> None:
    for name, runs in tables.items():
        values = np.stack([table[y].to_numpy(dtype=float) for table in runs])
        if np.isnan(values).all():
            continue
        known = ~np.isnan(values).any(0)  # an annulus may be empty
        position, values = runs[0][x].to_numpy()[known], values[:, known]
        axes.plot(position, values.mean(0), label=name, **lines[name])
        if len(values) > 1:
            axes.fill_between(
                position, values.min(0), values.max(0), color=lines[name]["color"], alpha=0.2, linewidth=0
            )


def _set_scale(axes: Axes) -> None:
    """Make the y axis logarithmic where the values span more than a factor of four."""
    low, high = axes.dataLim.intervaly
    if 0 < 4 * low < high:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


# --- maps --------------------------------------------------------------------------------------------------------


def draw_forecast(
    path: Path,
    truth: Float[np.ndarray, "time channel height width"],
    forecasts: dict[str, Float[np.ndarray, "time channel height width"]],
    valid_times: pd.DatetimeIndex,
    meta: Meta,
) -> None:
    """Draw channel 0 of one window at three lead times: the truth, then each forecast beside its error.

    What the truth lacks is left white, in it and in the errors.
    """
    steps = sorted({0, len(truth) // 2, len(truth) - 1})
    fields = truth[steps, 0]
    errors = {name: forecast[steps, 0] - fields for name, forecast in forecasts.items()}
    scale = _scale(fields, meta)
    reach = _quantiles(np.abs(np.stack(list(errors.values()))), 0.995)[0] or 1.0
    error_scale = Normalize(-reach, reach)

    extent, aspect = _geometry(meta)
    ratio = abs((extent[3] - extent[2]) / (extent[1] - extent[0])) * aspect
    cell = 1.6  # inches
    rows = 1 + len(forecasts)
    with drawing(path, cell * 2 * len(steps) + 0.6, rows * (cell * ratio + 0.1) + 1.5) as figure:
        panels = figure.subplots(rows, 2 * len(steps), squeeze=False, sharex=True, sharey=True)

        def image(axes: Axes, field: np.ndarray, norm: Normalize, colours: str) -> Any:
            axes.tick_params(labelsize="x-small", length=2)
            levels = matplotlib.colormaps[colours].resampled(N_COLOURS)
            return axes.imshow(field, cmap=levels, norm=norm, extent=extent, aspect=aspect, interpolation="nearest")

        for column, step in enumerate(steps):
            lead = f"+{step + 1}" if meta.nominal_time else f"+{(step + 1) * meta.time_step / 3600:g} h"
            valid = "" if meta.nominal_time else f"\n{valid_times[step]:%Y-%m-%d %H:%M}"
            shown = image(panels[0, column], fields[column], scale, "viridis")
            panels[0, column].set_title(lead + valid, fontsize="small")
            panels[0, len(steps) + column].axis("off")
            panels[1, len(steps) + column].set_title(f"error {lead}", fontsize="small")
            for row, (name, forecast) in enumerate(forecasts.items(), start=1):
                image(panels[row, column], forecast[step, 0], scale, "viridis")
                wrong = image(panels[row, len(steps) + column], errors[name][column], error_scale, "RdBu_r")
        if meta.y_name == "latitude":
            panels[0, 0].set_ylim(*sorted(extent[2:]))  # north is up whichever way the rows run
        for row, name in enumerate(["truth", *forecasts]):
            panels[row, 0].set_ylabel(textwrap.fill(name.replace("_", " "), 14))
        for axes, mapped, label in (
            (panels[:, : len(steps)], shown, f"{meta.channels[0]} ({meta.units[0]})"),
            (panels[:, len(steps) :], wrong, f"forecast − truth ({meta.units[0]})"),
        ):
            low, high = mapped.get_clim()
            ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
            layout: dict[str, Any] = {"location": "bottom", "shrink": 0.7, "aspect": 40, "pad": 0.02}
            figure.colorbar(mapped, ax=axes, label=label, extend="both", ticks=ticks, **layout)
        figure.suptitle(f"{meta.title}: {meta.channels[0]}")


def _scale(fields: np.ndarray, meta: Meta) -> Normalize:
    """Colour scale of the truth, without its last half per cent; the root of counts, most of which are small."""
    low, high = _quantiles(fields, 0.005, 0.995)
    high = high if high > low else low + 1
    return PowerNorm(0.5, 0, max(high, 1), clip=True) if meta.domain == "traffic" else Normalize(low, high)


def _quantiles(values: np.ndarray, *levels: float) -> list[float]:
    """Quantiles of the values that are not missing; 0 where all are."""
    values = values[~np.isnan(values)]
    return np.quantile(values, levels).tolist() if values.size else [0.0] * len(levels)


def _geometry(meta: Meta) -> tuple[tuple[float, float, float, float], float]:
    """Edges left, right, bottom, top of the grid, and the length of a unit of y in units of x."""

    def edges(centres: tuple[float, ...]) -> tuple[float, float]:
        half = (centres[-1] - centres[0]) / (len(centres) - 1) / 2 if len(centres) > 1 else 0.5
        return centres[0] - half, centres[-1] + half

    (left, right), (top, bottom) = edges(meta.x), edges(meta.y)
    aspect = 1 / np.cos(np.radians(np.mean(meta.y))) if meta.y_name == "latitude" else 1.0
    return (left, right, bottom, top), float(min(aspect, 3))
