"""Shared parts of the pages of an archive and of its masks: HTML around rows of cases, each drawn in a thread.

A page is one file: pictures are embedded, and nothing is fetched from elsewhere.
"""

import html
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zssmnet.report.palette import FAINT, INK, LINES, TRAINING_COLOUR, ZONES
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


def draw_all(draw: Callable[[Case], Drawn], cases: Iterable[Case], advance: Callable[[], object]) -> list[Drawn]:
    """Draw each case, several at a time; ``advance`` is called after each."""

    def drawn(case: Case) -> Drawn:
        made = draw(case)
        advance()
        return made

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as threads:
        return list(threads.map(drawn, cases))


def document(title: str, body: Iterable[str]) -> Iterator[str]:
    """An HTML page around a body, in parts."""
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    yield f"<style>{_STYLE}</style>"
    yield from body
    yield "</html>\n"


def case_row(
    case_id: str,
    details: Iterable[str],
    pictures: Iterable[str],
    volumes_ml: tuple[float, float],
    remarks: Sequence[str],
) -> str:
    """A row of a table of cases.

    Args:
        details: lines below the id, HTML.
        pictures: a cell each, HTML.
        volumes_ml: of the peripheral zone and of the rest of the gland.
    """
    peripheral, rest = volumes_ml
    cells = "".join(f"<td>{picture}" for picture in pictures)
    return (
        f"<tr><td>{'<br>'.join([f'<b>{escaped(case_id)}</b>', *details])}{cells}<td>{peripheral + rest:.0f} ml"
        f"<br>PZ {peripheral:.0f}, TZ {rest:.0f}<td class=odd>{'<br>'.join(map(escaped, remarks))}"
    )


def escaped(value: str) -> str:
    """A value as text of HTML, of one line."""
    return html.escape(printable(value))
