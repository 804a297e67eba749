"""Tables of a study, by their specifications in its design."""

import fnmatch
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from s2kd.report import BASELINES, METRICS
from s2kd.stage import UserError
from studies.design import Cell, cells_of, literal, load_design, override
from studies.rows import load_rows
from studies.statistics import CONFIDENCE, Interval, Runs, choose, gain, holm, interval

HEADINGS = METRICS | {
    "validation": "Validation loss",
    "train": "Training loss",
    "validation_reconstruction": "Latent not recovered",
    "parameters": "Parameters",
    "flops": "FLOPs",
    "mse_hard": "MSE, hard windows",
    "mse_rollout": "MSE, roll-out",
}
TEXT = ("study", "cell", "key", "dataset", "variant", "device", "overrides")
Spec = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A design with the rows of its cells."""

    name: str
    design: dict[str, Any]
    cells: list[Cell]
    rows: pd.DataFrame
    params: dict[str, dict[str, Any]]  # by key of a cell: params.yaml under its overrides

    def column(self, rows: pd.DataFrame, what: str) -> pd.Series:
        """A column of the CSV, a part of the cell's name (``cell.0``), or a dotted key of ``params.yaml``.

        In a key, ``{variant}`` and other columns in braces stand for their value in the row.
        """
        if what in rows:
            return rows[what]
        return pd.Series([self._value(row, what) for row in rows.to_dict("records")], rows.index, dtype=object)

    def _value(self, row: dict[str, Any], what: str) -> Any:
        head, *path = what.format(**row).split(".")
        try:
            if head == "cell":
                return row["cell"].split("/")[int(path[0])]
            value = self.params[row["key"]][head]
            for part in path:
                value = value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"{self.name}: cell {row['cell']} has no {what}") from None
        return value

    def select(self, rows: pd.DataFrame, where: Spec | None) -> pd.DataFrame:
        """Rows whose columns have the given value, one of a list of values, or match a pattern with ``*``."""
        for what, wanted in (where or {}).items():
            globs = [str(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
            values = self.column(rows, what).map(str)
            rows = rows[[any(fnmatch.fnmatchcase(value, glob) for glob in globs) for value in values]]
        return rows

    def groups(self, rows: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
        """Rows by their values in some columns, in the order of the rows."""
        places: dict[tuple, list[int]] = {}
        columns = [self.column(rows, what).tolist() for what in by]
        for place, values in enumerate(zip(*columns, strict=True) if by else [()] * len(rows)):
            places.setdefault(tuple(map(_label, values)), []).append(place)
        for values, chosen in places.items():
            yield values, rows.iloc[chosen]

    def runs(self, rows: pd.DataFrame, metric: str, where: str) -> Runs:
        """Values of a metric by seed; the runs must differ in nothing but the seed."""
        if metric not in rows:
            raise UserError(f"{self.name}, {where}: there is no column {metric}")
        rows = rows[rows[metric].notna()]
        if rows["seed"].duplicated().any():
            cells = ", ".join(rows.loc[rows["seed"].duplicated(keep=False), "cell"].unique()[:4])
            raise UserError(
                f"{self.name}, {where}: several runs of one seed (cells {cells}); restrict `where` or `rows`"
            )
        return dict(zip(rows["seed"], rows[metric], strict=True))

    def reference(self, rows: pd.DataFrame, selected: pd.DataFrame, spec: Spec) -> pd.DataFrame:
        """Rows of the reference: its values in ``rows`` of the specification, or those that a mapping selects.

        The mapping selects among ``rows``, the values among ``selected``, those of them that passed ``where``.
        """
        wanted = spec["reference"]
        if isinstance(wanted, dict):
            found = self.select(rows, wanted)
        else:
            wanted = tuple(map(_label, wanted if isinstance(wanted, list) else [wanted]))
            found = dict(self.groups(selected, listed(spec.get("rows")))).get(wanted, rows.iloc[:0])
        if found.empty:
            raise UserError(f"{self.name}: no row is the reference {wanted}")
        return found

    def gain(self, reference: pd.DataFrame, rows: pd.DataFrame, metric: str, where: str) -> Interval:
        """Gain of runs over the reference, paired by seed; a single teacher or naive forecast is held against all."""
        pair = [self.runs(reference, metric, "reference"), self.runs(rows, metric, where)]
        for this, other, source in ((0, 1, reference), (1, 0, rows)):
            if len(pair[this]) == 1 and set(source["variant"]) <= {"teacher", *BASELINES}:
                pair[this] = dict.fromkeys(pair[other], next(iter(pair[this].values())))
        return gain(*pair, metric)


def load_study(root: Path, name: str) -> Study:
    """Read design and rows of a study, without the rows of cells that are no longer in the design."""
    design = load_design(root / f"studies/{name}.yaml")
    params = YAML(typ="safe").load(root / "params.yaml")
    cells = cells_of(name, design, params)
    rows = load_rows(root / f"studies/{name}.csv")
    rows = rows[rows["key"].isin({cell.key for cell in cells})]
    for column in rows.columns.difference(TEXT):
        numbers = pd.to_numeric(rows[column].replace("", np.nan), errors="coerce")
        if column == "seed" or (numbers.isna() == (rows[column] == "")).all():
            rows = rows.assign(**{column: numbers})
    # rows in which a naive forecast has no seed
    rows = rows.assign(seed=rows["seed"].fillna(-1).astype(int)).reset_index(drop=True)
    return Study(name, design, cells, rows, {cell.key: override(params, cell.overrides, cell.name) for cell in cells})


def listed(value: Any) -> list:
    """None, one value or several as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _label(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else literal(value)


# --- kinds of tables ---------------------------------------------------------------------------------------------


def scores(study: Study, spec: Spec) -> str:
    """A row for each value of ``rows`` (in each group of ``by``), means of ``columns``, gains over ``reference``.

    ``gains`` names the columns that have gains (all); ``correct: holm`` adds p-values corrected for all comparisons of
    the table in one metric.
    """
    by, rows, columns = (listed(spec.get(key)) for key in ("by", "rows", "columns"))
    gains = listed(spec.get("gains", columns if "reference" in spec else None))
    headings = HEADINGS | spec.get("headings", {})
    header = [headings.get(what, what.rsplit(".", 1)[-1]) for what in by + rows] + ["n"]
    for metric in columns:
        header.append(headings.get(metric, metric))
        if metric in gains:
            header.append("Gain (%)")
            header += ["p (Holm)"] if spec.get("correct") == "holm" else []
    lines, tests = [], {metric: [] for metric in gains}
    for group, all_rows in study.groups(study.rows, by):
        selected = study.select(all_rows, spec.get("where"))
        reference = study.reference(all_rows, selected, spec) if len(selected) and gains else None
        for values, members in study.groups(selected, rows):
            where = "/".join(map(str, group + values))
            line: list[Any] = [*map(str, group + values), ""]
            for metric in columns:
                runs = study.runs(members, metric, where)
                line[len(by + rows)] = max(line[len(by + rows)] or 0, len(runs))
                line.append(plus_minus(list(runs.values())))
                if metric in gains:
                    is_reference = members.index.isin(reference.index).all()
                    found = None if is_reference or not runs else study.gain(reference, members, metric, where)
                    line.append("reference" if is_reference else between(found))
                    if spec.get("correct") == "holm":
                        tests[metric].append((line, len(line), np.nan if found is None else found.p))
                        line.append("")
            lines.append(line)
    for comparisons in tests.values():
        for (line, place, _), p in zip(comparisons, holm([p for *_, p in comparisons]), strict=True):
            line[place] = "" if np.isnan(p) else f"{p:.2g}" if p >= 0.001 else "< 0.001"
    notes = f"Mean ± half-width of its {CONFIDENCE:.0%} Student-t interval over n seeds."
    if gains:
        notes += " Gain: of each seed over the reference of the same seed, mean [interval]; positive is better."
    return markdown(header, lines, len(by + rows)) + f"\n\n{notes}"


def choice(study: Study, spec: Spec) -> str:
    """The cell of the least mean validation loss in each group of ``by`` (data set and variant), and what it sets."""
    by, metric = listed(spec.get("by", ["dataset", "variant"])), spec.get("metric", "validation")
    members = dict(study.groups(study.select(study.rows, spec.get("where")), by))
    trials = {
        group: {key: study.runs(runs, metric, str(key)) for (key,), runs in study.groups(rows, ["key"])}
        for group, rows in members.items()
    }
    lines = []
    for group, key in choose(trials).items():
        overrides = {cell: json.loads(text) for cell, text in members[group][["key", "overrides"]].to_numpy()}
        varied = [
            what
            for what in dict.fromkeys(name for found in overrides.values() for name in found)
            if len({json.dumps(found.get(what), sort_keys=True) for found in overrides.values()}) > 1
        ]
        chosen = ", ".join(f"`{what}={literal(overrides[key][what])}`" for what in varied if what in overrides[key])
        losses = [np.mean(list(runs.values())) for runs in trials[group].values()]
        values = list(trials[group][key].values())
        lines.append([*group, len(losses), len(values), chosen, plus_minus(values), f"{max(losses):.4g}"])
    headings = spec.get("headings", {})
    header = [
        *(headings.get(what, what.rsplit(".", 1)[-1]) for what in by),
        "Trials",
        "n",
        "Chosen",
        f"{HEADINGS.get(metric, metric)}",
    ]
    return markdown([*header, "Worst trial"], lines, len(by))


def commands(study: Study, spec: Spec) -> str:
    """The ``dvc exp run`` of every cell whose name matches ``cells``."""
    chosen = [cell for cell in study.cells if fnmatch.fnmatchcase(cell.name, spec.get("cells", "*"))]
    return "```bash\n" + "\n".join(shlex.join(cell.command()) for cell in chosen) + "\n```"


KINDS = {"scores": scores, "choice": choice, "commands": commands}


# --- text --------------------------------------------------------------------------------------------------------


def markdown(header: list[str], lines: list[list[Any]], n_left: int) -> str:
    """A Markdown table whose first ``n_left`` columns are text."""
    rule = ["---"] * n_left + ["---:"] * (len(header) - n_left)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, rule, *lines])


def plus_minus(values: list[float]) -> str:
    """Mean ± half-width; a plain number where all values are equal, empty where there are none."""
    if not values:
        return ""
    if len(set(values)) == 1:
        return f"{values[0]:,.0f}" if float(values[0]).is_integer() else f"{values[0]:.4g}"
    found = interval(values)
    return f"{found.mean:#.4g}".rstrip(".") + " ± " + f"{found.high - found.mean:#.2g}".rstrip(".")


def between(found: Interval | None) -> str:
    """Mean [low, high] with signs."""
    if found is None:
        return ""
    text = f"{found.mean:+.2f}"
    return text if np.isnan(found.low) else f"{text} [{found.low:+.2f}, {found.high:+.2f}]"
