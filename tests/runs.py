"""What the server knows of runs: each has a folder of its own, by which tests find theirs among all of the session."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import FlowRunSort


def runs_over(place: str | Path) -> dict[str, FlowRun]:
    """The first flow runs over a folder, by their flows' names: a run is named after its flow and what it works on."""
    named = FlowRunFilter(name=FlowRunFilterName(like_=str(place)))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=200)
    return {run.name.split(" ")[0]: run for run in found if f"{place}/" in f"{run.name}/"}


def artifacts_of(run: FlowRun) -> dict[str | None, Artifact]:
    """The artifacts of a run, by their keys."""
    with get_client(sync_client=True) as client:
        asked = {"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        response = client.request("POST", "/artifacts/filter", json=asked)
    return {artifact.key: artifact for artifact in map(Artifact.model_validate, response.json())}
