"""A client's view of a running service: start runs, wait for them, see what they left."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import s3fs
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.stack import LocalStack
from tests.deployments import stack_fixture

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600


class Service:
    """The stack, and a client of its server."""

    def __init__(self, stack: LocalStack | None, client: SyncPrefectClient) -> None:
        self._stack = stack
        self.client = client

    @property
    def stack(self) -> LocalStack:
        """The stack, if this machine's."""
        assert self._stack
        return self._stack

    def start(self, name: str, parameters: Mapping[str, Any]) -> FlowRun:
        """Start a run of the deployment ``name/name``."""
        deployment = self.client.read_deployment_by_name(f"{name}/{name}")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters))

    def state(self, run: FlowRun) -> tuple[str, str]:
        """Name and message of a run's state."""
        state = self.client.read_flow_run(run.id).state
        assert state
        return state.name or "", state.message or ""

    def states(self, run: FlowRun) -> list[tuple[str, str]]:
        """Names and messages of all states that a run went through, in order."""
        states = self.client.read_flow_run_states(run.id)
        return [(one.name or "", one.message or "") for one in sorted(states, key=lambda one: one.timestamp)]

    def ended(self, run: FlowRun) -> tuple[str, str]:
        """Name and message of a run's last state, when it has ended."""
        self.until(lambda: bool((state := self.client.read_flow_run(run.id).state) and state.is_final()))
        return self.state(run)

    def children(self, run: FlowRun, flow: str) -> list[FlowRun]:
        """Runs of a flow that a run has started as subflows, in order."""
        found = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=50,
        )
        flows = {one.flow_id: self.client.read_flow(one.flow_id).name for one in found}
        return [one for one in found if flows[one.flow_id] == flow]

    def tasks(self, run: FlowRun) -> list[str]:
        """Names of a run's tasks."""
        found = self.client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id])), limit=200
        )
        return sorted(one.name for one in found)

    def all_tasks(self, run: FlowRun, name: str) -> list[tuple[str, str]]:
        """Name and type of state of all tasks of a run whose name has this in it, page by page."""
        found: list[tuple[str, str]] = []
        while page := self._post(
            "/task_runs/filter", {**_tasks_of(run, name), "sort": "ID_DESC", "offset": len(found)}
        ):
            found += [(one["name"], one["state_type"]) for one in page]
        return found

    def count_tasks(self, run: FlowRun, name: str, states: list[str]) -> int:
        """Number of a run's tasks in these types of state whose name has this in it."""
        wanted = _tasks_of(run, name)
        wanted["task_runs"]["state"] = {"type": {"any_": states}}
        return int(self._post("/task_runs/count", wanted))

    def count_open(self) -> int:
        """Number of runs of flows and tasks that have not ended."""
        running = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]}}}
        flows, tasks = {"flow_runs": running}, {"task_runs": running}
        return int(self._post("/flow_runs/count", flows)) + int(self._post("/task_runs/count", tasks))

    def log(self, run: FlowRun) -> str:
        """A run's log."""
        found = self.client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200, offset=0, sort=LogSort.TIMESTAMP_ASC
        )
        return "\n".join(one.message for one in found)

    def artifacts(self, run: FlowRun) -> dict[str | None, Artifact]:
        """The latest artifact of each key of a run."""
        wanted = {"flow_run_id": {"any_": [str(run.id)]}}
        found = self._post("/artifacts/filter", {"artifacts": wanted, "sort": "UPDATED_DESC"})
        return {one.key: one for one in map(Artifact.model_validate, reversed(found))}

    def events(self, name: str) -> list[dict[str, Any]]:
        """All events of a name, the latest first."""
        found: list[dict[str, Any]] = self._post("/events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return found

    def runs_of(self, name: str) -> list[FlowRun]:
        """All runs of a deployment, the latest first."""
        deployment = self.client.read_deployment_by_name(f"{name}/{name}")
        body = {"sort": "EXPECTED_START_TIME_DESC", "deployments": {"id": {"any_": [str(deployment.id)]}}, "limit": 50}
        return [FlowRun.model_validate(one) for one in self._post("/flow_runs/filter", body)]

    def processes_of(self, service: str) -> list[int]:
        """All processes that a worker has started, itself aside."""
        return stack_fixture.processes_of(self.stack, service)

    def process_of(self, run: FlowRun, service: str) -> int:
        """The process of a run, which this worker has started."""
        reported = f"PREFECT__FLOW_RUN_ID={run.id}".encode()
        (found,) = (one for one in self.processes_of(service) if stack_fixture.was_given(one, reported))
        return found

    def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened within {patience_s} s"
            time.sleep(0.5)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.client.request("POST", path, json=body).json()  # type: ignore[arg-type]


@contextmanager
def connected(stack: LocalStack) -> Iterator[Service]:
    """A client of a stack that runs, with the environment and the settings that lead to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment.items():
            if name.startswith(("AWS_", "ZSSMNET_")) or name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
                patch.setenv(name, value)
        settings = {
            PREFECT_API_URL: stack.environment["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: stack.environment["PREFECT_API_AUTH_STRING"],
        }
        with temporary_settings(settings), get_client(sync_client=True) as client:
            _forget_other_servers()
            yield Service(stack, client)
            _forget_other_servers()


def _forget_other_servers() -> None:
    """Those that other tests of this process have talked to: their connections are kept by s3fs and Prefect."""
    s3fs.S3FileSystem.clear_instance_cache()
    EventsWorker.drain_all()


def _tasks_of(run: FlowRun, name: str) -> dict[str, Any]:
    return {"task_runs": {"flow_run_id": {"any_": [str(run.id)]}, "name": {"like_": name}}}


def flow_run_id(output: str) -> UUID:
    """The id that ``prefect deployment run`` prints."""
    (line,) = [line for line in output.splitlines() if "UUID:" in line]
    return UUID(line.split()[-1])
