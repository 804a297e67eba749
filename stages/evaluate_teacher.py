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
    from s2kd.dataset import Meta, load_frames, load_windows
    from s2kd.evaluation import evaluate, write_evaluation
    from s2kd.params import load_params
    from s2kd.teacher import Teacher

    params = load_params("evaluation")
    meta, frames, windows = Meta.load(args.meta), load_frames(args.frames), load_windows(args.windows)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, narrative = load_model(args.model, Teacher)
    teacher = teacher.to(device)
    test = Windows(frames, windows[windows["split"] == "test"], meta, Texts(args.embeddings, len(windows)))

    def inputs_of(batch):
        return [batch[name].to(device) for name in ("inputs", "text", "text_mask")]

    with torch.inference_mode():
        batches = load_batches(test, params.batch_size, shuffle=False)
        evaluation = evaluate((teacher(*inputs_of(batch))[0] for batch in batches), frames, windows, meta)
    inputs = inputs_of(test.__getitems__([0]))
    cost = {"parameters": count_parameters(teacher), "flops": count_flops(teacher, *inputs)}
    write_evaluation(evaluation, args.name, args.metrics_dir, args.examples_dir, **cost, narrative=narrative)
    write_latency(args.latency, params, teacher, *inputs)


if __name__ == "__main__":
    run(main)
