"""Cancelling and suspending a run while it works.

Prefect looks at that between tasks, and training is one task of many hours. So a thread asks the server for the states
of this run and of the runs above it, and training looks here: at every step whether it is cancelled, after every epoch
whether it is suspended, and once more before a model is published.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun, Pause
from prefect.states import Running

from tasks.folders import STARTED_BY_WORKER
from tasks.server import UNANSWERED, reason_of, server_may_be_away
from zssmnet.storage.environment import variable

log = logging.getLogger("zssmnet.tasks")

POLL_S = 2.0
LOST = "No heartbeat: the run's machine or process is gone."
"""Message of the state of a run whose heartbeats are missing."""
SERVER_AWAY_S = 30.0
"""Seconds between two remarks in the log that the server is awaited."""


class RunControl:
    """The states of a run and of those above it, as the server has them.

    Attributes:
        states: by the runs' ids; none before the server has answered.
    """

    def __init__(self, run: FlowRun) -> None:
        self.run = run
        self._runs: Sequence[UUID] = ()
        self.states: dict[UUID, State] = {}

    def poll(self, done: threading.Event) -> None:
        """Ask now and then."""
        with get_client(sync_client=True) as client:
            while not done.wait(POLL_S):
                self.look(client)

    def look(self, client: SyncPrefectClient) -> None:
        """Ask the server, if it answers: training does not need it to go on."""
        with server_may_be_away():
            if not self._runs:
                self._runs = _with_those_above(client, self.run)
            wanted = FlowRunFilter(id={"any_": list(self._runs)})
            found = client.read_flow_runs(flow_run_filter=wanted)
            self.states = {run.id: run.state for run in found if run.state}
            own = self.states.get(self.run.id)
            if own and own.is_crashed() and own.message == LOST:
                _show_life(client, self.run, "was marked lost")
            elif own and own.is_scheduled():
                _show_life(client, self.run, "was resumed before it had ended")


def _show_life(client: SyncPrefectClient, run: FlowRun, reason: str) -> None:
    """Set the state of a run that is alive, but marked otherwise, to Running."""
    client.set_flow_run_state(run.id, Running(message=f"Alive: it {reason}."), force=True)
    log.warning("this run %s but is alive; continuing", reason)


def _with_those_above(client: SyncPrefectClient, run: FlowRun) -> list[UUID]:
    """The ids of a run, of the run that it is a part of, and so on."""
    runs = [run.id]
    while run.parent_task_run_id and (parent := client.read_task_run(run.parent_task_run_id).flow_run_id):
        run = client.read_flow_run(parent)
        runs.append(run.id)
    return runs


_control: ContextVar[RunControl | None] = ContextVar("run control", default=None)


def check_cancelled() -> None:
    """Raise CancelledRun if the controlled run, or one above it, is cancelled."""
    control = _control.get()
    if control and any(state.is_cancelled() or state.is_cancelling() for state in control.states.values()):
        raise CancelledRun("the run, or one above it, is cancelled")


def check_suspended() -> None:
    """Let the controlled run end here, by Pause, if it was suspended; once resumed, its worker starts it again."""
    control = _control.get()
    state = control.states.get(control.run.id) if control else None
    if state and state.type == StateType.PAUSED:
        log.info("suspended: the run ends here and, once resumed, continues from its last checkpoint")
        raise Pause(state=state)


def ask_now() -> None:
    """Ask the server for the states at once, if it answers."""
    if control := _control.get():
        with get_client(sync_client=True) as client:
            control.look(client)


@contextmanager
def controlled() -> Iterator[None]:
    """Let what runs inside be cancelled and suspended by users of the present flow run."""
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    control, done = RunControl(context.flow_run), threading.Event()
    asking = threading.Thread(target=copy_context().run, args=(control.poll, done), daemon=True, name="run control")
    token = _control.set(control)
    asking.start()
    try:
        yield
    finally:
        _control.reset(token)
        done.set()
        asking.join(POLL_S)


def wait_for_server() -> None:
    """In a run of a deployment, wait until the server answers, so that it gets the outcome; without limit.

    A command does not wait: Prefect's temporary server, once gone, does not come back.
    """
    said = 0.0
    while variable(STARTED_BY_WORKER):
        try:
            with get_client(sync_client=True) as client:
                client.hello().raise_for_status()
            return
        except UNANSWERED as error:
            if time.monotonic() - said > SERVER_AWAY_S:
                said = time.monotonic()
                log.warning("the work is done; waiting for Prefect's server: %s", reason_of(error))
            time.sleep(POLL_S)
