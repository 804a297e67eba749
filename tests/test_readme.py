"""What the README says, against what it speaks of."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text: str, first: str) -> list[dict[str, str]]:
    """The Markdown table whose first heading is ``first``."""
    block = next(block for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if block.startswith(f"| {first} |"))
    head, _, *body = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in body]


def test_the_results_are_those_of_the_committed_run():
    said, measured = rows(README, "Forecaster"), rows((ROOT / "metrics/results.md").read_text(), "Forecaster")
    assert [row["Forecaster"] for row in said] == [row["Forecaster"] for row in measured]
    for mine, theirs in zip(said, measured, strict=True):
        assert mine.items() <= theirs.items()


def test_every_stage_is_explained():
    explained = {row["stage"].strip("`") for row in rows(README, "stage")}
    assert explained == set(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("key", sorted(set(re.findall(r"-S '?([\w.]+)=", README))))
def test_overrides_name_parameters(key):
    value = YAML(typ="safe").load(ROOT / "params.yaml")
    for part in key.split("."):
        value = value[part]
