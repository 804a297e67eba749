"""Weights and training states on disk: safetensors with JSON, never pickle; written whole or not at all."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from s2kd.params import Period
from s2kd.stage import UserError, atomic


def save_model(
    folder: Path, model: nn.Module, arguments: dict[str, Any], period: Period, narrative: dict[str, Any] | None
) -> None:
    """Write ``model.safetensors`` and ``config.json`` into a folder that appears only when both are complete.

    Args:
        arguments: what builds the model again, without the buffers that are among its weights.
        period: that of the phases that the model is given.
        narrative: backend, view, … of the narratives that the model learned from, itself or through its teacher.
    """
    config = {"arguments": arguments, "period": period, "narrative": narrative}
    with atomic(folder) as temporary:
        temporary.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        (temporary / "model.safetensors").write_bytes(save(weights))  # save_file makes a file only its owner may read
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path, model_class: type[nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model from ``config.json``, give it its weights, and set it to evaluation.

    Returns:
        The model, and the ``period`` and ``narrative`` that ``save_model`` was given.
    """
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            raise UserError(f"{path} is missing; run `dvc repro` or `dvc pull`")
    details = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    statistics = {name: weights[f"standardise.{name}"] for name in ("mean", "std")}
    model = model_class(**statistics, **details.pop("arguments"))
    model.load_state_dict(weights)
    return model.eval(), details


def save_state(path: Path, model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, progress: dict):
    """Write everything that training needs to go on from the end of an epoch.

    Args:
        best: weights of the best validation epoch so far.
        progress: JSON-able: epoch, history, gradient scale.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict]:
    """Restore what ``save_state`` wrote.

    Returns:
        The best weights and the progress.
    """
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return part("best."), progress
