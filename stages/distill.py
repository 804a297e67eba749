"""Train one vision-only student: prediction loss plus the weighted distillation terms of its variant."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="the teacher's latents")
    parser.add_argument("--forecasts", type=Path, required=True, help="the teacher's forecasts")
    parser.add_argument("--student", required=True, help="which of `students` in params.yaml")
    parser.add_argument("--variant", required=True, help="row of loss weights in params.yaml")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder to write the best weights to")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the DVCLive training curves")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Windows, load_batches
    from s2kd.checkpoint import save_model
    from s2kd.dataset import Meta, frame_phases, grid_statistics, load_frames, load_times, load_windows
    from s2kd.distillation import DistilledStudent, compares_latents, distillation_loss, unexplained
    from s2kd.features import load_features
    from s2kd.params import load_params
    from s2kd.scratch import fingerprint, scratch
    from s2kd.stage import UserError
    from s2kd.students.student import Student
    from s2kd.training import channel_scale, fit, start, window_errors

    training, settings = load_params("student.training"), load_params("distillation")
    model = load_params(f"students.{args.student}")
    normalisation, narrative = load_params("normalisation"), load_params("narrative")
    weights = load_params(f"variants.{args.variant}").weights
    is_distilled = any(weights.model_dump().values())
    learns_features = compares_latents(weights)
    if settings.balance != "none" and training.mixed_precision != "no":
        raise UserError(
            f"params.yaml: distillation.balance = {settings.balance} compares gradients and needs "
            f"student.training.mixed_precision = no, not {training.mixed_precision}"
        )
    arrays = {}  # those of the teacher's that this variant reads
    if learns_features:
        arrays["features"] = load_features(args.features)
    if weights.output:
        arrays["forecasts"] = load_features(args.forecasts)
    inputs = [args.frames, args.windows, args.meta, *(vars(args)[name] for name in arrays)]
    key = fingerprint([training, settings, model, normalisation, narrative, weights, args.seed], inputs)
    accelerator = start(training, args.seed)

    meta, frames, times = Meta.load(args.meta), load_frames(args.frames), load_times(args.frames)
    windows = load_windows(args.windows)
    phases, _ = frame_phases(times, meta)
    mean, std = map(torch.from_numpy, grid_statistics(frames, times, windows, meta, normalisation))
    scale = channel_scale(std).to(accelerator.device)
    config = {
        "n_steps_input": meta.n_steps_input,
        "n_steps_output": meta.n_steps_output,
        "model": model.model_dump(),
    }

    def split(name: str, shuffle: bool = False):
        data = Windows(frames, phases, windows[windows["split"] == name], meta, arrays=arrays)
        return load_batches(data, training.batch_size, shuffle=shuffle)

    def loss_fn(distilled, batch, done):
        predictions, features, projected = distilled(batch["inputs"], batch["phase"])
        forecasts = None
        if weights.output:
            forecasts = student.standardise.inverse(batch["forecasts"], batch["phase"] + meta.n_steps_input)
        return distillation_loss(
            predictions,
            batch["targets"],
            scale,
            projected,
            batch.get("features"),
            forecasts,
            features,
            weights,
            settings,
            done,
            batch.get("valid"),
        )

    def error_fn(distilled, batch):
        predictions, _, projected = distilled(batch["inputs"], batch["phase"])
        errors = {"prediction": window_errors(predictions, batch["targets"], scale, batch.get("valid"))}
        if learns_features:
            errors["reconstruction"] = unexplained(projected, batch["features"])
        return errors

    # The student before the projection: the same seed gives it the same weights in every variant.
    student = Student(mean, std, **config)
    with scratch(f"distill-{args.variant}-{args.seed}", key, is_main=accelerator.is_main_process) as folder:
        best = fit(
            accelerator,
            DistilledStudent(
                student, arrays["features"].shape[1:] if learns_features else None, settings.projection_depth
            ),
            loss_fn,
            error_fn,
            split("train", shuffle=True),
            split("validation"),
            training,
            args.seed,
            folder / "state.safetensors",
            args.curves,
        )
        if accelerator.is_main_process:
            learned_from = narrative.model_dump() if is_distilled else None
            save_model(args.model, best.student, config, meta.period, learned_from)
        accelerator.end_training()  # closes the curves and the process group


if __name__ == "__main__":
    run(main)
