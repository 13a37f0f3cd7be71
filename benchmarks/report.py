"""Puts what the benchmarks found into docs/performance.md, between its two marks.

    python -m benchmarks.report docs/performance.md benchmarks/results/*.json

With `-` for the page it only prints. JSON of other kinds is passed over.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import in_markdown, put_into_page
from benchmarks.results import in_words

MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")
ORDER = ("preparation", "cubes", "corruption", "training", "traffic", "loss_curves", "orchestration", "gpu")


def as_markdown(files: list[Path]) -> str:
    """All results, in the order of the pipeline."""
    found = [reported for file in files if "benchmark" in (reported := _read(file))]
    found.sort(
        key=lambda reported: ORDER.index(reported["benchmark"]) if reported["benchmark"] in ORDER else len(ORDER)
    )
    return "\n\n".join(_section(reported) for reported in found)


def _read(file: Path) -> dict[str, Any]:
    reported = json.loads(file.read_text(encoding="utf-8"))
    return reported if isinstance(reported, dict) else {}


def _section(reported: Mapping[str, Any]) -> str:
    """One benchmark: where and how it ran, its tables, its notes."""
    name = reported["benchmark"]
    settings = ", ".join(f"{what} {_plain(value)}" for what, value in reported["configuration"].items())
    parts = [f"### `benchmarks.{name}`", in_words(reported["circumstances"]), f"Configuration: {settings}."]
    for table in reported["tables"]:
        parts += [f"**{table['title']}**", in_markdown(table["head"], table["rows"])]
    if reported["notes"]:
        parts.append("\n".join(f"- {note}" for note in reported["notes"]))
    return "\n\n".join(parts)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, value)) if len(value) <= 3 else " ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run from the command line."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    page, *files = (Path(name) for name in sys.argv[1:])
    text = as_markdown(files)
    if page == Path("-"):
        print(text)
    else:
        put_into_page(text, page, MARKS)


if __name__ == "__main__":
    main()
