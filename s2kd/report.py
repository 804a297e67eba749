"""Summary of one data set: scores with their spread over seeds, gains over feature distillation, and the table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from s2kd.dataset import Meta
from s2kd.stage import UserError

BASELINES = ("last_frame", "previous_day", "previous_week", "climatology")
REFERENCE = "feature_kd"  # the variant that gains are measured against
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
}
CONFIDENCE = 0.95

Scores = dict[str, Any]  # what `<name>.json` holds


# --- reading -----------------------------------------------------------------------------------------------------


def read_scores(folder: Path, name: str) -> dict[str, Any]:
    """Read ``<name>.json`` of one forecaster: its scores, or its latency."""
    return json.loads(_existing(folder / f"{name}.json", _evaluation_of(name)).read_text(encoding="utf-8"))


def read_table(metrics_dir: Path, name: str, suffix: str) -> pd.DataFrame:
    """Read the scores by lead time (suffix ``""``) or the spectrum (``"-spectrum"``) of one forecaster."""
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
    """Gather all scores; those of a variant, given by seed, become mean, standard deviation and count.

    The gain is that in MSE over the variant ``feature_kd``; without that variant there are none.
    """
    gains = {}
    if REFERENCE in variants:
        reference = [scores["mse"] for scores in variants[REFERENCE]]
        gains = {
            variant: gain_percent(reference, [scores["mse"] for scores in runs])
            for variant, runs in variants.items()
            if variant != REFERENCE
        }
    return {
        "baselines": {name: _metrics(scores) for name, scores in baselines.items()},
        "teacher": _metrics(teacher),
        "variants": {
            variant: {metric: spread([run[metric] for run in runs]) for metric in _metrics(runs[0])}
            for variant, runs in variants.items()
        },
        "gain_over_feature_kd_percent": gains,
    }


def spread(values: list[float | None]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation (n − 1) and number of the values; null if one is, deviation null for one."""
    n = len(values)
    if None in values:
        return {"mean": None, "std": None, "n": n}
    return {"mean": _rounded(np.mean(values)), "std": _rounded(np.std(values, ddof=1)) if n > 1 else None, "n": n}


def gain_percent(reference: list[float], values: list[float]) -> dict[str, float | None]:
    """Mean of the gains 100 (reference − value) / reference paired by seed, and its 95 % Student-t interval.

    The interval speaks of seeds alone: all runs share the test windows. One seed has none.
    """
    gains = [100 * (before - after) / before for before, after in zip(reference, values, strict=True)]
    mean, n = float(np.mean(gains)), len(gains)
    if n == 1:
        return {"mean": _rounded(mean), "low": None, "high": None}
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(gains, ddof=1) / np.sqrt(n)
    return {"mean": _rounded(mean), "low": _rounded(mean - half), "high": _rounded(mean + half)}


def _metrics(scores: Scores) -> Scores:
    return {metric: scores[metric] for metric in METRICS if metric in scores}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


# --- table -------------------------------------------------------------------------------------------------------


def table(
    summary: dict[str, Any], baselines: dict[str, Scores], teacher: Scores, variants: dict[str, list[Scores]]
) -> pd.DataFrame:
    """One row a forecaster, numbers only: each metric, with ``_std`` over ``n`` seeds, gain, cost."""

    def row(name: str, runs: list[Scores], spreads: dict[str, dict]) -> dict[str, Any]:
        numbers = {"forecaster": name, "n": len(runs)}
        for metric, value in spreads.items():
            numbers |= {metric: value["mean"], f"{metric}_std": value["std"]}
        gain = summary["gain_over_feature_kd_percent"].get(name, {})
        return numbers | {
            "gain_percent": gain.get("mean"),
            "gain_percent_low": gain.get("low"),
            "gain_percent_high": gain.get("high"),
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
    metrics = [metric for metric in METRICS if metric in numbers]
    gain = f"MSE gain over {REFERENCE} (%)"
    header = ["Forecaster", *(METRICS[m] for m in metrics), gain, "Parameters", "MFLOPs"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in numbers.assign(mflops=numbers["flops"] / 1e6).to_dict("records"):
        cells = [_plus_minus(row[metric], row[f"{metric}_std"], row["n"]) for metric in metrics]
        cells.append(_interval(row["gain_percent"], row["gain_percent_low"], row["gain_percent_high"]))
        cells.append(_cell(row["parameters"], ","))
        cells.append(_cell(row["mflops"], ".4g"))
        lines.append([row["forecaster"], *cells])
    hours = meta.time_step / 3600
    notes = [
        f"{teacher['n_windows']} test windows; {meta.n_steps_input} frames seen, {meta.n_steps_output} forecast, "
        f"{hours:g} h apart. Errors in {units(meta)}, over all lead times, channels and cells.",
        f"Variants: mean ± sample standard deviation (n) over the seeds {', '.join(map(str, seeds))}. Gain: mean "
        f"[{CONFIDENCE:.0%} Student-t interval] of the relative gains paired by seed.",
        "Band error: power of the error over power of the truth in a band; below 1/8, 1/4 and above cycles a cell.",
        "MFLOPs are those of one window.",
        f"Narratives: {narrative}; they are read by the teacher alone.",
    ]
    if "rmse_active" in numbers:
        notes.append("Active cells: those ever non-zero in training.")
    notes += [f"{name}: {scores['reason']}." for name, scores in baselines.items() if "reason" in scores]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {meta.title}\n\n{rows}\n\n" + "".join(f"- {note}\n" for note in notes)


def units(meta: Meta) -> str:
    """Unit of the errors pooled over channels."""
    return meta.units[0] if len(set(meta.units)) == 1 else "the units of each channel (pooled as they are)"


def _cell(value: Any, form: str) -> str:  # None, NaN and pandas' NA are empty
    return "" if pd.isna(value) else format(value, form)


def _plus_minus(mean: Any, std: Any, n: int) -> str:
    # "#" keeps trailing zeros, and a bare point behind whole numbers
    text = _cell(mean, "#.4g").rstrip(".")
    return text if pd.isna(mean) or pd.isna(std) else f"{text} ± {_cell(std, '#.2g').rstrip('.')} ({n})"


def _interval(mean: Any, low: Any, high: Any) -> str:
    if pd.isna(mean) or pd.isna(low):
        return _cell(mean, "+.2f")
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
