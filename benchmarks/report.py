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
ORDER = ("preparation", "cubes", "corruption", "training", "loss_curves", "orchestration", "gpu")


def as_markdown(files: list[Path]) -> str:
    """All results, in the order of the pipeline."""
    found = [told for file in files if "benchmark" in (told := _read(file))]
    found.sort(key=lambda told: ORDER.index(told["benchmark"]) if told["benchmark"] in ORDER else len(ORDER))
    return "\n\n".join(_section(told) for told in found)


def _read(file: Path) -> dict[str, Any]:
    told = json.loads(file.read_text(encoding="utf-8"))
    return told if isinstance(told, dict) else {}


def _section(told: Mapping[str, Any]) -> str:
    """One benchmark: where and how it ran, its tables, its notes."""
    name = told["benchmark"]
    settings = ", ".join(f"{what} {_plain(value)}" for what, value in told["configuration"].items())
    parts = [f"### `benchmarks.{name}`", in_words(told["circumstances"]), f"Configuration: {settings}."]
    for table in told["tables"]:
        parts += [f"**{table['title']}**", in_markdown(table["head"], table["rows"])]
    if told["notes"]:
        parts.append("\n".join(f"- {note}" for note in told["notes"]))
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
