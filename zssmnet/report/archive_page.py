"""A page that shows a whole archive: a row a case, odd ones first; left-out cases; counts by scanner grid.

The page is one file: pictures are embedded, and nothing is fetched from elsewhere. An archive with more cases than a
page takes goes on in further ones. What the rows show is kept beside it, a line each, so that only cases that were
prepared anew are read again; it is written and read line by line, so that memory holds the rows alone.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import ValidationError
from typing_extensions import override

from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.archive_rows import BINS, RANGE, CaseRow, draw_row, oddities, usual_histograms
from zssmnet.report.page import LEGEND, case_row, document, draw_all, escaped
from zssmnet.report.palette import Array
from zssmnet.report.thumbnails import drawing
from zssmnet.storage import Storage
from zssmnet.storage.records import Record, present_outputs, publish_recorded, read_record

NAME = "archive"
PAGE, ROWS = f"{NAME}.html", f"{NAME}-rows.jsonl"
METHOD = 1
"""Raised whenever the same prepared case would give another row."""
MOST_ROWS = 1500
"""Cases on a page, some 10 kB each."""
_HEIGHT, _TALLEST = 20, 0.33
"""A histogram's height in units of its drawing, and the share of the voxels at its upper end."""

JudgedRow = tuple[CaseRow, list[str]]
"""A case's row, and what is odd about it."""


class ArchivePage(Record):
    """The record of the rows, of the page, and of those on which it goes on.

    Attributes:
        source: digest of what the pages were made from, by which they need not be made to find that they are up to
            date.
    """

    source: str

    @override
    def is_valid_for(self, name: str) -> bool:
        keys = [output.key for output in self.outputs]
        return name == NAME and keys == [ROWS, *_page_keys(len(keys) - 1)]


def publish_archive_page(
    data: Storage,
    reports: Storage,
    records: Sequence[PreparedCase],
    left_out: Sequence[tuple[str, str]],
    advance: Callable[[], object] = lambda: None,
) -> list[JudgedRow]:
    """Publish ``archive.html``, and what it goes on in; only cases that were prepared anew are read, several at a time.

    Args:
        left_out: ids of other cases, and the reasons.

    Returns:
        The rows in the page's order.

    Raises:
        StorageError: a file cannot be read or written.
    """
    reports.sweep()
    known = read_record(reports, NAME, ArchivePage)
    known = known if known and known.method == METHOD else None
    earlier = {row.source: row for row in _rows(reports, known)} if known else {}
    rows = draw_all(lambda record: earlier.get(record.identity()) or draw_row(record, data), records, advance)
    ordered = in_order(rows)
    source = hashlib.sha256(f"{[row.source for row in rows]}{archive_page([], left_out)}".encode()).hexdigest()
    if not (known and known.source == source and present_outputs(reports, known.outputs)):
        record = ArchivePage(method=METHOD, inputs=(), outputs=(), source=source)
        files = {ROWS: partial(_write, (f"{row.model_dump_json()}\n" for row in rows))}
        for number, key in enumerate(_page_keys(math.ceil(len(rows) / MOST_ROWS))):
            files[key] = partial(_write, _page(ordered, left_out, number))
        publish_recorded(reports, NAME, record, files, (output.key for output in (known.outputs if known else ())))
    return ordered


def _rows(reports: Storage, known: ArchivePage) -> list[CaseRow]:
    """The rows that are there; none if they are not those of the record."""
    if present_outputs(reports, known.outputs[:1]) is None:
        return []
    try:
        with reports.local(ROWS).open("rb") as lines:
            return [CaseRow.model_validate_json(line) for line in lines]
    except ValidationError:
        return []


