"""Pages of which a part is written by programs: that between two marks."""

from collections.abc import Sequence
from pathlib import Path


def put_into_page(text: str, page: Path, marks: tuple[str, str]) -> None:
    """Replace what stands between the two marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise SystemExit(f"{page}: has no place for this, between {marks[0]} and {marks[1]}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def in_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
