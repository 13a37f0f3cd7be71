"""Shared parts of the HTML pages with a table of cases, each drawn in a thread.

A page is one file: pictures are embedded, and nothing is fetched from elsewhere.
"""

import html
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from zssmnet.errors import StorageError
from zssmnet.report.palette import FAINT, INK, LINES, TRAINING_COLOUR, ZONES
from zssmnet.storage import Storage
from zssmnet.storage.keys import printable

MOST_THREADS = 8
LEGEND = ", ".join(f'<span style="color:{colour}">▬</span> {name}' for colour, name in ZONES)
"""The colours of the zones' outlines, HTML."""
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
Case = TypeVar("Case")
Drawn = TypeVar("Drawn")
Row = TypeVar("Row", bound=BaseModel)


def draw_all(draw: Callable[[Case], Drawn], cases: Iterable[Case], advance: Callable[[], object]) -> list[Drawn]:
    """Draw each case, several at a time; ``advance`` is called after each."""

    def drawn(case: Case) -> Drawn:
        made = draw(case)
        advance()  # in the thread: an error here, too, cancels those that are not begun
        return made

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as threads:
        return list(threads.map(drawn, cases))


def kept_rows(reports: Storage, key: str, kind: type[Row]) -> list[Row]:
    """What an earlier run kept of the rows beside its page, by `as_lines`; nothing if it cannot be read."""
    try:
        with reports.local(key).open("rb") as lines:
            return [kind.model_validate_json(line) for line in lines]
    except (StorageError, OSError, ValidationError):
        return []


def as_lines(rows: Iterable[BaseModel]) -> Iterator[bytes]:
    """Rows to keep, a line of JSON each; one after the other, since a row is some 10 kB."""
    return (f"{row.model_dump_json()}\n".encode() for row in rows)


def cases_page(title: str, head: str, columns: Sequence[str], rows: Iterable[str], foot: str = "") -> str:
    """A page of HTML around rows of `case_row`; all parts are HTML already."""
    table = f"<table class=cases><tr><th>{'<th>'.join(columns)}{''.join(rows)}</table>"
    start = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    return f"{start}{head}{table}{foot}</html>\n"


def case_row(case_id: str, details: Sequence[str], cells: Sequence[str], remarks: Sequence[str]) -> str:
    """A row of a table of cases.

    Args:
        details: lines below the id, HTML.
        cells: between the id and the remarks, HTML.
    """
    first = "<br>".join([f"<b>{escaped(case_id)}</b>", *details])
    return f"<tr><td>{'<td>'.join([first, *cells])}<td class=odd>{'<br>'.join(map(escaped, remarks))}"


def volumes(peripheral_ml: float, rest_ml: float) -> str:
    """A cell with the gland's volume and its zones', HTML."""
    return f"{peripheral_ml + rest_ml:.0f} ml<br>PZ {peripheral_ml:.0f}, rest {rest_ml:.0f}"


def escaped(value: str) -> str:
    """A value as text of HTML, of one line."""
    return html.escape(printable(value))
