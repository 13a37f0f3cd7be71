"""A page that shows a whole archive: a row a case, odd ones first; left-out cases; counts by scanner grid.

An archive with more cases than a page takes goes on in further ones. What the rows show is kept beside it, so that
only cases that were prepared anew are read again.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from typing_extensions import override

from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.archive_rows import BINS, RANGE, CaseRow, draw_row, oddities, usual_histograms
from zssmnet.report.page import LEGEND, as_lines, case_row, cases_page, draw_all, escaped, kept_rows, volumes
from zssmnet.report.palette import Array
from zssmnet.report.thumbnails import drawing, strokes
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
_COLUMNS = ("case", "T2W, ADC, DWI", "histograms: T2W, ADC, DWI", "gland", "remarks")

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
        return name == NAME and keys == [ROWS, *_page_keys(MOST_ROWS * (len(keys) - 1))]


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
    outputs = known.outputs if known else ()
    if known and (known.method != METHOD or not present_outputs(reports, outputs[:1])):
        known = None
    earlier = {row.source: row for row in kept_rows(reports, ROWS, CaseRow)} if known else {}
    rows = draw_all(lambda record: earlier.get(record.identity()) or draw_row(record, data), records, advance)
    ordered = in_order(rows)
    source = hashlib.sha256(f"{[row.source for row in rows]}{archive_page([], left_out)}".encode()).hexdigest()
    if not (known and known.source == source and present_outputs(reports, outputs)):

        def write_rows(path: Path) -> None:
            with path.open("wb") as file:
                file.writelines(as_lines(rows))

        def write_page(number: int, path: Path) -> None:
            path.write_text(archive_page(ordered, left_out, number), "utf-8")

        pages = {key: partial(write_page, number) for number, key in enumerate(_page_keys(len(rows)))}
        record = ArchivePage(method=METHOD, inputs=(), outputs=(), source=source)
        publish_recorded(reports, NAME, record, {ROWS: write_rows, **pages}, (output.key for output in outputs))
    return ordered


def _page_keys(cases: int) -> list[str]:
    """File names of the pages of so many cases; there is one at least."""
    return [PAGE, *(f"{NAME}-{number}.html" for number in range(2, math.ceil(cases / MOST_ROWS) + 1))]


def in_order(rows: Sequence[CaseRow]) -> list[JudgedRow]:
    """Rows with what is odd about them, those with most of it first."""
    paired = list(zip(rows, oddities(rows), strict=True))
    return sorted(paired, key=lambda pair: (-len(pair[1]), pair[0].case_id))


def archive_page(rows: Sequence[JudgedRow], left_out: Sequence[tuple[str, str]], number: int = 0) -> str:
    """A page, counted from 0, HTML; rows in the order in which they are given."""
    shown = rows[number * MOST_ROWS : (number + 1) * MOST_ROWS]
    keys, pages = _page_keys(len(rows)), ""
    if len(keys) > 1:
        links = (f"<a href={key}>{one}</a>" for one, key in enumerate(keys, start=1) if one != number + 1)
        pages = f"<p>Page {number + 1} of {len(keys)}, odd cases first; others: {' '.join(links)}</p>"
    out = "".join(f"<tr><td>{escaped(case_id)}<td>{escaped(reason)}" for case_id, reason in sorted(left_out))
    grids = Counter((row.spacing_before, row.size_before[:2]) for row, _ in rows)
    counts = "".join(
        f"<tr><td>{count}<td>{_by(spacing)} mm<td>{_by(size)}" for (spacing, size), count in grids.most_common()
    )
    usual = "".join(  # drawn once, for all rows to use
        f'<polyline id="usual-{channel}" class=usual points="{_points(shares)}"/>'
        for channel, shares in enumerate(usual_histograms([row for row, _ in rows]))
    )
    odd = sum(bool(remarks) for _, remarks in rows)
    head = (
        f"<h1>{len(rows)} cases, {odd} with something odd, {len(left_out)} left out</h1>"
        f"<p>Middle slice of the gland; {LEGEND}. Histograms of T2W, ADC "
        f"and DWI around the gland: the case's in colour, the archive's median in grey, from 0 to {RANGE:g} times the "
        "gland's median. Odd is a warning, or what lies far from the archive's median; the oddest cases come first.</p>"
        + (f"<h2>Left out</h2><table>{out}</table>" if out else "")
        + f"<details><summary>{len(grids)} scanner grids</summary><table>{counts}</table></details>{pages}"
        f"<svg width=0 height=0 style=position:absolute><defs>{usual}</defs></svg>"
    )
    return cases_page(f"Archive: {len(rows)} cases", head, _COLUMNS, map(_row, count(), shown), pages)


def _row(number: int, judged: JudgedRow) -> str:
    row, remarks = judged
    zones = [f'<g id="z{number}">{strokes(row.outlines)}</g>', *[f'<use href="#z{number}"/>'] * 2]  # the same in all
    curves = "".join(
        f'<svg class=hist viewBox="0 0 {BINS - 1} {_HEIGHT}" preserveAspectRatio=none><use href="#usual-{channel}"/>'
        f'<polyline points="{_points(shares)}"/></svg>'
        for channel, shares in enumerate(row.histograms)
    )
    details = f"subset {row.subset}", f"{_by(row.spacing_before)} mm", _by(row.size_before)
    cells = drawing(row.picture, zones), curves, volumes(row.peripheral_ml, row.transition_ml)
    return case_row(row.case_id, details, cells, remarks)


def _points(shares: Sequence[float] | Array) -> str:
    heights = (_HEIGHT * (1 - min(float(share), _TALLEST) / _TALLEST) for share in shares)
    return " ".join(f"{index},{height:.1f}".removesuffix(".0") for index, height in enumerate(heights))


def _by(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:.4g}" for number in numbers)
