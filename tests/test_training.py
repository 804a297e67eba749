"""The loop on problems small enough to know the answer, stopped and resumed to the same bytes."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from s2kd.params import Training
from s2kd.stage import UserError
from s2kd.training import VALIDATION, channel_scale, fit, prediction_loss, schedule, start, validate, window_errors


class Line(Dataset):
    """Points of y = 2 x − 1, in batches."""

    def __init__(self, n: int) -> None:
        self.x = torch.linspace(-1, 1, n)[:, None]

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        x = self.x[positions]
        return {"x": x, "y": 2 * x - 1}


class Stopped(Exception):
    """As if the process had been killed."""


def loader(n: int, batch_size: int, shuffle: bool) -> DataLoader:
    return DataLoader(Line(n), batch_size, shuffle=shuffle, drop_last=shuffle, collate_fn=lambda batch: batch)


def loss_fn(model, batch, done):
    loss = ((model(batch["x"]) - batch["y"]) ** 2).mean()
    return loss, {"prediction": loss, "twice": 2 * loss}


def error_fn(model, batch):
    return {"prediction": ((model(batch["x"]) - batch["y"]) ** 2).flatten()}


def some_training(**changes) -> Training:
    values = {
        "epochs": 5, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.01, "warmup": 0.1, "gradient_clip": 1.0,
        "patience": 5, "mixed_precision": "no",
    }  # fmt: skip
    return Training(**values | changes)


def run(folder: Path, training: Training, loss_fn=loss_fn, error_fn=error_fn, seed: int = 0):
    """Train a perceptron with dropout in ``folder``; return it and the accelerator."""
    accelerator = start(training, seed)
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
    train, validation = loader(42, training.batch_size, True), loader(11, 4, False)
    state = folder / "state.safetensors"
    return fit(
        accelerator, model, loss_fn, error_fn, train, validation, training, seed, state, folder / "curves"
    ), accelerator


def curve(folder: Path, name: str) -> list[float]:
    lines = (folder / f"curves/plots/metrics/{name}.tsv").read_text().splitlines()
    assert lines[0].split("\t")[0] == "step"
    return [float(line.split("\t")[1]) for line in lines[1:]]


def curves(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("curves/**/*") if path.is_file()}


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def scripted(values: list[float], weights: list[dict] | None = None):
    """An error function that gives epoch k the k-th of ``values``, and remembers the weights it was given."""
    calls = []

    def error_fn(model, batch):
        if not len(calls) % 3 and weights is not None:  # three batches of validation an epoch
            weights.append({name: value.clone() for name, value in model.state_dict().items()})
        calls.append(1)
        return {"prediction": torch.full((len(batch["x"]),), values[(len(calls) - 1) // 3])}

    return error_fn


def test_schedule_by_hand():
    assert schedule(0.0, 0.1) == 0
    assert schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == 1
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(1.0, 0.1) == pytest.approx(0, abs=1e-15)
    assert schedule(0.0, 0.0) == 1  # without warm-up
    assert schedule(0.5, 1.0) == 0.5  # nothing but warm-up


def test_the_learning_rate_follows_the_schedule(tmp_path, monkeypatch):
    used = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        used.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(tmp_path, some_training(epochs=2, warmup=0.3))
    assert used == [0.1 * schedule((step + 0.5) / 10, 0.3) for step in range(10)]  # 42 windows are 5 batches of 8


def test_the_loss_falls(tmp_path):
    model, _ = run(tmp_path, some_training(epochs=12))
    losses = curve(tmp_path, VALIDATION)
    assert len(losses) == 12
    assert losses[-1] < 0.1 * losses[0]
    assert not model.training
    twice = curve(tmp_path, "train/twice")
    assert twice == pytest.approx([2 * value for value in curve(tmp_path, "train/prediction")])
    metrics = json.loads((tmp_path / "curves/metrics.json").read_text())
    assert metrics["validation"]["prediction"] == losses[-1]


def test_the_best_epoch_is_kept(tmp_path):
    weights: list[dict] = []
    model, _ = run(tmp_path, some_training(epochs=4), error_fn=scripted([3, 1, 2, 1.5], weights))
    assert curve(tmp_path, VALIDATION) == [3, 1, 2, 1.5]
    found = model.state_dict()
    equal = [all(torch.equal(epoch[name], found[name]) for name in found) for epoch in weights]
    assert equal == [False, True, False, False]


def test_patience_stops(tmp_path):
    run(tmp_path, some_training(epochs=9, patience=2), error_fn=scripted([5, 4, 4.5, 3, 3.5, 3, 9, 9, 9]))
    assert curve(tmp_path, VALIDATION) == [5, 4, 4.5, 3, 3.5, 3]  # a tie is not better


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, epoch):
    def stop_in(epoch: int):
        steps = iter(range(1000))

        def stopping(model, batch, done):
            if next(steps) == 5 * epoch + 2:  # in the third of five steps
                raise Stopped
            return loss_fn(model, batch, done)

        return stopping

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wanted, _ = run(whole, some_training())
    with pytest.raises(Stopped):
        run(broken, some_training(), stop_in(epoch))
    assert (broken / "state.safetensors").exists() == (epoch > 0)
    fractions = []
    found, _ = run(broken, some_training(), lambda *given: fractions.append(given[2]) or loss_fn(*given))
    # Not one of the finished epochs is computed again, and the rest know how far training is.
    assert fractions == [(step + 0.5) / 25 for step in range(5 * epoch, 25)]
    assert same(found, wanted)
    assert curves(broken) == curves(whole)
    assert (broken / "state.safetensors").read_bytes() == (whole / "state.safetensors").read_bytes()


def test_a_finished_run_is_not_trained_further(tmp_path):
    training = some_training(epochs=9, patience=2)
    first, _ = run(tmp_path, training, error_fn=scripted([2, 1, 3, 3, 0, 0, 0]))

    def never(*given):
        raise AssertionError

    again, _ = run(tmp_path, training, never, never)
    assert same(again, first)
    assert curve(tmp_path, VALIDATION) == [2, 1, 3, 3]


def test_seeds_differ_and_repeat(tmp_path):
    first, again, other = (
        run(tmp_path / name, some_training(), seed=seed)[0] for name, seed in {"a": 0, "b": 0, "c": 1}.items()
    )
    assert same(first, again)
    assert not same(first, other)


def test_every_epoch_has_its_own_order(tmp_path):
    seen = []

    def spy(model, batch, done):
        seen.append(batch["x"].flatten().tolist())
        return loss_fn(model, batch, done)

    run(tmp_path, some_training(epochs=2), spy)
    first, second = ([x for batch in part for x in batch] for part in (seen[:5], seen[5:]))
    assert len(set(first)) == len(set(second)) == 40
    assert first != second


def test_validation_counts_every_window_once():
    accelerator = start(some_training(), 0)
    model = nn.Linear(1, 1)
    validation = accelerator.prepare(loader(11, 4, False))  # batches of 4, 4 and 3

    def error_fn(model, batch):
        error = batch["x"].flatten() + 3 * (len(batch["x"]) == 3)
        return {"prediction": error, "twice": 2 * error}

    errors = validate(accelerator, model, error_fn, validation)
    # The mean over windows is 9 / 11; that over batches is about 1.
    assert errors == pytest.approx({"prediction": 9 / 11, "twice": 18 / 11})
    assert not model.training


def test_every_error_has_a_curve_and_prediction_picks_the_epoch(tmp_path):
    predictions, others, weights = [3.0, 1.0, 2.0, 1.5], [1.0, 2.0, 0.5, 0.0], []
    prediction, other = scripted(predictions, weights), scripted(others)

    def error_fn(model, batch):  # the other comes first and is least elsewhere
        return {"reconstruction": other(model, batch)["prediction"], **prediction(model, batch)}

    model, _ = run(tmp_path, some_training(epochs=9, patience=2), error_fn=error_fn)
    assert curve(tmp_path, VALIDATION) == predictions  # two epochs after the second it stops
    assert curve(tmp_path, "validation/reconstruction") == others
    found = model.state_dict()
    assert [all(torch.equal(epoch[name], found[name]) for name in found) for epoch in weights] == [0, 1, 0, 0]


def test_the_loss_is_told_the_fraction_of_training_done(tmp_path):
    """The middle of each step, from the first to the last of all epochs, as the learning rate."""
    fractions = []
    run(tmp_path, some_training(epochs=2), lambda *given: fractions.append(given[2]) or loss_fn(*given))
    assert fractions == [(step + 0.5) / 10 for step in range(10)]


def test_losses_by_hand():
    predictions, targets = torch.zeros(2, 3, 2, 1, 2), torch.zeros(2, 3, 2, 1, 2)
    predictions[0, 0, 0], targets[0, 0, 1], targets[1] = 6, 10, 2
    scale = torch.tensor([2.0, 5.0])[:, None, None]
    # Window 0: one of three times is 3 deviations off in one channel and 2 in the other; window 1: 1 and 0.4 always.
    wanted = [(9 + 4) / 6, (1 + 0.16) / 2]
    assert window_errors(predictions, targets, scale).tolist() == pytest.approx(wanted)
    assert prediction_loss(predictions, targets, scale).item() == pytest.approx(sum(wanted) / 2)


def test_missing_targets_are_neither_learnt_from_nor_counted():
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(2, 3, 4, 2, 5, 6, generator=generator).unbind()
    predictions.requires_grad_()
    scale = torch.tensor([2.0, 0.5])[:, None, None]
    valid = torch.rand(targets.shape, generator=generator) < 0.7
    half = torch.zeros_like(valid)
    half[..., :3] = True
    known = [frames[..., :3] for frames in (predictions, targets)]
    missing = targets.masked_fill(~half, torch.nan)
    torch.testing.assert_close(prediction_loss(predictions, missing, scale, half), prediction_loss(*known, scale))
    torch.testing.assert_close(window_errors(predictions, missing, scale, half), window_errors(*known, scale))
    every = torch.ones_like(valid)
    torch.testing.assert_close(
        prediction_loss(predictions, targets, scale, every), prediction_loss(predictions, targets, scale)
    )
    prediction_loss(predictions, targets.masked_fill(~valid, torch.nan), scale, valid).backward()
    assert torch.equal(predictions.grad != 0, valid)
    assert predictions.grad.isfinite().all()


def test_a_window_without_a_target_has_no_error():
    predictions, targets = torch.ones(2, 3, 1, 2, 2), torch.zeros(2, 3, 1, 2, 2)
    targets[1] = torch.nan
    scale = torch.full((1, 1, 1), 2.0)
    assert window_errors(predictions, targets, scale, ~targets.isnan()).tolist() == [0.25, 0]
    assert prediction_loss(predictions, targets, scale, ~targets.isnan()).item() == 0.25
    assert prediction_loss(predictions[1:], targets[1:], scale, ~targets[1:].isnan()).item() == 0


def test_the_scale_of_a_channel_is_the_root_mean_square_over_its_grid():
    std = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
    assert channel_scale(std).shape == (2, 1, 1)
    assert channel_scale(std).flatten().tolist() == [2.5, 2]
    # Of residuals as large as their cell's deviation the loss is 1.
    assert prediction_loss(std[None, None], torch.zeros(1, 1, 2, 2, 2), channel_scale(std)) == 1


def test_divergence_is_told(tmp_path):
    with pytest.raises(UserError, match=r"diverged in epoch 1; lower training\.learning_rate = 0\.1"):
        run(tmp_path, some_training(), error_fn=scripted([1, math.nan]))
    with pytest.raises(UserError, match="diverged in epoch 0"):
        run(tmp_path / "other", some_training(), lambda *given: (loss_fn(*given)[0] * math.nan, {}))


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(tmp_path, some_training(epochs=1, gradient_clip=1e-3))
    assert norms == pytest.approx([1e-3] * 5, rel=1e-3)
