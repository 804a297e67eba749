"""Train the privileged multimodal teacher, then write its fused features over all windows once for every student."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder to write the best weights to")
    parser.add_argument("--features", type=Path, required=True, help="npy file to write the fused features to")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the DVCLive training curves")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Texts, Windows, load_batches
    from s2kd.checkpoint import fingerprint, save_model, scratch
    from s2kd.dataset import Meta, grid_statistics, load_frames, load_windows
    from s2kd.features import write_features
    from s2kd.params import load_params
    from s2kd.teacher import Teacher
    from s2kd.training import fit, prediction_loss, start, window_errors

    params, normalisation, narrative = load_params("teacher"), load_params("normalisation"), load_params("narrative")
    key = fingerprint([params, normalisation, narrative], [args.frames, args.windows, args.meta, args.embeddings])
    accelerator = start(params.training, params.seed)

    meta, frames, windows = Meta.load(args.meta), load_frames(args.frames), load_windows(args.windows)
    texts = Texts(args.embeddings, len(windows))
    mean, std = map(torch.from_numpy, grid_statistics(frames, windows, meta, normalisation))
    scale = torch.tensor(meta.std, device=accelerator.device).reshape(-1, 1, 1)
    config = {
        "n_steps_input": meta.n_steps_input,
        "n_steps_output": meta.n_steps_output,
        "text_width": texts.width,
        **params.model.model_dump(),
    }

    def split(name: str, shuffle: bool = False):
        data = Windows(frames, windows[windows["split"] == name], meta, texts)
        return load_batches(data, params.training.batch_size, shuffle=shuffle)

    def loss_fn(model, batch):
        predictions, _ = model(batch["inputs"], batch["text"], batch["text_mask"])
        loss = prediction_loss(predictions, batch["targets"], scale)
        return loss, {"prediction": loss}

    def error_fn(model, batch):
        return window_errors(model(batch["inputs"], batch["text"], batch["text_mask"])[0], batch["targets"], scale)

    with scratch("train_teacher", key, is_main=accelerator.is_main_process) as folder:
        teacher = fit(
            accelerator,
            Teacher(mean, std, **config),
            loss_fn,
            error_fn,
            split("train", shuffle=True),
            split("validation"),
            params.training,
            params.seed,
            folder / "state.safetensors",
            args.curves,
        )
        write_features(
            accelerator, teacher, Windows(frames, windows, meta, texts), params.training.batch_size, args.features
        )
        if accelerator.is_main_process:
            save_model(args.model, teacher, config, narrative.model_dump())
        accelerator.end_training()  # closes the curves and the process group


if __name__ == "__main__":
    run(main)
