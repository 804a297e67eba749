"""Score the privileged teacher on the test windows: it reads the narratives, which no student may."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the teacher")
    parser.add_argument("--name", required=True, help="what the files are called")
    parser.add_argument("--metrics-dir", type=Path, required=True, help="folder for NAME.json, .csv and -spectrum.csv")
    parser.add_argument("--examples-dir", type=Path, required=True, help="folder for NAME.npy")
    parser.add_argument("--latency", type=Path, required=True, help="JSON file of the latency to write")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Texts, Windows, load_batches
    from s2kd.checkpoint import load_model
    from s2kd.cost import count_flops, count_parameters, write_latency
    from s2kd.dataset import Meta, frame_phases, load_frames, load_times, load_windows
    from s2kd.evaluation import evaluate, hard_windows, write_evaluation
    from s2kd.naive import climatology
    from s2kd.params import load_params
    from s2kd.teacher import Teacher

    params = load_params("evaluation")
    meta, windows = Meta.load(args.meta), load_windows(args.windows)
    frames, times = load_frames(args.frames), load_times(args.frames)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, details = load_model(args.model, Teacher)
    teacher = teacher.to(device)
    phases, _ = frame_phases(times, meta, details["period"])
    texts = Texts(args.embeddings, len(windows))
    test = Windows(frames, phases, windows[windows["split"] == "test"], meta, texts)
    usual = climatology(frames, times, windows, meta)
    hard = hard_windows(frames, windows, meta, usual, params.hard_fraction)

    def inputs_of(batch):
        return [batch[name].to(device) for name in ("inputs", "phase", "text", "text_mask")]

    with torch.inference_mode():
        batches = load_batches(test, params.batch_size, shuffle=False)
        evaluation = evaluate((teacher(*inputs_of(batch))[0] for batch in batches), frames, windows, meta, usual, hard)
    inputs = inputs_of(test.__getitems__([0]))
    cost = {"parameters": count_parameters(teacher), "flops": count_flops(teacher, *inputs)}
    folders = (args.metrics_dir, args.examples_dir)
    write_evaluation(evaluation, args.name, *folders, **cost, narrative=details["narrative"])
    write_latency(args.latency, params, teacher, *inputs)


if __name__ == "__main__":
    run(main)
