"""What the server does by itself about runs that crash or are lost: a real server, without workers.

The tests stand in for workers and runs: they set the states that these would set, and send their heartbeats.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Crashed, InfrastructurePending, Pending, Running, Scheduled
from prefect.states import State as StateOfAnything

from deployments.automations import automations, expect_heartbeats, make
from flows.of_stages import pretrain
from tasks.hand_off import WORK_QUEUE, _send
from tests.deployments.stack_fixture import temporary_stack

pytestmark = [pytest.mark.integration, pytest.mark.long]

State = StateOfAnything[Any]
PARAMETERS = {"cubes_path": "s3://bucket/cubes", "output_path": "s3://bucket/weights"}
SOON_S = 10
"""The least that Prefect takes."""
SETTLING_S = 20
"""A heartbeat must be there before, on however slow a machine."""
STARTS = 2
PATIENCE_S = 400
AUTOMATIONS = automations(SILENCE_S=SOON_S, SETTLING_S=SETTLING_S, STARTING_S=SOON_S, STARTS=STARTS)
TAKEN = (Pending(), Running())
NOT_AGAIN = (
    f"It crashed before it began, or for the {STARTS}th time, so it is not restarted automatically. The reason is in "
    "its log, or in its worker's; once fixed, start it again and it continues."
)


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

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.2)


def heartbeat(run: FlowRun) -> None:
    """As a run sends it."""
    related = {
        "prefect.resource.id": f"prefect.work-queue.{run.work_queue_id}",
        "prefect.resource.role": "work-queue",
        "prefect.resource.name": run.work_queue_name or "",
    }
    emit_event(
        "prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        related=[related] if run.work_queue_id else [],
    )


@contextmanager
def heartbeats(run: FlowRun) -> Iterator[None]:
    """As a run that lives sends them: one alone might overtake the event before it."""
    ended = Event()

    def beat() -> None:
        heartbeat(run)
        while not ended.wait(1):
            heartbeat(run)

    thread = Thread(target=copy_context().run, args=(beat,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with temporary_stack() as stack:
        stack.start(["server"])
        settings = {
            PREFECT_API_URL: stack.environment["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: stack.environment["PREFECT_API_AUTH_STRING"],
        }
        with temporary_settings(settings), get_client(sync_client=True) as client:
            EventsWorker.drain_all()  # those of other servers
            made = [make(client, one) for one in AUTOMATIONS]
            assert all(made)
            yield Server(client)
            EventsWorker.drain_all()


@pytest.fixture(scope="module")
def lost(server: Server) -> dict[str, FlowRun]:
    """Runs of which nothing more is heard; what becomes of them is seen later."""
    runs = {
        "running": server.run(*TAKEN),
        "subflow": server.within_a_process(*TAKEN),
        "forgotten": server.run(*TAKEN),
        "pending": server.run(Pending()),
        "image": server.run(Pending(), InfrastructurePending()),
        "handed over": server.handed_over(Pending()),
        "cancelling": server.run(*TAKEN, Cancelling()),
        "completed": server.run(*TAKEN),
    }
    for name in ("running", "subflow", "completed"):
        heartbeat(runs[name])
    server.let(runs["completed"], Completed(name="Published"))
    return runs


@pytest.fixture(scope="module")
def crashed(server: Server) -> Iterator[dict[str, FlowRun]]:
    """Runs that crash; what becomes of them is seen later."""
    runs = {
        "first time": server.run(*TAKEN, Crashed()),
        "to be cancelled": server.run(*TAKEN, Crashed()),
        "handed over": server.handed_over(*TAKEN, Crashed()),
        "subflow": server.within_a_process(*TAKEN, Crashed()),
        "started by hand": server.run(*TAKEN, Crashed(), Scheduled(), *TAKEN),
        "alive": server.run(*TAKEN, Crashed()),
    }
    with heartbeats(runs["alive"]):
        yield runs


def test_what_is_there_is_left_alone(server: Server, lost: dict[str, FlowRun], crashed: dict[str, FlowRun]) -> None:
    """And the runs of the fixtures are on their way."""
    with get_client(sync_client=True) as client:
        before = {one.name: one.id for one in client.read_automations()}
        assert {make(client, one) for one in AUTOMATIONS} == {"unchanged, and on"}
        assert {one.name: one.id for one in client.read_automations()} == before


def test_a_crashed_run_is_started_again_but_not_for_ever(server: Server, crashed: dict[str, FlowRun]) -> None:
    run = crashed["first time"]
    assert server.until(run, "AwaitingRetry").is_scheduled()
    server.let(run, *TAKEN, Crashed())
    assert server.until(run, "Failed").message == NOT_AGAIN


def test_a_run_that_crashes_before_it_begins_is_not_started_again(server: Server) -> None:
    """A worker could not start it: nor will it the next time."""
    assert server.until(server.run(Pending(), Crashed()), "Failed").message == NOT_AGAIN


def test_others_are_not_started_again(server: Server, crashed: dict[str, FlowRun]) -> None:
    server.until(crashed["to be cancelled"], "AwaitingRetry")
    assert crashed["handed over"].work_queue_name == WORK_QUEUE
    names = {name: server.state(run).name for name, run in crashed.items()}
    assert names["handed over"] == "Crashed"  # its parent sends it again
    assert names["subflow"] == "Crashed"  # it begins anew with its parent
    assert names["alive"] == "Crashed"  # though it is not: it tells of its end itself
    assert names["started by hand"] == "Running"


def test_a_run_that_waits_for_its_next_start_can_be_cancelled(server: Server, crashed: dict[str, FlowRun]) -> None:
    run = crashed["to be cancelled"]
    server.until(run, "AwaitingRetry")
    server.let(run, Cancelling())
    assert server.state(run).name == "Cancelled"


def test_a_run_whose_heartbeats_are_missing_is_started_again(server: Server, lost: dict[str, FlowRun]) -> None:
    server.until(lost["running"], "AwaitingRetry")
    state = server.until(lost["subflow"], "Crashed")
    assert state.message == "No heartbeat: the run's machine or process is gone."
    assert server.state(lost["completed"]).name == "Published"


@pytest.mark.parametrize("name", ["pending", "image", "handed over"])
def test_a_run_that_its_worker_did_not_start_waits_for_another(
    server: Server, lost: dict[str, FlowRun], name: str
) -> None:
    assert server.until(lost[name], "AwaitingRetry").message == "The worker that took it has not started it."


def test_a_lost_run_that_was_to_be_cancelled_is(server: Server, lost: dict[str, FlowRun]) -> None:
    server.until(lost["cancelling"], "Cancelled")


def test_a_run_that_the_server_has_forgotten_is_asked_for_a_sign_of_life(
    server: Server, lost: dict[str, FlowRun]
) -> None:
    assert server.state(lost["forgotten"]).name == "Running"  # as after a time without a server
    with get_client(sync_client=True) as client:
        assert expect_heartbeats(client) >= 1
    server.until(lost["forgotten"], "AwaitingRetry")


def test_what_is_not_as_it_should_be_is_made_anew(server: Server) -> None:
    wanted = AUTOMATIONS[-1]
    with get_client(sync_client=True) as client:
        assert make(client, automations(SILENCE_S=2 * SOON_S)[-1])
        assert make(client, wanted)
        assert [one.name for one in client.read_automations()].count(wanted.name) == 1
