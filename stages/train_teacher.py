"""Train the privileged multimodal teacher."""

import argparse
from pathlib import Path

from s2kd.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--meta", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--teacher", required=True, help="which of `teachers` in params.yaml")
    parser.add_argument("--model", type=Path, required=True, help="folder to write the best weights to")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the DVCLive training curves")
    args = parser.parse_args()

    import torch

    from s2kd.batches import Texts, Windows, load_batches
    from s2kd.checkpoint import save_model
    from s2kd.dataset import Meta, frame_phases, grid_statistics, load_frames, load_times, load_windows
    from s2kd.params import load_params
    from s2kd.scratch import fingerprint, scratch
    from s2kd.stage import UserError
    from s2kd.teacher import Teacher
    from s2kd.training import channel_scale, fit, prediction_loss, start, window_errors

    training, seed = load_params("teacher.training"), load_params("teacher.seed")
    model = load_params(f"teachers.{args.teacher}")
    normalisation, narrative = load_params("normalisation"), load_params("narrative")
    key = fingerprint(
        [training, seed, model, normalisation, narrative], [args.frames, args.windows, args.meta, args.embeddings]
    )
    accelerator = start(training, seed)

    meta, frames, times = Meta.load(args.meta), load_frames(args.frames), load_times(args.frames)
    windows = load_windows(args.windows)
    if meta.n_steps_input % model.n_steps_latent:
        raise UserError(
            f"params.yaml: teachers.{args.teacher}.n_steps_latent = {model.n_steps_latent} does not divide the "
            f"{meta.n_steps_input} input steps of {meta.dataset}; choose a divisor"
        )
    texts = Texts(args.embeddings, len(windows))
    phases, _ = frame_phases(times, meta)
    mean, std = map(torch.from_numpy, grid_statistics(frames, times, windows, meta, normalisation))
    scale = channel_scale(std).to(accelerator.device)
    config = {
        "n_steps_input": meta.n_steps_input,
        "n_steps_output": meta.n_steps_output,
        "text_width": texts.width,
        **model.model_dump(),
    }

    def split(name: str, shuffle: bool = False):
        data = Windows(frames, phases, windows[windows["split"] == name], meta, texts)
        return load_batches(data, training.batch_size, shuffle=shuffle)

    def predict(model, batch):
        return model(*(batch[name] for name in ("inputs", "phase", "text", "text_mask")))[0]

    def loss_fn(model, batch, done):
        loss = prediction_loss(predict(model, batch), batch["targets"], scale, batch.get("valid"))
        return loss, {"prediction": loss}

    def error_fn(model, batch):
        return {"prediction": window_errors(predict(model, batch), batch["targets"], scale, batch.get("valid"))}

    with scratch("train_teacher", key, is_main=accelerator.is_main_process) as folder:
        teacher = fit(
            accelerator,
            Teacher(mean, std, **config),
            loss_fn,
            error_fn,
            split("train", shuffle=True),
            split("validation"),
            training,
            seed,
            folder / "state.safetensors",
            args.curves,
        )
        if accelerator.is_main_process:
            save_model(args.model, teacher, config, meta.period, narrative.model_dump())
        accelerator.end_training()  # closes the curves and the process group


if __name__ == "__main__":
    run(main)
