"""Summary of one data set: scores with their intervals over seeds, gains over reference variants, and the table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from s2kd.dataset import Meta
from s2kd.stage import UserError

BASELINES = ("last_frame", "previous_day", "previous_week", "climatology")
REFERENCES = ("feature_kd", "student_only")  # the variants that gains are measured against
METRICS = {  # key: heading
    "mse": "MSE",
    "mae": "MAE",
    "rmse": "RMSE",
    "mse_active": "MSE, active cells",
    "rmse_active": "RMSE, active cells",
    "ssim": "SSIM",
    "psnr": "PSNR (dB)",
    "band_error_low": "Low-band error",
    "band_error_mid": "Mid-band error",
    "band_error_high": "High-band error",
    "mse_hard": "MSE, hard windows",
    "mse_rollout": "MSE, roll-out",
    "acc": "ACC",
    "rmse_latitude": "RMSE, latitude-weighted",
    "acc_latitude": "ACC, latitude-weighted",
}
CONFIDENCE = 0.95

Scores = dict[str, Any]  # what `<name>.json` holds


# --- reading -----------------------------------------------------------------------------------------------------


def read_scores(folder: Path, name: str) -> dict[str, Any]:
    """Read ``<name>.json`` of one forecaster: its scores, or its latency."""
    return json.loads(_existing(folder / f"{name}.json", _evaluation_of(name)).read_text(encoding="utf-8"))


def read_table(metrics_dir: Path, name: str, suffix: str) -> pd.DataFrame:
    """Read the scores by lead time (suffix ``""``), the spectrum (``"-spectrum"``) or the ``"-rollout"`` of one."""
    return pd.read_csv(_existing(metrics_dir / f"{name}{suffix}.csv", _evaluation_of(name)))


def read_example(examples_dir: Path, name: str) -> np.ndarray:
    """Read one forecaster's example forecast: (time, channel, y, x), physical units."""
    return np.load(_existing(examples_dir / f"{name}.npy", _evaluation_of(name)))


def read_curve(training_dir: Path, name: str, split: str) -> pd.DataFrame:
    """Read the prediction loss by epoch on a split that DVCLive wrote: columns ``step`` and ``value``."""
    stage = "train_teacher" if name == "teacher" else "distill"
    path = training_dir / name / "plots" / "metrics" / split / "prediction.tsv"
    return pd.read_csv(_existing(path, stage), sep="\t").rename(columns={"prediction": "value"})[["step", "value"]]


def _evaluation_of(name: str) -> str:
    return "evaluate_naive" if name in BASELINES else "evaluate_teacher" if name == "teacher" else "evaluate"


