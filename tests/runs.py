"""What the server knows of runs. Each works in folders of its own, by which tests find theirs among all others."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import FlowRunSort


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
