"""The one training loop, of teacher and students alike."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from s2kd.checkpoint import load_state, save_state
from s2kd.params import Training
from s2kd.stage import UserError

Batch = dict[str, Tensor]
LossFn = Callable[[nn.Module, Batch, float], tuple[Tensor, dict[str, Tensor]]]
ErrorFn = Callable[[nn.Module, Batch], dict[str, Tensor]]
VALIDATION = "validation/prediction"


def prediction_loss(
    predictions: Float[Tensor, "batch time channel y x"],
    targets: Float[Tensor, "batch time channel y x"],
    scale: Float[Tensor, "channel 1 1"],
    valid: Bool[Tensor, "batch time channel y x"] | None = None,
) -> Float[Tensor, ""]:
    """Mean ((Ŷ − Y) / σ)², with σ (``scale``) of each channel in physical units: 1 is the error of the usual.

    Of targets that are missing in places, the mean over those that are ``valid``; 0 where none is.
    """
    if valid is None:
        return (((predictions - targets) / scale) ** 2).mean()
    return _valid_squares(predictions, targets, scale, valid).sum() / valid.sum().clamp_min(1)


def channel_scale(std: Float[Tensor, "channel y x"]) -> Float[Tensor, "channel 1 1"]:
    """Root mean square over the grid of what ``Standardise`` divides by: the unit of the losses, physical."""
    return std.square().mean((1, 2), keepdim=True).sqrt()


def window_errors(
    predictions: Float[Tensor, "batch time channel y x"],
    targets: Float[Tensor, "batch time channel y x"],
    scale: Float[Tensor, "channel 1 1"],
    valid: Bool[Tensor, "batch time channel y x"] | None = None,
) -> Float[Tensor, " batch"]:
    """The prediction loss of each window by itself."""
    if valid is None:
        return (((predictions - targets) / scale) ** 2).flatten(1).mean(1)
    squares = _valid_squares(predictions, targets, scale, valid).flatten(1)
    return squares.sum(1) / valid.flatten(1).sum(1).clamp_min(1)


def _valid_squares(
    predictions: Float[Tensor, "batch time channel y x"],
    targets: Float[Tensor, "batch time channel y x"],
    scale: Float[Tensor, "channel 1 1"],
    valid: Bool[Tensor, "batch time channel y x"],
) -> Float[Tensor, "batch time channel y x"]:
    """Squared errors in units of ``scale``, 0 where a target is missing."""
    # Before the square: the gradient of the square of NaN would be NaN even where it is cut off.
    return (torch.where(valid, predictions - targets, 0.0) / scale) ** 2


def start(training: Training, seed: int) -> Accelerator:
    """Set up devices and seeds; hardware comes from Accelerate's own configuration.

    ``training.batch_size`` is the batch over all processes, each of which takes its share.
    """
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # 7 % of a step for memory that nothing here reads
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision,
        log_with="dvclive",
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=seed),
    )
    if training.batch_size % accelerator.num_processes:
        raise UserError(
            f"training.batch_size = {training.batch_size} cannot be shared by {accelerator.num_processes} processes; "
            "make it a multiple of their number"
        )
    set_seed(seed)
    return accelerator


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    loss_fn: LossFn,
    error_fn: ErrorFn,
    train: DataLoader,
    validation: DataLoader,
    training: Training,
    seed: int,
    state: Path,
    curves: Path,
) -> nn.Module:
    """Train with AdamW and a cosine schedule, keep the epoch with the least validation loss, log curves.

    After every epoch all that the rest depends on is written to ``state``, and a run that finds that file goes on from
    there to the same result: the order of windows and the random numbers of an epoch follow from ``seed`` and epoch.

    Args:
        loss_fn: maps model, batch and the fraction of training done to the loss and its named terms, each a mean over
            the batch.
        error_fn: maps model and batch to named errors, one a window; the mean of ``prediction`` over validation picks
            the epoch.
        state: file of the training state.
        curves: folder of the DVCLive curves, written anew.

    Returns:
        The model with the weights of the best epoch.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    best: dict[str, Tensor] = {}
    progress: dict[str, Any] = {"history": [], "scaler": None}
    if state.exists():
        best, progress = load_state(state, model, optimizer)
    model, optimizer, train, validation = accelerator.prepare(model, optimizer, train, validation)
    if progress["scaler"]:
        accelerator.scaler.load_state_dict(progress["scaler"])
    history = progress["history"]
    live = {"dir": str(curves), "dvcyaml": None, "save_dvc_exp": False, "report": None}
    accelerator.init_trackers("s2kd", init_kwargs={"dvclive": live})
    for epoch, row in enumerate(history):  # a resumed run writes the same curves as one that was never stopped
        accelerator.log(row, step=epoch)

    n_steps = training.epochs * len(train)
    bar = tqdm(total=n_steps, initial=len(history) * len(train), unit="step", disable=_quiet(accelerator))
    while len(history) < training.epochs and not _has_stalled(history, training.patience):
        epoch = len(history)
        # For dropout, which differs between processes; the order of windows has the loader's own generator.
        set_seed(seed + epoch * 1_000_003, device_specific=True)
        train.set_epoch(epoch)
        model.train()
        sums: dict[str, Tensor] = {}
        for step, batch in enumerate(train, start=epoch * len(train)):
            done = (step + 0.5) / n_steps
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * schedule(done, training.warmup)
            with accelerator.autocast():
                loss, terms = loss_fn(model, batch, done)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), training.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach()
            bar.update()
        row = {f"train/{name}": accelerator.reduce(value / len(train), "mean").item() for name, value in sums.items()}
        errors = validate(accelerator, model, error_fn, validation)
        row |= {f"validation/{name}": value for name, value in errors.items()}
        if not math.isfinite(row[VALIDATION]):
            raise UserError(
                f"training diverged in epoch {epoch}; lower training.learning_rate = {training.learning_rate}"
            )
        history.append(row)
        if row[VALIDATION] == min(_losses(history)):
            best = {name: value.clone() for name, value in accelerator.unwrap_model(model).state_dict().items()}
        accelerator.log(row, step=epoch)
        bar.set_postfix(epoch=epoch + 1, validation=f"{row[VALIDATION]:.4f}")
        if accelerator.is_main_process:
            progress["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
            save_state(state, accelerator.unwrap_model(model), best, optimizer, progress)
    bar.close()
    model = accelerator.unwrap_model(model)
    model.load_state_dict(best)
    return model.eval()


@torch.no_grad()
def validate(accelerator: Accelerator, model: nn.Module, error_fn: ErrorFn, validation: DataLoader) -> dict[str, float]:
    """Errors averaged over all validation windows, each counted once whatever the number of processes."""
    model.eval()
    errors: dict[str, list[Tensor]] = {}
    for batch in validation:
        with accelerator.autocast():
            for name, value in accelerator.gather_for_metrics(error_fn(model, batch)).items():
                errors.setdefault(name, []).append(value)
    return {name: torch.cat(values).double().mean().item() for name, values in errors.items()}


def schedule(progress: float, warmup: float) -> float:
    """Fraction of the peak learning rate at a fraction of all steps: linear warm-up, then half a cosine to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _losses(history: list[dict[str, float]]) -> list[float]:
    return [row[VALIDATION] for row in history]


def _has_stalled(history: list[dict[str, float]], patience: int) -> bool:
    losses = _losses(history)
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _quiet(accelerator: Accelerator) -> bool | None:
    return None if accelerator.is_main_process else True  # None: quiet when not a terminal
