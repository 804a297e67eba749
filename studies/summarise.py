"""Refresh tables and figures of studies from their committed rows: ``python -m studies.summarise NAME...``.

A table stands in ``studies/NAME.md`` between ``<!-- table KEY -->`` and ``<!-- end -->``, a figure in
``studies/NAME-KEY.png``; what they show is told by ``tables`` and ``figures`` of ``studies/NAME.yaml``.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from s2kd import stage
from s2kd.stage import UserError
from studies import figures, tables
from studies.tables import Study, load_study

MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.summarise", description="Refresh tables and figures.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="studies/NAME.yaml")
    root = Path.cwd()
    for name in parser.parse_args().names:
        study = load_study(root, name)
        if lacking := [cell.name for cell in study.cells if cell.key not in set(study.rows["key"])]:
            some = ", ".join(lacking[:5]) + (" and more" if len(lacking) > 5 else "")
            print(f"warning: {name}: {len(lacking)} of {len(study.cells)} cells have no rows: {some}", file=sys.stderr)
        path = root / f"studies/{name}.md"
        if path.exists():
            stage.write_text(path, refreshed(study, path.read_text(encoding="utf-8")))
        for key, spec in (study.design.get("figures") or {}).items():
            _kind(figures.KINDS, spec, key)(root / f"studies/{name}-{key}.png", study, spec)


def refreshed(study: Study, text: str) -> str:
    """The text with its tables made anew; each table of the design has its place in it, and each place its table."""
    specs = study.design.get("tables") or {}
    places = [match[1] for match in MARKED.findall(text)]
    if sorted(places) != sorted(specs) or len(re.findall(r"<!-- table ", text)) != len(places):
        raise UserError(
            f"studies/{study.name}.md has places for the tables {places}, the design has {list(specs)}; "
            "a place is <!-- table KEY --> and <!-- end -->, each on a line of its own"
        )

    def table(match: re.Match) -> str:
        spec = specs[match[2]]
        return f"{match[1]}\n{_kind(tables.KINDS, spec, match[2])(study, spec)}\n\n{match[3]}"

    return MARKED.sub(table, text)


def _kind(kinds: dict[str, Any], spec: dict[str, Any], key: str) -> Any:
    kind = spec.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise UserError(f"{key}: unknown kind {kind}; there are {', '.join(kinds)}")
    return kinds[kind]


if __name__ == "__main__":
    stage.run(main)
