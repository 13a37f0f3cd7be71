"""The sections of a run's page on its data, in Markdown: cases that are used or not, and what is new."""

from collections.abc import Iterable, Mapping, Sequence

from zssmnet.data.archive import shortened
from zssmnet.registry.changes import Changes
from zssmnet.report.markdown import code, text

_MOST_ROWS = 50


def cases_section(
    used: int, left_out: Mapping[str, str], warnings: Mapping[str, Sequence[str]], archive_page: str
) -> str:
    """Number of cases used, cases left out and with warnings, with reasons; address of the page of all cases."""
    lines = [f"**{used} of {used + len(left_out)} cases used**, all on one page: {code(archive_page)}"]
    lines += _table("left out", "reason", left_out.items())
    lines += _table("used, with warnings", "warnings", ((case, "; ".join(found)) for case, found in warnings.items()))
    return "\n\n".join(lines)


def changes_section(changes: Changes) -> str:
    """Changes of an archive since the published model was trained."""
    lines = [
        f"- {name}: {len(ids)}" + (f" ({text(shortened(ids))})" if ids else "")
        for name, ids in (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone))
    ]
    return "\n".join(["Since the last model was trained:", "", *lines])


def _table(what: str, why: str, found: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(found)
    lines = [f"| {code(case)} | {text(reason)} |" for case, reason in rows[:_MOST_ROWS]]
    more = [f"and {len(rows) - _MOST_ROWS} more, on the page of all cases"] if len(rows) > _MOST_ROWS else []
    return ["\n".join([f"| {what} | {why} |", "| --- | --- |", *lines]), *more] if rows else []
