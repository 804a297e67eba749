"""Score one student on the test windows and beyond its horizon. It reads no text and knows no teacher."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the student")
    parser.add_argument("--name", required=True, help="what the files are called")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="folder for NAME.json and its three tables")
    parser.add_argument("--examples-dir", type=Path, required=True, help="folder for NAME.npy")
    parser.add_argument("--latency", type=Path, required=True, help="JSON file of the latency to write")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Windows, load_batches
    from s2kd.checkpoint import load_model
    from s2kd.cost import count_flops, count_parameters, write_latency
    from s2kd.dataset import Meta, frame_phases, load_frames, load_segments, load_times, load_windows
    from s2kd.evaluation import evaluate, evaluated_windows, hard_windows, write_evaluation
    from s2kd.naive import climatology
    from s2kd.params import load_params
    from s2kd.rollout import evaluate_rollout, roll_out, rollout_windows
    from s2kd.students.student import Student

    params = load_params("evaluation")
    meta, windows = Meta.load(args.meta), load_windows(args.windows)
    frames, times = load_frames(args.frames), load_times(args.frames)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student, details = load_model(args.model, Student)
    student = student.to(device)
    phases, _ = frame_phases(times, meta, details["period"])
    test = evaluated_windows(windows)
    extended = rollout_windows(windows, load_segments(args.frames), meta, params.rollout)
    usual = climatology(frames, times, windows, meta)
    hard = hard_windows(frames, windows, meta, usual, params.hard_fraction)

    def inputs_of(batch):
        return batch["inputs"].to(device), batch["phase"].to(device)

    def forecasts(ids, n_horizons):
        served = Windows(frames, phases, windows.iloc[ids], meta)
        for batch in load_batches(served, params.batch_size, shuffle=False) if len(ids) else ():
            yield roll_out(student, *inputs_of(batch), n_horizons)

    with torch.inference_mode():
        evaluation = evaluate(forecasts(test, 1), frames, windows, meta, usual, hard)
        rollout = evaluate_rollout(forecasts(extended, params.rollout), frames, windows, meta, extended, params.rollout)
    inputs = inputs_of(Windows(frames, phases, windows.iloc[test], meta).__getitems__([0]))
    cost = {"parameters": count_parameters(student), "flops": count_flops(student, *inputs)}
    folders = (args.metrics_dir, args.examples_dir)
    write_evaluation(evaluation, args.name, *folders, **cost, narrative=details["narrative"], rollout=rollout)
    write_latency(args.latency, params, student, *inputs)


if __name__ == "__main__":
    run(main)
