"""What the server does by itself about runs that crash or are lost, on a real Prefect server without workers.

The tests stand in for workers and runs: they set the states that these would set, and send their heartbeats.
"""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, InfrastructurePending, Pending, Running
from prefect.states import State as StateOfAnything

from deployments.automations import STARTS, automations, make
from flows.pretrain import pretrain
from tasks.hand_off import WORK_QUEUE, _send

State = StateOfAnything[Any]
PARAMETERS = {"cubes_path": "s3://bucket/cubes", "output_path": "s3://bucket/weights"}
SOON = timedelta(seconds=10)
"""The least that Prefect takes."""
PATIENCE_S = 60
TAKEN = (Pending(), Running())


class Server:
    """A server with the automations, and one deployment that nobody serves."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        client.create_work_pool(WorkPoolCreate(name="lonely", type="process"))
        flow_id = client.create_flow(pretrain)
        self._deployment = client.create_deployment(
            flow_id, name="lonely", work_pool_name="lonely", enforce_parameter_schema=False
        )

    def run(self, *states: State) -> FlowRun:
        """A run that a user has started, in the last of these states."""
        return self.let(self._client.create_flow_run_from_deployment(self._deployment, parameters=PARAMETERS), *states)

    def handed_over(self, *states: State) -> FlowRun:
        """A run that a parent has sent, in the last of these states."""

        @task
        def send() -> FlowRun:
            return _send(self._client, "pretrain/lonely", PARAMETERS)

        @flow
        def parent() -> FlowRun:
            return send()

        return self.let(parent(), *states)

    def within_a_process(self, *states: State) -> FlowRun:
        """A run without a deployment, such as a subflow within its parent's process, in the last of these states."""
        return self.let(self._client.create_flow_run(pretrain, parameters=PARAMETERS), *states)

    def let(self, run: FlowRun, *states: State) -> FlowRun:
        """Let a run go through states."""
        for state in states:
            self._client.set_flow_run_state(run.id, state)
        return run

    def state(self, run: FlowRun) -> State:
        state = self._client.read_flow_run(run.id).state
        assert state
        return state

    def until(self, run: FlowRun, name: str) -> State:
        """Wait until a run is in a state."""
        self._until(lambda: self.state(run).name == name)
        return self.state(run)

    def settle(self) -> None:
        """Wait until whatever the crashes so far bring about has happened: that of one more has."""
        self.until(self.run(*TAKEN, Crashed()), "AwaitingRetry")

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.2)


def heartbeat(run: FlowRun) -> None:
    emit_event("prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"})


@pytest.fixture(scope="module")
def server(prefect_api: str) -> Iterator[Server]:
    with get_client(sync_client=True) as client:
        made = [make(client, one) for one in automations(SOON, SOON)]
        assert all(made)
        yield Server(client)
        for one in client.read_automations():
            client.delete_automation(one.id)


@pytest.fixture(scope="module")
def lost(server: Server) -> dict[str, FlowRun]:
    """Runs of which nothing more is heard; what becomes of them is seen later."""
    runs = {
        "running": server.run(*TAKEN),
        "subflow": server.within_a_process(*TAKEN),
        "pending": server.run(Pending()),
        "image": server.run(Pending(), InfrastructurePending()),
        "handed over": server.handed_over(Pending()),
        "cancelling": server.run(*TAKEN, Cancelling()),
        "cancelling, but alive": server.run(*TAKEN, Cancelling()),
        "completed": server.run(*TAKEN),
    }
    for name in ("running", "subflow", "cancelling, but alive", "completed"):
        heartbeat(runs[name])
    server.let(runs["completed"], Completed(name="Published"))
    return runs


def test_what_is_there_is_left_alone(server: Server, lost: dict[str, FlowRun]) -> None:
    with get_client(sync_client=True) as client:
        before = {one.name: one.id for one in client.read_automations()}
        assert not any(make(client, one) for one in automations(SOON, SOON))
        assert {one.name: one.id for one in client.read_automations()} == before
        assert make(client, automations(SOON, SOON * 2)[3])
        assert make(client, automations(SOON, SOON)[3])
        assert [one.name for one in client.read_automations()].count(automations()[3].name) == 1


def test_a_crashed_run_is_started_again_but_not_for_ever(server: Server) -> None:
    run = server.run()
    for _ in range(STARTS - 1):
        server.let(run, *TAKEN, Crashed())
        assert server.until(run, "AwaitingRetry").is_scheduled()
    server.let(run, *TAKEN, Crashed())
    message = server.until(run, "Failed").message
    assert message == (
        f"It crashed, and has been started {STARTS} times or more: its log tells why. "
        "Start it again when that is mended; it goes on where it was."
    )


def test_a_user_may_start_it_again_after_that(server: Server) -> None:
    run = server.run()
    for _ in range(STARTS - 1):
        server.let(run, *TAKEN, Failed())
    server.let(run, *TAKEN, Crashed())
    server.until(run, "Failed")
    server.let(run, *TAKEN, Completed())
    server.settle()
    assert server.state(run).is_completed()


def test_what_the_parent_or_nobody_starts_again_stays_crashed(server: Server) -> None:
    child = server.handed_over(*TAKEN, Crashed())
    subflow = server.within_a_process(*TAKEN, Crashed())
    never_began = server.run(Pending(), Crashed())  # a worker could not start it: nor will it the next time
    server.settle()
    assert child.work_queue_name == WORK_QUEUE
    assert [server.state(one).name for one in (child, subflow, never_began)] == ["Crashed"] * 3


@pytest.mark.parametrize("end", [Cancelled(), Completed(name="Published"), Failed()])
def test_what_has_ended_stays_ended(server: Server, end: State) -> None:
    run = server.run(*TAKEN, end, Crashed())
    server.settle()
    assert server.state(run).name == end.name


def test_a_run_that_waits_for_its_next_start_can_be_cancelled(server: Server) -> None:
    run = server.run(*TAKEN, Crashed())
    server.until(run, "AwaitingRetry")
    server.let(run, Cancelling())
    server.settle()
    assert server.state(run).name == "Cancelled"


def test_a_run_whose_heartbeats_are_missing_is_started_again(server: Server, lost: dict[str, FlowRun]) -> None:
    server.until(lost["running"], "AwaitingRetry")
    state = server.until(lost["subflow"], "Crashed")
    assert state.message == "No sign of life: the run's machine or process has gone."
    assert server.state(lost["completed"]).name == "Published"


@pytest.mark.parametrize("name", ["pending", "image", "handed over"])
def test_a_run_that_its_worker_did_not_start_waits_for_another(
    server: Server, lost: dict[str, FlowRun], name: str
) -> None:
    assert server.until(lost[name], "AwaitingRetry").message == "The worker that took it has not started it."


def test_a_lost_run_that_was_to_be_cancelled_is(server: Server, lost: dict[str, FlowRun]) -> None:
    server.until(lost["cancelling"], "Cancelled")
    assert server.state(lost["cancelling, but alive"]).name == "Cancelling"
