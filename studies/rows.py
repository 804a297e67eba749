"""Rows of studies: one a trained run, read from the workspace that made it, kept in ``studies/<name>.csv``."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from s2kd.report import BASELINES
from s2kd.stage import UserError, atomic
from studies.design import Cell

NO_SCORES = {"example_window", "n_windows_spectral"}
FIRST = [
    "study",
    "cell",
    "key",
    "dataset",
    "variant",
    "seed",
    "device",
    "validation",
    "epoch",
    "train",
]  # columns, in this order
LAST = ["overrides"]


def read_runs(workspace: Path, cell: Cell, params: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Rows of a cell that has run in ``workspace``; ``params`` is the committed content of ``params.yaml``."""
    values = cell.params(params)
    dataset = values["dataset"]
    runs = [(variant, seed, f"{variant}-{seed}", "evaluate" in cell.stages) for variant, seed in cell.models(params)]
    if {"train_teacher", "evaluate_teacher"} & set(cell.stages):
        runs.append(("teacher", values["teacher"]["seed"], "teacher", "evaluate_teacher" in cell.stages))
    if "evaluate_naive" in cell.stages:
        runs += [(name, "", name, True) for name in BASELINES]
    rows = []
    for variant, seed, name, is_evaluated in runs:
        row = {"study": cell.study, "cell": cell.name, "key": cell.key}
        row |= {"dataset": dataset, "variant": variant, "seed": seed, "device": device}
        if name not in BASELINES:
            row |= _training(workspace / "metrics" / dataset / "training" / name / "plots/metrics")
        if is_evaluated:
            row |= _scores(workspace / "metrics" / dataset / "evaluate", name)
        rows.append(row | {"overrides": json.dumps(cell.overrides, sort_keys=True, ensure_ascii=False)})
    return rows


def _training(curves: Path) -> dict[str, Any]:
    """Losses at the epoch of the least prediction loss on validation, which is the epoch that the model is from."""
    validation = pd.read_csv(curves / "validation/prediction.tsv", sep="\t").set_index("step")["prediction"]
    epoch = int(validation.idxmin())
    row: dict[str, Any] = {"validation": _short(validation[epoch]), "epoch": epoch}
    for path in sorted(curves.glob("*/*.tsv")):
        split, term = path.parent.name, path.stem
        curve = pd.read_csv(path, sep="\t").set_index("step")[term]
        column = split if term == "prediction" else f"{split}_{term}"
        if epoch in curve.index:
            row.setdefault(column, _short(curve[epoch]))
    return row


def _scores(folder: Path, name: str) -> dict[str, Any]:
    """Every number of ``<name>.json``, and the MSE by lead time (1 is the first), rolled out where that was done."""
    scores = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    numbers = {key: value for key, value in scores.items() if isinstance(value, int | float) and key not in NO_SCORES}
    for prefix, path in {"mse": folder / f"{name}.csv", "mse_rollout": folder / f"{name}-rollout.csv"}.items():
        if path.exists():
            table = pd.read_csv(path)
            columns = [f"{prefix}@{step}" for step in table["step"]]
            numbers |= dict(zip(columns, map(_short, table["mse"]), strict=True))
    return numbers


def _short(value: float) -> float:
    return float(f"{value:.6g}")


# --- the file ----------------------------------------------------------------------------------------------------


def load_rows(path: Path) -> pd.DataFrame:
    """Read the rows of a study as text, so that what is written back has the same bytes; none without a file."""
    if not path.exists():
        return pd.DataFrame(columns=[*FIRST, *LAST])
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := set(FIRST + LAST) - set(table):
        raise UserError(f"{path} has no column {', '.join(sorted(missing))}; it is not the table of a study")
    return table


def save_rows(path: Path, table: pd.DataFrame, cells: list[Cell]) -> None:
    """Write rows in the order of the design, those of no cell behind; the file is replaced as a whole."""
    order = {cell.key: place for place, cell in enumerate(cells)}
    names = {cell.key: cell.name for cell in cells}
    table = table.assign(cell=[names.get(key, cell) for key, cell in zip(table["key"], table["cell"], strict=True)])
    place = table["key"].map(lambda key: order.get(key, len(order)))
    table = table.loc[place.sort_values(kind="stable").index]
    others = [column for column in table if column not in FIRST + LAST]
    with atomic(path) as temporary:
        table[[*FIRST, *others, *LAST]].to_csv(temporary, index=False, lineterminator="\n")


def add_rows(path: Path, rows: list[dict[str, Any]], cells: list[Cell]) -> None:
    """Put the rows of one cell in the place of its old ones."""
    new = pd.DataFrame([{key: "" if pd.isna(value) else str(value) for key, value in row.items()} for row in rows])
    table = load_rows(path)
    table = table[~table["key"].isin(set(new["key"]))]
    save_rows(path, pd.concat([table, new], ignore_index=True).fillna(""), cells)
