"""Score the naive forecasts (last frame, previous day and week, climatology) on the test windows."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True, help="frames.zarr")
    parser.add_argument("--windows", type=Path, required=True, help="windows.csv")
    parser.add_argument("--meta", type=Path, required=True, help="meta.json")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="folder for NAME.json and its tables")
    parser.add_argument("--examples-dir", type=Path, required=True, help="folder for NAME.npy")
    arguments = parser.parse_args()

    import numpy as np
    import torch

    from s2kd import naive
    from s2kd.dataset import Meta, load_frames, load_segments, load_times, load_windows
    from s2kd.evaluation import evaluate, evaluated_windows, hard_windows, write_evaluation
    from s2kd.params import load_params
    from s2kd.rollout import evaluate_rollout, rollout_windows

    params = load_params("evaluation")
    meta = Meta.load(arguments.meta)
    frames, times = load_frames(arguments.frames), load_times(arguments.frames)
    segment, windows = load_segments(arguments.frames), load_windows(arguments.windows)
    starts = windows["start"].to_numpy()
    test, extended = evaluated_windows(windows), rollout_windows(windows, segment, meta, params.rollout)
    usual = naive.climatology(frames, times, windows, meta)
    hard = hard_windows(frames, windows, meta, usual, params.hard_fraction)
    folders = (arguments.metrics_dir, arguments.examples_dir)
    # Indices of the frames to forecast, a row a window.
    targets = starts[test, None] + meta.n_steps_input + np.arange(meta.n_steps_output)
    far_targets = starts[extended, None] + meta.n_steps_input + np.arange(params.rollout * meta.n_steps_output)

    def batches(forecast, *indices):
        for first in range(0, len(indices[0]), params.batch_size):
            yield torch.from_numpy(forecast(*(index[first : first + params.batch_size] for index in indices)))

    def repeat(source, targets):
        return naive.repeat(frames, source, targets, usual)

    def roll_out(forecasts):
        return evaluate_rollout(forecasts, frames, windows, meta, extended, params.rollout)

    for name, seconds in naive.PERIODS.items():
        period = naive.period_in_steps(name, meta)
        reason = None
        if period is None:
            source, usable = np.empty((0, meta.n_steps_output), dtype=int), np.zeros(len(test), dtype=bool)
            reason = f"a time step of {meta.time_step:g} s does not divide {seconds:g} s"
            if meta.nominal_time:
                reason = "the time stamps only count steps and tell no time of day"
        else:
            source, usable = naive.sources(starts[test], period, segment, meta)
            source = source[usable]
            if n_missing := int((~usable).sum()):
                reason = f"{n_missing} of {len(test)} test windows lack frames far enough back without a gap"
        print(f"{name}: {int(usable.sum())} of {len(test)} test windows" + (f"; {reason}" if reason else ""))
        forecasts = batches(repeat, source, targets[usable])
        evaluation = evaluate(forecasts, frames, windows, meta, usual, hard, ids=test[usable])
        last = np.broadcast_to(far_targets[:, :1] - 1, far_targets.shape)
        rollout = roll_out(batches(repeat, last, far_targets)) if name == "last_frame" else None
        write_evaluation(evaluation, name, *folders, reason=reason, rollout=rollout)

    evaluation = evaluate(batches(usual.at, targets), frames, windows, meta, usual, hard)
    write_evaluation(evaluation, "climatology", *folders, rollout=roll_out(batches(usual.at, far_targets)))
    print(f"climatology: mean of the training frames in {len(usual.means)} phases")


if __name__ == "__main__":
    run(main)
