"""A page that shows a whole archive: a row a case, odd ones first; left-out cases; counts by scanner grid.

The page is one file: pictures are embedded, and nothing is fetched from elsewhere. An archive with more cases than a
page takes goes on in further ones. What the rows show is kept beside it, a line each, so that only cases that were
prepared anew are read again; it is written and read line by line, so that memory holds the rows alone.
"""

import hashlib
import html
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import ValidationError
from typing_extensions import override

from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.archive_rows import BINS, RANGE, Row, draw_row, oddities, usual_histograms
from zssmnet.report.palette import FAINT, INK, LINES, TRAINING_COLOUR, ZONES, Array
from zssmnet.report.thumbnails import drawing
from zssmnet.storage import Storage
from zssmnet.storage.keys import printable
from zssmnet.storage.records import Record, present_outputs, publish_recorded, read_record

NAME = "archive"
PAGE, ROWS = f"{NAME}.html", f"{NAME}-rows.jsonl"
METHOD = 1
"""Raised whenever the same prepared case would give another row."""
MOST_THREADS = 8
MOST_ROWS = 1500
"""Cases on a page, some 10 kB each."""
_HEIGHT, _TALLEST = 20, 0.33
"""A histogram's height in units of its drawing, and the share of the voxels at its upper end."""


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
        return name == NAME and keys == [ROWS, *(page_key(number) for number in range(len(keys) - 1))]


def publish_archive_page(
    data: Storage,
    reports: Storage,
    records: Sequence[PreparedCase],
    left_out: Sequence[tuple[str, str]],
    advance: Callable[[], object] = lambda: None,
) -> list[tuple[Row, list[str]]]:
    """Publish ``archive.html``, and what it goes on in; only cases that were prepared anew are read, several at a time.

    Args:
        left_out: ids of other cases, and the reasons.

    Returns:
        The rows in the page's order, each with what is odd about it.

    Raises:
        StorageError: a file cannot be read or written.
    """
    reports.sweep()
    known = read_record(reports, NAME, ArchivePage)
    known = known if known and known.method == METHOD else None
    earlier = {row.source: row for row in _rows(reports, known)} if known else {}

    def row(record: PreparedCase) -> Row:
        made = earlier.get(record.identity()) or draw_row(record, data)
        advance()
        return made

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as threads:
        rows = tuple(threads.map(row, records))
    ordered = in_order(rows)
    source = hashlib.sha256(f"{[row.source for row in rows]}{archive_page([], left_out)}".encode()).hexdigest()
    if not (known and known.source == source and present_outputs(reports, known.outputs)):
        record = ArchivePage(method=METHOD, inputs=(), outputs=(), source=source)
        files = {ROWS: partial(_write, (f"{row.model_dump_json()}\n" for row in rows))}
        for number in range(page_count(ordered)):
            files[page_key(number)] = partial(_write, _page(ordered, left_out, number))
        publish_recorded(reports, NAME, record, files, (output.key for output in (known.outputs if known else ())))
    return ordered


def _rows(reports: Storage, known: ArchivePage) -> list[Row]:
    """The rows that are there; none if they are not those of the record."""
    if present_outputs(reports, known.outputs[:1]) is None:
        return []
    try:
        with reports.local(ROWS).open("rb") as lines:
            return [Row.model_validate_json(line) for line in lines]
    except ValidationError:
        return []


