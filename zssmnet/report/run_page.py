"""The sections of a run's page on its data, in Markdown: cases that are used or not, and what is new."""

from collections.abc import Mapping, Sequence

from zssmnet.data.archive import shortened
from zssmnet.registry.changes import Changes
from zssmnet.report.markdown import code, table, text

_MOST_ROWS = 50


def cases_section(
    used: int, left_out: Mapping[str, str], warnings: Mapping[str, Sequence[str]], archive_page: str
) -> str:
    """Number of cases used, cases left out and with warnings, with reasons; address of the page of all cases."""
    lines = [f"**{used} of {used + len(left_out)} cases used**, all on one page: {code(archive_page)}"]
    lines += _cases(("left out", "reason"), left_out)
    lines += _cases(("used, with warnings", "warnings"), {case: "; ".join(found) for case, found in warnings.items()})
    return "\n\n".join(lines)


def changes_section(changes: Changes) -> str:
    """Changes of an archive since the published model was trained."""
    lines = [
        f"- {name}: {len(ids)}" + (f" ({text(shortened(ids))})" if ids else "")
        for name, ids in (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone))
    ]
    return "\n".join(["Since the last model was trained:", "", *lines])


def _cases(heads: Sequence[str], found: Mapping[str, str]) -> list[str]:
    if not found:
        return []
    shown = table(heads, [(code(case), text(reason)) for case, reason in list(found.items())[:_MOST_ROWS]])
    more = len(found) - _MOST_ROWS
    return [shown, f"and {more} more, on the page of all cases"] if more > 0 else [shown]
