"""Gather the evaluations of all runs into the summary, the table and the figures."""

import argparse
from pathlib import Path

from s2kd.stage import run, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True, help="frames.zarr, for the truth of the example")
    parser.add_argument("--windows", type=Path, required=True, help="windows.csv")
    parser.add_argument("--meta", type=Path, required=True, help="meta.json")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="folder of NAME.json and its tables")
    parser.add_argument("--examples-dir", type=Path, required=True, help="folder of NAME.npy")
    parser.add_argument(
        "--latency-dir", type=Path, required=True, help="folder of NAME.json with the latency of each model"
    )
    parser.add_argument("--training-dir", type=Path, required=True, help="folder of one DVCLive folder a training")
    parser.add_argument("--summary", type=Path, required=True, help="summary.json to write")
    parser.add_argument("--table", type=Path, required=True, help="results.md to write")
    parser.add_argument("--csv", type=Path, required=True, help="results.csv to write")
    parser.add_argument("--latency", type=Path, required=True, help="latency.csv to write")
    parser.add_argument("--figures", type=Path, required=True, help="folder to write four PNG files into")
    arguments = parser.parse_args()

    import json

    import numpy as np
    import pandas as pd

    from s2kd import figures, report
    from s2kd.dataset import Meta, load_frames, load_times, load_windows
    from s2kd.params import load_params

    runs, narrative = load_params("runs"), load_params("narrative")
    meta = Meta.load(arguments.meta)
    names = {"teacher": ["teacher"]} | {v: [f"{v}-{seed}" for seed in runs.seeds] for v in runs.variants}
    # A teacher whose text tells the targets is no forecaster.
    tells_targets = narrative.view != "history" and narrative.text in ("real", "shuffled")
    forecasters = [label for label in names if label != "teacher" or not tells_targets]
    members = {name: [name] for name in report.BASELINES} | {label: names[label] for label in forecasters}

    # Read everything before anything is written: a missing file shall cost no time and leave no half report.
    def scores(name: str) -> report.Scores:
        return report.read_scores(arguments.metrics_dir, name)

    def tables(suffix: str, labels=tuple(members)) -> dict[str, list]:
        return {k: [report.read_table(arguments.metrics_dir, name, suffix) for name in members[k]] for k in labels}

    def curve(name: str, split: str):
        return report.read_curve(arguments.training_dir, name, split)

    baselines, teacher = {name: scores(name) for name in report.BASELINES}, scores("teacher")
    variants = {variant: [scores(name) for name in names[variant]] for variant in runs.variants}
    lead_times, spectra = tables(""), tables("-spectrum")
    rollouts = tables("-rollout", ("climatology", *runs.variants))
    curves = {k: [(curve(name, "train"), curve(name, "validation")) for name in v] for k, v in names.items()}
    latencies = {name: report.read_scores(arguments.latency_dir, name) for v in names.values() for name in v}
    examples = {label: report.read_example(arguments.examples_dir, names[label][0]) for label in forecasters}
    start = load_windows(arguments.windows)["start"].iloc[teacher["example_window"]]
    targets = start + meta.n_steps_input + np.arange(meta.n_steps_output)
    truth, times = load_frames(arguments.frames)[targets], load_times(arguments.frames)[targets]

    summary = report.summarise(baselines, teacher, variants)
    numbers = report.table(summary, baselines, teacher, variants)
    numbers = numbers[numbers["forecaster"].isin(list(members))]
    text = f"{narrative.backend} backend, {narrative.view} view, {narrative.text} text"
    if narrative.corruption:
        text += f", {narrative.corruption:.0%} of the facts swapped"
    write_text(arguments.summary, json.dumps({meta.dataset: summary}, indent=2) + "\n")
    write_text(arguments.table, report.markdown(numbers, meta, text, baselines, teacher, list(runs.seeds)))
    write_text(arguments.csv, numbers.to_csv(index=False, lineterminator="\n"))
    # Times differ from run to run: apart from the table, so that a diff of the table means something.
    latency = pd.DataFrame.from_dict(latencies, orient="index")
    write_text(arguments.latency, latency.to_csv(index_label="model", lineterminator="\n"))

    figures.draw_lead_time(arguments.figures / "lead_time.png", lead_times, rollouts, meta, report.units(meta))
    figures.draw_spectra(arguments.figures / "spectra.png", spectra, meta.title, report.units(meta))
    figures.draw_training(arguments.figures / "training.png", curves, meta.title)
    figures.draw_forecast(arguments.figures / "forecast.png", truth, examples, times, meta)


if __name__ == "__main__":
    run(main)