def _write(parts: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def _page_keys(count: int) -> list[str]:
    """File names of that many pages, or of the one that there is at least."""
    return [PAGE, *(f"{NAME}-{number}.html" for number in range(2, count + 1))]


def in_order(rows: Sequence[CaseRow]) -> list[JudgedRow]:
    """Rows with what is odd about them, those with most of it first."""
    paired = list(zip(rows, oddities(rows), strict=True))
    return sorted(paired, key=lambda pair: (-len(pair[1]), pair[0].case_id))


def summary_of(rows: Sequence[JudgedRow], left_out: int) -> str:
    """One-line summary of the page."""
    return f"{len(rows)} cases, {sum(bool(remarks) for _, remarks in rows)} with something odd, {left_out} left out"


def archive_page(rows: Sequence[JudgedRow], left_out: Sequence[tuple[str, str]]) -> str:
    """The first page, HTML; rows in the order in which they are given."""
    return "".join(_page(rows, left_out, 0))


def _page(rows: Sequence[JudgedRow], left_out: Sequence[tuple[str, str]], number: int) -> Iterator[str]:
    """A page, counted from 0, in parts."""
    shown = rows[number * MOST_ROWS : (number + 1) * MOST_ROWS]
    keys, pages = _page_keys(math.ceil(len(rows) / MOST_ROWS)), ""
    if len(keys) > 1:
        links = (f"<a href={key}>{one}</a>" for one, key in enumerate(keys, start=1) if one != number + 1)
        pages = f"<p>Page {number + 1} of {len(keys)}, odd cases first; others: {' '.join(links)}</p>"
    out = "".join(f"<tr><td>{escaped(case_id)}<td>{escaped(reason)}" for case_id, reason in sorted(left_out))
    grids = Counter((row.spacing_before, row.size_before[:2]) for row, _ in rows)
    counts = "".join(
        f"<tr><td>{count}<td>{_by(spacing)} mm<td>{_by(size)}" for (spacing, size), count in grids.most_common()
    )
    head = (
        f"<h1>{summary_of(rows, len(left_out))}</h1><p>Middle slice of the gland; {LEGEND}. Histograms of T2W, ADC "
        f"and DWI around the gland: the case's in colour, the archive's median in grey, from 0 to {RANGE:g} times the "
        "gland's median. Odd is a warning, or what lies far from the archive's median; most of it comes first.</p>"
        + (f"<h2>Left out</h2><table>{out}</table>" if out else "")
        + f"<details><summary>{len(grids)} scanner grids</summary><table>{counts}</table></details>"
        f"{pages}{_usual(rows)}<table class=cases><tr><th>case<th>T2W, ADC, DWI<th>histograms: T2W, ADC, DWI<th>gland"
        "<th>remarks"
    )
    drawn = (_row(place, row, remarks) for place, (row, remarks) in enumerate(shown))
    return document(f"Archive: {len(rows)} cases", chain([head], drawn, [f"</table>{pages}"]))


def _row(number: int, row: CaseRow, remarks: Sequence[str]) -> str:
    curves = "".join(
        f'<svg class=hist viewBox="0 0 {BINS - 1} {_HEIGHT}" preserveAspectRatio=none><use href="#usual-{channel}"/>'
        f'<polyline points="{_points(shares)}"/></svg>'
        for channel, shares in enumerate(row.histograms)
    )
    details = f"subset {row.subset}", f"{_by(row.spacing_before)} mm", _by(row.size_before)
    pictures = drawing(row.picture, [row.outlines] * len(row.histograms), f"z{number}"), curves
    return case_row(row.case_id, details, pictures, (row.peripheral_ml, row.transition_ml), remarks)


def _usual(rows: Sequence[JudgedRow]) -> str:
    """The archive's histograms, drawn once, for all rows to use."""
    curves = "".join(
        f'<polyline id="usual-{channel}" class=usual points="{_points(shares)}"/>'
        for channel, shares in enumerate(usual_histograms([row for row, _ in rows]))
    )
    return f"<svg width=0 height=0 style=position:absolute><defs>{curves}</defs></svg>"


def _points(shares: Sequence[float] | Array) -> str:
    heights = (_HEIGHT * (1 - min(float(share), _TALLEST) / _TALLEST) for share in shares)
    return " ".join(f"{index},{height:.1f}".removesuffix(".0") for index, height in enumerate(heights))


def _by(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:.4g}" for number in numbers)
