"""What the server knows of runs. Each works in folders of its own, by which tests find theirs among all others.

Prefect sends log lines and the states of tasks some time after they were made, so tests wait for them.
"""

import time
from collections.abc import Callable
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, Log
from prefect.client.schemas.sorting import FlowRunSort, LogSort

PATIENCE_S = 300


def runs_over(place: str | Path, last: bool = False) -> dict[str, FlowRun]:
    """The first, or the last, flow runs over a folder, by their flows' names: a run is named after its flow first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)
    return {
        run.name.split(" ")[0]: run
        for run in (reversed(found) if last else found)
        if any(f"{value}/".startswith(f"{place}/") for value in run.parameters.values())
    }


def artifacts_of(run: FlowRun) -> dict[str | None, Artifact]:
    """The artifacts of a run, by their keys."""
    with get_client(sync_client=True) as client:
        asked = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        response = client.request("POST", "/artifacts/filter", json=asked)
    return {artifact.key: artifact for artifact in map(Artifact.model_validate, response.json())}


def sections_of(run: FlowRun) -> dict[str, str]:
    """The sections of a run's page, by their titles."""
    page = "\n\n" + str(artifacts_of(run)["summary"].data)
    return {title: text for title, _, text in (part.partition("\n\n") for part in page.split("\n\n## ")[1:])}


def tasks_of(run: FlowRun) -> set[str]:
    """Names of a run's tasks, as far as the server has them."""
    with get_client(sync_client=True) as client:
        wanted = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
        return {task.name for task in client.read_task_runs(task_run_filter=wanted, limit=200)}


def logs_of(run: FlowRun) -> list[Log]:
    """A run's log, as far as the server has it."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        return client.read_logs(wanted, limit=200, offset=0, sort=LogSort.TIMESTAMP_ASC)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {PATIENCE_S} s"
        time.sleep(0.3)