def _write(parts: Iterable[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def page_key(number: int) -> str:
    """File name of a page, counted from 0."""
    return f"{NAME}-{number + 1}.html" if number else PAGE


def page_count(rows: Sequence[object]) -> int:
    """Number of pages that so many cases take."""
    return max(1, math.ceil(len(rows) / MOST_ROWS))


def in_order(rows: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """Rows with what is odd about them, those with most of it first."""
    paired = list(zip(rows, oddities(rows), strict=True))
    return sorted(paired, key=lambda pair: (-len(pair[1]), pair[0].case_id))


def summary_of(rows: Sequence[tuple[Row, list[str]]], left_out: int) -> str:
    """The page in a line."""
    return f"{len(rows)} cases, {sum(bool(remarks) for _, remarks in rows)} with something odd, {left_out} left out"


def archive_page(rows: Sequence[tuple[Row, list[str]]], left_out: Sequence[tuple[str, str]], number: int = 0) -> str:
    """A page, HTML; rows of all pages in the order in which they are given, and the page's number from 0."""
    return "".join(_page(rows, left_out, number))


def _page(rows: Sequence[tuple[Row, list[str]]], left_out: Sequence[tuple[str, str]], number: int) -> Iterator[str]:
    shown = rows[number * MOST_ROWS : (number + 1) * MOST_ROWS]
    if page_count(rows) > 1:
        links = (f"<a href={page_key(one)}>{one + 1}</a>" for one in range(page_count(rows)) if one != number)
        pages = f"<p>Page {number + 1} of {page_count(rows)}, odd cases first; others: {' '.join(links)}</p>"
    else:
        pages = ""
    out = "".join(f"<tr><td>{escaped(case_id)}<td>{escaped(reason)}" for case_id, reason in sorted(left_out))
    grids = Counter((row.spacing_before, row.size_before[:2]) for row, _ in rows)
    counts = "".join(
        f"<tr><td>{count}<td>{_by(spacing)} mm<td>{_by(size)}" for (spacing, size), count in grids.most_common()
    )
    head = (
        f"<h1>{summary_of(rows, len(left_out))}</h1><p>Middle slice of the gland; {legend()}. Histograms of T2W, ADC "
        f"and DWI around the gland: the case's in colour, the archive's median in grey, from 0 to {RANGE:g} times the "
        "gland's median. Odd is a warning, or what lies far from the archive's median; most of it comes first.</p>"
        + (f"<h2>Left out</h2><table>{out}</table>" if out else "")
        + f"<details><summary>{len(grids)} scanner grids</summary><table>{counts}</table></details>"
        f"{pages}{_usual(rows)}<table class=cases><tr><th>case<th>T2W, ADC, DWI<th>histograms: T2W, ADC, DWI<th>gland"
        "<th>remarks"
    )
    drawn = (_row(place, row, remarks) for place, (row, remarks) in enumerate(shown))
    return document(f"Archive: {len(rows)} cases", chain([head], drawn, [f"</table>{pages}"]))


def document(title: str, body: Iterable[str]) -> Iterator[str]:
    """An HTML page of ours around a body, in parts."""
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    yield f"<style>{_STYLE}</style>"
    yield from body
    yield "</html>\n"


def legend() -> str:
    """The colours of the zones' outlines, HTML."""
    return ", ".join(f'<span style="color:{colour}">▬</span> {name}' for colour, name in ZONES)


def _row(number: int, row: Row, remarks: Sequence[str]) -> str:
    picture = drawing(row.picture, [row.outlines] * len(row.histograms), f"z{number}")
    curves = "".join(
        f'<svg class=hist viewBox="0 0 {BINS - 1} {_HEIGHT}" preserveAspectRatio=none><use href="#usual-{channel}"/>'
        f'<polyline points="{_points(shares)}"/></svg>'
        for channel, shares in enumerate(row.histograms)
    )
    return (
        f"<tr><td><b>{escaped(row.case_id)}</b><br>subset {row.subset}<br>{_by(row.spacing_before)} mm"
        f"<br>{_by(row.size_before)}<td>{picture}<td>{curves}"
        f"<td>{row.gland_ml:.0f} ml<br>PZ {row.peripheral_ml:.0f}, TZ {row.transition_ml:.0f}"
        f"<td class=odd>{'<br>'.join(map(escaped, remarks))}"
    )


def _usual(rows: Sequence[tuple[Row, list[str]]]) -> str:
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


def escaped(value: str) -> str:
    """A value as text of HTML, of one line."""
    return html.escape(printable(value))


_STYLE = (
    f"body{{font:14px system-ui,sans-serif;color:{INK};margin:24px}}table{{border-collapse:collapse}}"
    f"td,th{{padding:6px 12px;border-bottom:1px solid {LINES};text-align:left;vertical-align:top}}"
    "tr{content-visibility:auto}.cases td{white-space:nowrap}"
    ".cases .odd{white-space:normal;color:#b3261e;max-width:360px}"
    ".pic{display:block;background:#000}.hist{width:96px;height:72px;margin-right:8px}"
    f"polyline{{fill:none;stroke:{TRAINING_COLOUR};stroke-width:1.5;vector-effect:non-scaling-stroke}}"
    f".usual{{stroke:{FAINT};opacity:.6}}p{{max-width:900px}}summary{{cursor:pointer;margin:12px 0}}"
    "@media(max-width:1500px){.cases .pic{width:288px!important}.hist{width:64px;height:48px;margin-right:4px}}"
)
