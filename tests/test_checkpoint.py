"""What is saved is what is loaded."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from s2kd.checkpoint import load_model, load_state, save_model, save_state
from s2kd.layers import Standardise
from s2kd.stage import UserError

ROOT = Path(__file__).parent.parent


class Small(nn.Module):
    def __init__(self, mean: torch.Tensor, std: torch.Tensor, width: int) -> None:
        super().__init__()
        self.standardise = Standardise(mean, std)
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)


def small() -> Small:
    mean = torch.tensor(280.0).expand(24, 2, 3, 4)  # without memory of its own, as numpy's broadcast_to gives it
    return Small(mean, torch.rand(2, 3, 4) + 1, width=3)


def is_safetensors(path: Path) -> bool:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return isinstance(json.loads(content[8 : 8 + length]), dict)


NARRATIVE = {"backend": "template", "view": "history", "text": "real", "corruption": 0.0, "seed": 0}


def test_a_model_comes_back_as_it_was(tmp_path):
    model = small()
    save_model(tmp_path / "models/a", model, {"width": 3}, "day", NARRATIVE)
    loaded, details = load_model(tmp_path / "models/a", Small)
    assert details == {"period": "day", "narrative": NARRATIVE}
    assert loaded.standardise.mean.shape == (24, 2, 3, 4)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert {path.name for path in (tmp_path / "models/a").iterdir()} == {"model.safetensors", "config.json"}
    assert is_safetensors(tmp_path / "models/a/model.safetensors")


def test_the_same_model_has_the_same_bytes_and_replaces_another(tmp_path):
    model = small()
    save_model(tmp_path / "a", small(), {"width": 3}, "none", None)
    for name in ("a", "b"):
        save_model(tmp_path / name, model, {"width": 3}, "none", None)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_others_may_read_a_model(tmp_path):
    old = os.umask(0o022)
    try:
        save_model(tmp_path / "a", small(), {"width": 3}, "none", None)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    save_model(tmp_path / "a", small(), {"width": 3}, "none", None)
    (tmp_path / "a" / name).unlink()
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "a", Small)
    assert str(error.value) == f"{tmp_path / 'a' / name} is missing; run `dvc repro` or `dvc pull`"


def test_a_training_state_comes_back_as_it_was(tmp_path):
    def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer) -> None:
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = trained()
    step(model, optimizer)
    best = {name: value.clone() + 1 for name, value in model.state_dict().items()}
    progress = {"history": [{"loss": 0.1 + 0.2}], "scaler": None}
    save_state(tmp_path / "state", model, best, optimizer, progress)
    assert is_safetensors(tmp_path / "state")
    other, other_optimizer = trained()
    found_best, found_progress = load_state(tmp_path / "state", other, other_optimizer)
    assert found_progress == progress  # floats to the last bit
    assert found_best.keys() == best.keys()
    assert all(torch.equal(found_best[name], best[name]) for name in best)
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
