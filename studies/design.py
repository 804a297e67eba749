"""Designs of studies: ``studies/<name>.yaml`` unfolded into cells, each one ``dvc exp run``."""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from s2kd.stage import UserError

GROUP = {"stage", "set", "grid", "cells", "groups"}  # keys of a group of cells
DESIGN = GROUP - {"set"} | {"question", "common", "tables", "figures"}  # keys of a design
STAGES = ("train_teacher", "distill", "evaluate", "evaluate_teacher", "evaluate_naive")
# Groups of params.yaml that the stages shared by many cells read, one behind the other.
UPSTREAM = (("dataset", "datasets"), ("narrative", "text_encoder"), ("normalisation", "teacher", "teachers"))

Overrides = dict[str, Any]  # dotted key of params.yaml: value


@dataclass(frozen=True, eq=False)
class Cell:
    """One ``dvc exp run``: DVC's targets and what it changes in ``params.yaml``."""

    study: str
    name: str
    stages: tuple[str, ...]
    overrides: Overrides

    @cached_property
    def key(self) -> str:
        """Identity of the cell: a hash of stages and overrides, whatever their order and the cell's name."""
        text = json.dumps([sorted(self.stages), self.overrides], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def command(self, machine: Overrides | None = None) -> list[str]:
        """Words of the ``dvc exp run`` of this cell; ``machine`` are overrides for this machine's files."""
        overrides = self.overrides | (machine or {})
        words = [word for key, value in overrides.items() for word in ("-S", f"{key}={literal(value)}")]
        return ["dvc", "exp", "run", *self.stages, *words]

    def params(self, params: dict[str, Any], machine: Overrides | None = None) -> dict[str, Any]:
        """The content of ``params.yaml`` under the overrides of this cell."""
        return override(params, self.overrides | (machine or {}), self.name)

    def upstream(self, params: dict[str, Any], machine: Overrides | None = None) -> set[str]:
        """Hashes of what the cell's data, its narratives and its teacher are made from."""
        values, levels, read = self.params(params, machine), set(), {}
        for groups in UPSTREAM:
            read |= {group: values.get(group) for group in groups}
            levels.add(hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest())
        return levels

    def models(self, params: dict[str, Any]) -> list[tuple[str, int]]:
        """Variant and seed of every student that the cell trains."""
        if not {"distill", "evaluate"} & set(self.stages):
            return []
        runs = self.params(params)["runs"]
        return [(variant, seed) for variant in runs["variants"] for seed in runs["seeds"]]


def load_design(path: Path) -> dict[str, Any]:
    """Read a design and refuse unknown keys."""
    try:
        design = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"{path} is missing; there are: {known}") from None
    except YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}") from None
    _known(design, DESIGN, str(path))
    return design


def cells_of(name: str, design: dict[str, Any], params: dict[str, Any]) -> list[Cell]:
    """All cells of a design in its order; ``params`` is the content of ``params.yaml``, whose keys they may set.

    Raises:
        UserError: two cells are equal or have one name, or a cell has no stage or sets what does not exist.
    """
    top = {key: design[key] for key in GROUP if key in design} | {"set": design.get("common") or {}}
    cells = [Cell(name, *found) for found in _expand(top, "", (), {})]
    seen: dict[str, Cell] = {}
    for cell in cells:
        if not cell.stages or not set(cell.stages) <= set(STAGES):
            raise UserError(f"{name}, cell {cell.name}: stage must be of {', '.join(STAGES)}, not {cell.stages}")
        for what, value in (("name", cell.name), ("stage and overrides", cell.key)):
            if value in seen:
                raise UserError(f"{name}: cells {seen[value].name} and {cell.name} have the same {what}")
            seen[value] = cell
        if paths := [key for key, value in cell.overrides.items() if isinstance(value, str) and value.startswith("/")]:
            raise UserError(f"{name}, cell {cell.name}: give the path {paths[0]} by --set, not in the design")
        cell.params(params)
    return cells


def _expand(group: dict, name: str, stages: tuple, overrides: Overrides) -> Iterator[tuple[str, tuple, Overrides]]:
    """Unfold a group: the product of its grid's axes, and in each its sub-groups, or the cell itself without any.

    An axis is a list of values of the key that it is called, or a mapping from labels to overrides.
    """
    _known(group, GROUP, name or "the design")
    stages = tuple(group["stage"].split()) if "stage" in group else stages
    overrides = overrides | (group.get("set") or {})
    axes = []
    for key, values in (group.get("grid") or {}).items():
        short = key.rsplit(".", 1)[-1]
        if isinstance(values, dict):
            axes.append([(str(label), bundle) for label, bundle in values.items()])
        else:
            labels = [value if isinstance(value, str) else f"{short}={literal(value)}" for value in values]
            axes.append([(label, {key: value}) for label, value in zip(labels, values, strict=True)])
    inner = [*(group.get("cells") or {}).items(), *(("", other) for other in group.get("groups") or [])]
    for point in itertools.product(*axes):
        labels = [name, *(label for label, _ in point)]
        values = overrides.copy()
        for _, bundle in point:
            values |= bundle
        for label, other in inner or [("", None)]:
            path = "/".join(part for part in (*labels, label) if part)
            if other is None:
                yield path or "all", stages, values
            else:
                yield from _expand(other, path, stages, values)


def override(params: dict[str, Any], overrides: Overrides, where: str) -> dict[str, Any]:
    """Change nested values by dotted keys in a copy; a key that does not exist is refused unless it starts with +."""
    params = copy.deepcopy(params)
    for key, value in overrides.items():
        *parents, last = key.lstrip("+").split(".")
        node = params
        for parent in parents:
            if key.startswith("+"):
                node.setdefault(parent, {})
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (last not in node and not key.startswith("+")):
            raise UserError(f"{where}: params.yaml has no {key}; write +{key} to add it")
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            value = override(node[last], {f"+{inner}": value[inner] for inner in value}, where)
        node[last] = value
    return params


def literal(value: Any) -> str:
    """A value as ``dvc exp run -S`` reads it (Hydra's grammar of overrides)."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in {
            "null",
            "true",
            "false",
            "nan",
            "inf",
        }
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)


def _known(group: Any, keys: set[str], where: str) -> None:
    if not isinstance(group, dict) or (unknown := set(group) - keys):
        found = ", ".join(sorted(unknown)) if isinstance(group, dict) else repr(group)
        raise UserError(f"{where}: unknown {found}; a group has {', '.join(sorted(keys))}")
