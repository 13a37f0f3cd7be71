"""The table of all cases on the page of the run that prepared them."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from prefect.artifacts import create_table_artifact

from tasks.cases import Prepared
from tasks.markdown import text
from zssmnet.errors import CaseError
from zssmnet.preparation.prepare import PreparedCase

SHOWN_LETTERS = 32
"""What Prefect's UI shows of a cell when the other columns are to be seen as well."""
MOST_ROWS = 2000
"""The table is a field of Prefect's database, and the UI draws all of it."""


def show_table(faults: Sequence[CaseError], prepared: Sequence[Prepared], subset_of: Mapping[str, int]) -> None:
    """Show a table of all cases, those that are left out first, the reason before the file.

    Args:
        faults: cases that cannot be used.
        prepared: the others.
        subset_of: the subset of each case.
    """
    left_out = [
        row
        for one in faults
        for row in _rows(
            one.case_id, subset_of.get(one.case_id), "left out", f"{one.reason}: {PurePosixPath(one.file).name}"
        )
    ]
    used = [
        row
        for one, is_new in prepared
        for row in _rows(one.case_id, one.subset, "prepared" if is_new else "up to date", "; ".join(one.warnings), one)
    ]
    rows = left_out + used
    which = f"The first {MOST_ROWS} rows of {len(rows)}" if len(rows) > MOST_ROWS else "All cases"
    create_table_artifact(
        key="cases",
        table=rows[:MOST_ROWS],
        description=f"{which}, those left out first: what is odd, subset (0-4 training, 5 validation), size in voxels "
        "before and after.",
    )


def _rows(
    case_id: str, subset: int | None, state: str, remarks: str, record: PreparedCase | None = None
) -> Iterator[dict[str, str]]:
    """The row of a case; remarks that the UI would cut off go on in rows below."""
    first, *others = textwrap.wrap(remarks, SHOWN_LETTERS, break_long_words=False, break_on_hyphens=False) or [""]
    yield {
        "case": text(case_id),
        "state": state,
        "remarks": text(first),
        "subset": "" if subset is None else str(subset),
        "before": _voxels(record.size_before) if record else "",
        "after": _voxels(record.size_after) if record else "",
    }
    for more in others:
        yield {"case": "", "state": "", "remarks": text(more), "subset": "", "before": "", "after": ""}


def _voxels(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))
