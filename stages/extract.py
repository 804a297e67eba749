"""Run the frozen teacher over all windows once and keep what students learn from: its latents and its forecasts."""

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
    parser.add_argument("--features", type=Path, required=True, help="npy file to write the tapped latents to")
    parser.add_argument("--forecasts", type=Path, required=True, help="npy file to write the forecasts to")
    args = parser.parse_args()

    from accelerate import Accelerator

    from s2kd.batches import Texts, Windows
    from s2kd.checkpoint import load_model
    from s2kd.dataset import Meta, frame_phases, load_frames, load_times, load_windows
    from s2kd.features import write_features
    from s2kd.params import load_params
    from s2kd.teacher import Teacher

    tap, batch_size = load_params("teacher.tap"), load_params("evaluation.batch_size")
    accelerator = Accelerator()
    teacher, details = load_model(args.model, Teacher)
    meta, frames, windows = Meta.load(args.meta), load_frames(args.frames), load_windows(args.windows)
    phases, _ = frame_phases(load_times(args.frames), meta, details["period"])
    write_features(
        accelerator,
        teacher.to(accelerator.device),
        tap,
        Windows(frames, phases, windows, meta, Texts(args.embeddings, len(windows))),
        (windows["split"] == "train").to_numpy(),
        batch_size,
        args.features,
        args.forecasts,
    )
    accelerator.end_training()


if __name__ == "__main__":
    run(main)
