"""Task that publishes the page of the whole archive, and a summary of it as an artifact."""

from collections.abc import Mapping, Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.markdown import code, text
from zssmnet.report.archive_page import PAGE, publish_archive_page
from zssmnet.storage import open_storage


@task(task_run_name="archive-page", cache_policy=NO_CACHE, persist_result=False)
def archive_page(data_path: str, reports_path: str, case_ids: Sequence[str], left_out: Mapping[str, str]) -> str:
    """Show all cases on one page; its address."""
    reports = open_storage(reports_path)
    summary = publish_archive_page(open_storage(data_path), reports, case_ids, left_out)
    create_markdown_artifact(
        key="archive",
        markdown=f"{text(summary)}: {code(reports.where(PAGE))}",
        description="All cases on one page, odd ones first",
    )
    return reports.where(PAGE)
