"""Score the naive forecasts (last frame, previous day and week, climatology) on the test windows."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True, help="frames.zarr")
    parser.add_argument("--windows", type=Path, required=True, help="windows.csv")
    parser.add_argument("--meta", type=Path, required=True, help="meta.json")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="folder for NAME.json, .csv and -spectrum.csv")
    parser.add_argument("--examples-dir", type=Path, required=True, help="folder for NAME.npy")
    arguments = parser.parse_args()

    import numpy as np
    import torch

    from s2kd import naive
    from s2kd.dataset import Meta, load_frames, load_times, load_windows
    from s2kd.evaluation import evaluate, evaluated_windows, write_evaluation
    from s2kd.params import load_params
    from s2kd.windows import train_mask

    batch_size = load_params("evaluation.batch_size")
    meta = Meta.load(arguments.meta)
    frames, times = load_frames(arguments.frames), load_times(arguments.frames)
    windows = load_windows(arguments.windows)
    test = evaluated_windows(windows)
    starts = windows["start"].to_numpy()[test]

    for name, seconds in naive.PERIODS.items():
        period = naive.period_in_steps(name, meta)
        reason = None
        if period is None:
            source, usable = np.empty((0, meta.n_steps_output), dtype=int), np.zeros(len(test), dtype=bool)
            reason = f"a time step of {meta.time_step:g} s does not divide {seconds:g} s"
        else:
            source, usable = naive.sources(starts, period, times, meta)
            source = source[usable]
            if n_missing := int((~usable).sum()):
                reason = f"{n_missing} of {len(test)} test windows lack frames far enough back without a gap"
        print(f"{name}: {int(usable.sum())} of {len(test)} test windows" + (f"; {reason}" if reason else ""))
        batches = (
            torch.from_numpy(frames[source[first : first + batch_size]]) for first in range(0, len(source), batch_size)
        )
        evaluation = evaluate(batches, frames, windows, meta, ids=test[usable])
        write_evaluation(evaluation, name, arguments.metrics_dir, arguments.examples_dir, reason=reason)

    is_train = train_mask(len(frames), windows, meta.n_steps_input + meta.n_steps_output)
    means, phase = naive.climatology(frames, times, is_train, meta)
    phases = phase[starts[:, None] + meta.n_steps_input + np.arange(meta.n_steps_output)]
    batches = (torch.from_numpy(means[phases[i : i + batch_size]]) for i in range(0, len(phases), batch_size))
    evaluation = evaluate(batches, frames, windows, meta)
    write_evaluation(evaluation, "climatology", arguments.metrics_dir, arguments.examples_dir)
    print(f"climatology: mean of {is_train.sum()} training frames in {len(means)} phases")


if __name__ == "__main__":
    run(main)
