"""Figures of a study, by their specifications in its design."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from s2kd.figures import COLOURS, drawing
from s2kd.stage import UserError
from studies.statistics import Interval, interval
from studies.tables import HEADINGS, Spec, Study, listed

MARKERS = "osD^vP"


def points(path: Path, study: Study, spec: Spec) -> None:
    """Means of ``column``, or gains over ``reference``, with intervals: a panel a group of ``by``, a point a row."""
    panels = _panels(study, spec)
    longest = max(len(members) for _, members, _ in panels)
    with drawing(path, 1.6 + 3.2 * len(panels), 1.3 + 0.32 * longest) as figure:
        for axes, (title, members, reference) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
        ):
            for place, (name, rows) in enumerate(members.items()):
                found = _estimate(study, rows, reference, spec["column"], name)
                _draw_interval(axes, found, place)
            axes.set_yticks(range(len(members)), list(members))
            axes.set_ylim(len(members) - 0.5, -0.5)
            axes.set(title=title, xlabel=_axis(spec))
            axes.grid(alpha=0.25, axis="x")
            if reference is not None:
                axes.axvline(0, color="0.35", linewidth=0.8)


def lead_times(path: Path, study: Study, spec: Spec) -> None:
    """Means of ``column``, or gains over ``reference``, by lead time, with intervals: a line a row."""
    panels = _panels(study, spec)
    names = _names(panels)
    with drawing(path, 1.4 + 3.4 * len(panels), 3.4) as figure:
        for axes, (title, members, reference) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
        ):
            for name, rows in members.items():
                of_rows = [what for what in rows if what.startswith(f"{spec['column']}@") and rows[what].notna().all()]
                found = [_estimate(study, rows, reference, what, name) for what in of_rows]
                _draw_line(axes, [int(what.partition("@")[2]) for what in of_rows], found, name, names.index(name))
            axes.set(title=title, xlabel="Lead time (frames)", ylabel=_axis(spec))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _finish(axes, reference)
        _legend(figure)


def dose(path: Path, study: Study, spec: Spec) -> None:
    """Means of ``column``, or gains over ``reference``, by the number ``x``, with intervals: a line a row."""
    panels = _panels(study, spec)
    names = _names(panels)
    with drawing(path, 1.4 + 3.4 * len(panels), 3.4) as figure:
        for axes, (title, members, reference) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
        ):
            for name, rows in members.items():
                doses = {
                    x: chosen for (x,), chosen in sorted(study.groups(rows, [spec["x"]]), key=lambda item: item[0])
                }
                found = [_estimate(study, chosen, reference, spec["column"], name) for chosen in doses.values()]
                _draw_line(axes, list(doses), found, name, names.index(name))
            axes.set_xticks(list(doses))
            axes.set(title=title, xlabel=spec.get("label", spec["x"].rsplit(".", 1)[-1]), ylabel=_axis(spec))
            _finish(axes, reference)
        _legend(figure)


def heat_map(path: Path, study: Study, spec: Spec) -> None:
    """Means of ``column``, or gains over ``reference``, over the numbers ``x`` and ``y``: a panel a group of ``by``."""
    panels = _panels(study, spec)
    with drawing(path, 0.8 + 3.6 * len(panels), 3.4) as figure:
        for axes, (title, members, reference) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
        ):
            rows = pd.concat(members.values())
            found = {
                point: _estimate(study, chosen, reference, spec["column"], str(point)).mean
                for point, chosen in study.groups(rows, [spec["y"], spec["x"]])
            }
            ys, xs = (sorted(set(values)) for values in zip(*found, strict=True))
            field = np.array([[found.get((y, x), np.nan) for x in xs] for y in ys])
            reach = float(np.nanmax(np.abs(field))) or 1.0
            norm = TwoSlopeNorm(0, -reach, reach) if reference is not None else Normalize()
            colours = matplotlib.colormaps["RdBu" if reference is not None else "viridis_r"]
            image = axes.imshow(field, cmap=colours, norm=norm, origin="lower", aspect="auto")
            for (j, i), value in np.ndenumerate(field):
                if not np.isnan(value):
                    dark = np.dot(colours(image.norm(value))[:3], (0.3, 0.6, 0.1)) < 0.5
                    text = f"{value:+.1f}" if reference is not None else f"{value:.3g}"
                    axes.text(i, j, text, ha="center", va="center", color="white" if dark else "black")
            axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
            axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
            labels = spec.get("labels", [spec["x"].rsplit(".", 1)[-1], spec["y"].rsplit(".", 1)[-1]])
            axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
            figure.colorbar(image, ax=axes, label=_axis(spec))


KINDS = {"points": points, "lead_times": lead_times, "dose": dose, "heat_map": heat_map}


def _panels(study: Study, spec: Spec) -> list[tuple[str, dict[str, pd.DataFrame], pd.DataFrame | None]]:
    """Title, rows by name, and rows of the reference, of each group of ``by``; the reference itself is no member."""
    panels = []
    for group, all_rows in study.groups(study.rows, listed(spec.get("by"))):
        selected = study.select(all_rows, spec.get("where"))
        if selected.empty:
            continue
        reference = study.reference(all_rows, selected, spec) if "reference" in spec else None
        members = {
            ", ".join(map(str, values)): rows
            for values, rows in study.groups(selected, listed(spec.get("rows")))
            if reference is None or not rows.index.isin(reference.index).all()
        }
        panels.append((", ".join(map(str, group)), members, reference))
    if not panels:
        raise UserError(f"{study.name}: no rows for the figure {spec}")
    return panels


def _estimate(study: Study, rows: pd.DataFrame, reference: pd.DataFrame | None, metric: str, where: str) -> Interval:
    if reference is not None:
        return study.gain(reference, rows, metric, where)
    return interval(list(study.runs(rows, metric, where).values()))


def _draw_interval(axes: Any, found: Interval, place: int) -> None:
    if not np.isnan(found.low):
        axes.plot([found.low, found.high], [place, place], color=COLOURS[0], linewidth=1.8)
    axes.plot(found.mean, place, "o", color=COLOURS[0])


def _draw_line(axes: Any, x: list[float], found: list[Interval], name: str, place: int) -> None:
    colour = COLOURS[place % len(COLOURS)]
    marker = MARKERS[place % len(MARKERS)]
    axes.plot(x, [one.mean for one in found], color=colour, marker=marker, markersize=4, label=name)
    axes.fill_between(x, [one.low for one in found], [one.high for one in found], color=colour, alpha=0.15, linewidth=0)


def _finish(axes: Any, reference: pd.DataFrame | None) -> None:
    axes.grid(alpha=0.25)
    if reference is not None:
        axes.axhline(0, color="0.35", linewidth=0.8)


def _names(panels: list[tuple[str, dict[str, pd.DataFrame], pd.DataFrame | None]]) -> list[str]:
    """Names of the lines of all panels: one has the same colour in each."""
    return list(dict.fromkeys(name for _, members, _ in panels for name in members))


def _legend(figure: Any) -> None:
    """One legend for all panels, below them, where it hides no line; none for a single line."""
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(handles) > 1:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)


def _axis(spec: Spec) -> str:
    heading = HEADINGS.get(spec["column"], spec["column"])
    if "reference" not in spec:
        return heading
    wanted = spec["reference"]
    if isinstance(wanted, dict):  # patterns only narrow down what is named
        wanted = [value for value in wanted.values() if "*" not in str(value)]
    name = ", ".join(map(str, listed(wanted)))
    return f"{heading}: gain over {name} (%)"
