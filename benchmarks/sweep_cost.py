"""What distillation adds to a training epoch: ``s2kd`` from stored features against the student alone, side by side.

The naive loop, which calls the frozen teacher at every step, is timed as well. Needs the outputs of ``dvc repro``:

    python -m benchmarks.sweep_cost [--variant s2kd] [--student unet_tiny] [--rounds 5]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from s2kd.batches import Texts, Windows, load_batches
from s2kd.checkpoint import load_model
from s2kd.dataset import Meta, frame_phases, grid_statistics, load_frames, load_times, load_windows
from s2kd.distillation import DistilledStudent, distillation_loss
from s2kd.features import load_features
from s2kd.params import Weights, load_params
from s2kd.students.student import Student
from s2kd.teacher import Teacher
from s2kd.training import channel_scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="s2kd", help="row of loss weights (default: s2kd)")
    parser.add_argument("--student", default=load_params("student.model"), help="one of `students` in params.yaml")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turn (default: 5)")
    args = parser.parse_args()

    params = load_params("student.training")
    settings, weights = load_params("distillation"), load_params(f"variants.{args.variant}").weights
    model, dataset = load_params(f"students.{args.student}"), load_params("dataset")
    data = Path("data") / dataset
    device = "cuda" if torch.cuda.is_available() else "cpu"

    meta, frames, windows = (
        Meta.load(data / "meta.json"),
        load_frames(data / "frames.zarr"),
        load_windows(data / "windows.csv"),
    )
    teacher, details = load_model(Path("models") / dataset / "teacher", Teacher)
    teacher = teacher.to(device)
    times = load_times(data / "frames.zarr")
    normalisation = load_params("normalisation")
    phases, _ = frame_phases(times, meta, details["period"])
    mean, std = map(torch.from_numpy, grid_statistics(frames, times, windows, meta, normalisation))
    scale = channel_scale(std).to(device)
    features, forecasts = load_features(data / "features.npy"), load_features(data / "forecasts.npy")
    texts = Texts(data / "embeddings.safetensors", len(windows))
    train = windows[windows["split"] == "train"]
    tap = load_params("teacher.tap")

    def train_epoch(weights: Weights, how: str) -> float:
        """Seconds of one epoch; ``how``: alone, stored (features) or naive (teacher at each step)."""
        torch.manual_seed(0)
        student = Student(mean, std, meta.n_steps_input, meta.n_steps_output, model.model_dump())
        distilled = DistilledStudent(
            student, None if how == "alone" else features.shape[1:], settings.projection_depth
        ).to(device)
        arrays = (
            {"features": features} | ({"forecasts": forecasts} if weights.output else {}) if how == "stored" else {}
        )
        batches = load_batches(
            Windows(frames, phases, train, meta, texts if how == "naive" else None, arrays),
            params.batch_size,
            shuffle=True,
        )
        optimizer = torch.optim.AdamW(distilled.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
        distilled.train()
        start = time.perf_counter()
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            predictions, h, projected = distilled(batch["inputs"], batch["phase"])
            target, teacher_predictions = _teacher_side(batch, how)
            loss, _ = distillation_loss(
                predictions, batch["targets"], scale, projected, target, teacher_predictions, h, weights, settings, 0.5
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(distilled.parameters(), params.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    @torch.no_grad()
    def _teacher_side(batch: dict[str, Tensor], how: str) -> tuple[Tensor | None, Tensor | None]:
        if how == "alone":
            return None, None
        if how == "naive":  # the same work but for standardising, which the stored features had once
            predictions, latents = teacher(batch["inputs"], batch["phase"], batch["text"], batch["text_mask"])
            return latents[tap], predictions
        if "forecasts" not in batch:
            return batch["features"], None
        return batch["features"], teacher.standardise.inverse(batch["forecasts"], batch["phase"] + meta.n_steps_input)

    alone = weights.model_copy(update=dict.fromkeys(type(weights).model_fields, 0.0))
    ways = {"student_only": (alone, "alone"), args.variant: (weights, "stored"), "naive": (weights, "naive")}
    train_epoch(weights, "naive")  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            seconds[name].append(train_epoch(*way))
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{dataset}, {args.student}, {len(train)} windows, {name}; features {features.shape[1:]} float16, "
          f"{features.nbytes / 1e6:.0f} MB, read from disk")  # fmt: skip
    for way, times_taken in seconds.items():
        ratios = [taken / base for taken, base in zip(times_taken, seconds["student_only"], strict=True)]
        print(f"{way:>14}: {statistics.median(times_taken):7.2f} s an epoch, "
              f"{statistics.median(ratios):.2f} x student_only")  # fmt: skip


if __name__ == "__main__":
    main()