def _existing(path: Path, stage: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing; run `dvc repro {stage}` to make it")
    return path


# --- summary -----------------------------------------------------------------------------------------------------


def summarise(baselines: dict[str, Scores], teacher: Scores, variants: dict[str, list[Scores]]) -> dict[str, Any]:
    """Gather all scores; those of a variant, given by seed, become mean, interval, standard deviation and count.

    Gains are those in MSE over each of ``REFERENCES``; without that variant there are none.
    """

    def gains(reference: str) -> dict[str, Any]:
        if reference not in variants:
            return {}
        before = [scores["mse"] for scores in variants[reference]]
        others = {variant: runs for variant, runs in variants.items() if variant != reference}
        return {variant: gain_percent(before, [scores["mse"] for scores in runs]) for variant, runs in others.items()}

    return {
        "baselines": {name: _metrics(scores) for name, scores in baselines.items()},
        "teacher": _metrics(teacher),
        "variants": {
            variant: {metric: spread([run[metric] for run in runs]) for metric in _metrics(runs[0])}
            for variant, runs in variants.items()
        },
    } | {f"gain_over_{reference}_percent": gains(reference) for reference in REFERENCES}


def spread(values: list[float | None]) -> dict[str, float | int | None]:
    """Mean, ends of its 95 % Student-t interval, sample standard deviation (n − 1) and number of the values.

    Null if a value is; one value has neither interval nor deviation.
    """
    n = len(values)
    if None in values:
        return {"mean": None, "low": None, "high": None, "std": None, "n": n}
    mean = float(np.mean(values))
    if n == 1:
        return {"mean": _rounded(mean), "low": None, "high": None, "std": None, "n": n}
    std = float(np.std(values, ddof=1))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * std / np.sqrt(n)
    low, high = _rounded(mean - half), _rounded(mean + half)
    return {"mean": _rounded(mean), "low": low, "high": high, "std": _rounded(std), "n": n}


def gain_percent(reference: list[float], values: list[float]) -> dict[str, float | None]:
    """Mean of the gains 100 (reference − value) / reference paired by seed, and its 95 % Student-t interval.

    The interval speaks of seeds alone: all runs share the test windows. One seed has none.
    """
    gains = [100 * (before - after) / before for before, after in zip(reference, values, strict=True)]
    return {key: value for key, value in spread(gains).items() if key in ("mean", "low", "high")}


def _metrics(scores: Scores) -> Scores:
    return {metric: scores[metric] for metric in METRICS if metric in scores}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


# --- table -------------------------------------------------------------------------------------------------------


def table(
    summary: dict[str, Any], baselines: dict[str, Scores], teacher: Scores, variants: dict[str, list[Scores]]
) -> pd.DataFrame:
    """One row a forecaster, numbers only: each metric, with its interval and ``_std`` over ``n`` seeds, gains, cost."""

    def row(name: str, runs: list[Scores], spreads: dict[str, dict]) -> dict[str, Any]:
        numbers = {"forecaster": name, "n": len(runs)}
        for metric, value in spreads.items():
            numbers |= {metric: value["mean"]} | {f"{metric}_{key}": value[key] for key in ("low", "high", "std")}
        for reference in REFERENCES:
            gain = summary[f"gain_over_{reference}_percent"].get(name, {})
            numbers |= {f"gain_over_{reference}_{key}": gain.get(key) for key in ("mean", "low", "high")}
        return numbers | {
            "parameters": runs[0]["parameters"],
            "flops": runs[0]["flops"],
        }

    def single(name: str, scores: Scores) -> dict[str, Any]:
        return row(name, [scores], {metric: spread([value]) for metric, value in _metrics(scores).items()})

    rows = [single(name, scores) for name, scores in baselines.items()] + [single("teacher", teacher)]
    rows += [row(variant, runs, summary["variants"][variant]) for variant, runs in variants.items()]
    return pd.DataFrame(rows).astype({"parameters": "Int64", "flops": "Int64"})


def markdown(
    numbers: pd.DataFrame, meta: Meta, narrative: str, baselines: dict[str, Scores], teacher: Scores, seeds: list[int]
) -> str:
    """Write the table for people, with what they must know to read it."""
    # The table is wide enough: weather alone is scored by latitude by those who compare, the rest is for machines.
    left_out = ("acc",) if meta.domain == "weather" else ("acc", "rmse_latitude", "acc_latitude")
    metrics = [metric for metric in METRICS if metric in numbers and metric not in left_out]
    references = [name for name in REFERENCES if numbers[f"gain_over_{name}_mean"].notna().any()]
    gains = [f"MSE gain over {reference} (%)" for reference in references]
    header = ["Forecaster", *(METRICS[m] for m in metrics), *gains, "Parameters", "MFLOPs"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in numbers.assign(mflops=numbers["flops"] / 1e6).to_dict("records"):
        cells = [_cell(row, metric, metric, "#.4g", row["n"]) for metric in metrics]
        cells += [_cell(row, f"gain_over_{name}_mean", f"gain_over_{name}", "+.2f") for name in references]
        cells += [_cell(row, "parameters", "", ","), _cell(row, "mflops", "", ".4g")]
        lines.append([row["forecaster"], *cells])
    apart = "one step apart" if meta.nominal_time else f"{meta.time_step / 3600:g} h apart"
    interval = f"[{CONFIDENCE:.0%} Student-t interval]"
    notes = [
        f"{teacher['n_windows']} test windows; {meta.n_steps_input} frames seen, {meta.n_steps_output} forecast, "
        f"{apart}. Errors in {units(meta)}, over all lead times, channels and cells.",
        f"Variants: mean {interval} (n) over the seeds {', '.join(map(str, seeds))}. Gain: mean {interval} of the "
        "relative gains paired by seed. The intervals speak of seeds alone: all runs share the test windows.",
        "Band error: power of the error over power of the truth in a band; below 1/8, 1/4 and above cycles a cell.",
        f"Hard windows: the {teacher['n_windows_hard']} in which the targets differ most from the last input frame, "
        "both less the training climatology.",
        _about_rollout(baselines["climatology"]),
        "MFLOPs are those of one window.",
        f"Narratives: {narrative}; they are read by the teacher alone.",
    ]
    if "rmse_active" in numbers:
        notes.append("Active cells: those ever non-zero in training.")
    if "acc_latitude" in metrics:
        notes.append(
            "ACC: correlation of forecast and truth, both less the training climatology. Latitude-weighted: a cell "
            "counts by the cosine of its latitude, as in WeatherBench."
        )
    if meta.n_missing:
        notes.append("Missing values of the truth are not scored.")
    notes += [f"{name}: {scores['reason']}." for name, scores in baselines.items() if "reason" in scores]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {meta.title}\n\n{rows}\n\n" + "".join(f"- {note}\n" for note in notes)


def units(meta: Meta) -> str:
    """Unit of the errors pooled over channels."""
    return meta.units[0] if len(set(meta.units)) == 1 else "the units of each channel (pooled as they are)"


def _about_rollout(scores: Scores) -> str:
    if "reason_rollout" in scores:
        return f"Roll-out: none; {scores['reason_rollout']}."
    return (
        f"Roll-out: {scores['n_windows_rollout']} windows, forecast to several times the horizon from the forecaster's "
        "own forecasts; the mean over all lead times."
    )


def _cell(row: dict[str, Any], key: str, prefix: str, form: str, n: int | None = None) -> str:
    """A number with its interval where it has one; None, NaN and pandas' NA are empty."""
    if pd.isna(row[key]):
        return ""
    # "#" keeps trailing zeros, and a bare point behind whole numbers
    ends = [
        format(row[name], form).rstrip(".") for name in (f"{prefix}_low", f"{prefix}_high") if pd.notna(row.get(name))
    ]
    number = format(row[key], form).rstrip(".")
    return number + (f" [{', '.join(ends)}]" if ends else "") + (f" ({n})" if ends and n else "")
