"""Task that publishes the page of the whole archive, and shows its first rows as an artifact."""

from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.markdown import code, text
from tasks.progress import display
from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.archive_page import PAGE, publish_archive_page, summary_of
from zssmnet.report.archive_rows import CaseRow
from zssmnet.storage import open_storage

STAGE = "page"
_SHOWN = 20
"""Rows of the artifact: it is a field of Prefect's database."""


@task(task_run_name="archive-page", cache_policy=NO_CACHE, persist_result=False)
def archive_page(
    data_path: str,
    reports_path: str,
    records: Sequence[PreparedCase],
    left_out: Sequence[tuple[str, str]],
    shown_in_run: bool = True,
) -> str:
    """Show all cases on one page, odd ones first; its address. Where nothing is new the run need not show it again."""
    shown, reports = display(), open_storage(reports_path)
    shown.begin(STAGE, len(records), "cases")
    rows = publish_archive_page(open_storage(data_path), reports, records, left_out, lambda: shown.advance(STAGE))
    if not shown_in_run:
        return reports.where(PAGE)
    lines = [f"{text(summary_of(rows, len(left_out)))}: {code(reports.where(PAGE))}", "", *_table(rows[:_SHOWN])]
    create_markdown_artifact(
        key="archive", markdown="\n".join(lines), description="All cases on one page, odd ones first; here the first"
    )
    return reports.where(PAGE)


def _table(rows: Sequence[tuple[CaseRow, list[str]]]) -> list[str]:
    head = ["| case | T2W, ADC, DWI | gland, ml | remarks |", "| --- | --- | --- | --- |"]
    return [*head, *(_line(row, remarks) for row, remarks in rows)] if rows else []


def _line(row: CaseRow, remarks: Sequence[str]) -> str:
    picture = f"![](data:image/jpeg;base64,{row.picture})"
    return f"| {text(row.case_id)} | {picture} | {row.gland_ml:.0f} | {text('; '.join(remarks))} |"
