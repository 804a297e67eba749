"""Train one vision-only student: prediction loss plus the weighted distillation terms of its variant."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="the teacher's fused features")
    parser.add_argument("--variant", required=True, help="row of loss weights in params.yaml")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder to write the best weights to")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the DVCLive training curves")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Windows, load_batches
    from s2kd.checkpoint import fingerprint, save_model, scratch
    from s2kd.dataset import Meta, grid_statistics, load_frames, load_windows
    from s2kd.distillation import Distillation, distillation_loss
    from s2kd.features import channel_statistics, load_features
    from s2kd.params import load_params
    from s2kd.students import Student
    from s2kd.training import fit, start, window_errors

    params, normalisation, narrative = load_params("student"), load_params("normalisation"), load_params("narrative")
    weights = load_params(f"variants.{args.variant}").weights
    is_distilled = any(weights.model_dump().values())
    inputs = [args.frames, args.windows, args.meta, *([args.features] if is_distilled else [])]
    key = fingerprint([params, normalisation, narrative, weights, args.seed], inputs)
    accelerator = start(params.training, args.seed)

    meta, frames, windows = Meta.load(args.meta), load_frames(args.frames), load_windows(args.windows)
    features = load_features(args.features) if is_distilled else None
    mean, std = map(torch.from_numpy, grid_statistics(frames, windows, meta, normalisation))
    scale = torch.tensor(meta.std, device=accelerator.device).reshape(-1, 1, 1)
    if features is not None:
        train_ids = windows.loc[windows["split"] == "train", "id"].to_numpy()
        feature_mean, feature_std = (
            torch.from_numpy(value).to(accelerator.device) for value in channel_statistics(features, train_ids)
        )
    config = {"n_steps_input": meta.n_steps_input, "n_steps_output": meta.n_steps_output, **params.model.model_dump()}

    def split(name: str, shuffle: bool = False):
        data = Windows(frames, windows[windows["split"] == name], meta, features=features if shuffle else None)
        return load_batches(data, params.training.batch_size, shuffle=shuffle)

    def loss_fn(model, batch):
        predictions, projected = model(batch["inputs"])
        target = (batch["features"] - feature_mean) / feature_std if is_distilled else None
        return distillation_loss(predictions, batch["targets"], scale, projected, target, weights)

    def error_fn(model, batch):
        return window_errors(model(batch["inputs"])[0], batch["targets"], scale)

    student = Student(mean, std, **config)
    with scratch(f"distill-{args.variant}-{args.seed}", key, is_main=accelerator.is_main_process) as folder:
        best = fit(
            accelerator,
            Distillation(student, params.model.width, features.shape[1:] if is_distilled else None),
            loss_fn,
            error_fn,
            split("train", shuffle=True),
            split("validation"),
            params.training,
            args.seed,
            folder / "state.safetensors",
            args.curves,
        )
        if accelerator.is_main_process:
            save_model(args.model, best.student, config, narrative.model_dump() if is_distilled else None)
        accelerator.end_training()  # closes the curves and the process group


if __name__ == "__main__":
    run(main)
