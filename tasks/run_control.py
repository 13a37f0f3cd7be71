"""What users ask of a run while it works: to cancel it, or to suspend it.

Prefect looks at that between tasks, and training is one task of many hours. So a thread asks the server for the states
of this run and of the runs above it, and training looks here: at every step whether it is cancelled, after every epoch
whether it is suspended, and once more before a model is published.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun, Pause, PrefectException
from prefect.states import Cancelled, Running

from tasks.addresses import STARTED_BY_WORKER
from zssmnet.errors import without_credentials

log = logging.getLogger("zssmnet.tasks")

POLL_S = 2.0
LOST = "No sign of life: the run's machine or process has gone."
"""Message of the state of a run whose heartbeats are missing."""
SERVER_AWAY_S = 30.0
"""Seconds between two remarks in the log that the server is awaited."""
_UNANSWERED = (httpx.HTTPError, PrefectException, RuntimeError)
"""What Prefect's client raises where the server does not answer."""
P = ParamSpec("P")
R = TypeVar("R")


class CancelledByUser(Exception):  # noqa: N818  # no error
    """The run, or one above it, was cancelled."""


class RunControl:
    """The states of a run and of those above it, as the server has them; asked for by a thread of its own."""

    def __init__(self, run: FlowRun) -> None:
        self._run = run
        self._runs: Sequence[UUID] = ()
        self._states: dict[UUID, State] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._poll,), daemon=True, name="run control")

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._done.set()
        self._thread.join(POLL_S)

    def check_cancelled(self) -> None:
        """Raise an error if this run, or one above it, is cancelled.

        Raises:
            CancelledByUser: it is.
        """
        if any(state.is_cancelled() or state.is_cancelling() for state in self._states.values()):
            raise CancelledByUser

    def check_suspended(self) -> None:
        """Let the run end here if it was suspended; once resumed, its worker starts it again.

        Raises:
            Pause: it was.
        """
        state = self._states.get(self._run.id)
        if state and state.type == StateType.PAUSED:
            log.info("suspended: the run ends here, and goes on where it was when it is resumed")
            raise Pause(state=state)

    def check_now(self) -> None:
        """Ask the server at once, if it answers, and raise what the other two raise."""
        with get_client(sync_client=True) as client:
            self._look(client)
        self.check_cancelled()
        self.check_suspended()

    def _poll(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._done.wait(POLL_S):
                self._look(client)

    def _look(self, client: SyncPrefectClient) -> None:
        try:
            if not self._runs:
                self._runs = _with_those_above(client, self._run)
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(self._runs)))
            found = client.read_flow_runs(flow_run_filter=wanted)
            self._states = {run.id: run.state for run in found if run.state}
            own = self._states.get(self._run.id)
            if own and own.is_crashed() and own.message == LOST:
                _show_life(client, self._run, "was taken for lost")
            elif own and own.is_scheduled():
                _show_life(client, self._run, "was resumed before it had ended")
        except _UNANSWERED:
            return  # training does not need the server to go on


def _show_life(client: SyncPrefectClient, run: FlowRun, reason: str) -> None:
    """A run that lives, though its state says otherwise, says so."""
    client.set_flow_run_state(run.id, Running(message=f"It lives: it {reason}."), force=True)
    log.warning("this run %s, and lives: it goes on", reason)


def _with_those_above(client: SyncPrefectClient, run: FlowRun) -> list[UUID]:
    """The ids of a run, of the run that it is a part of, and so on."""
    runs = [run.id]
    while run.parent_task_run_id:
        parent = client.read_task_run(run.parent_task_run_id).flow_run_id
        if parent is None:
            break
        run = client.read_flow_run(parent)
        runs.append(run.id)
    return runs


_control: ContextVar[RunControl | None] = ContextVar("run control", default=None)


def check_cancelled() -> None:
    """See `RunControl.check_cancelled`; nothing where no run is controlled."""
    if control := _control.get():
        control.check_cancelled()


def check_suspended() -> None:
    """See `RunControl.check_suspended`; nothing where no run is controlled."""
    if control := _control.get():
        control.check_suspended()


def check_now() -> None:
    """See `RunControl.check_now`; nothing where no run is controlled."""
    if control := _control.get():
        control.check_now()


@contextmanager
def controlled() -> Iterator[None]:
    """Let what runs inside be cancelled and suspended by users of the present flow run."""
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    control = RunControl(context.flow_run)
    token = _control.set(control)
    control.start()
    try:
        yield
    finally:
        _control.reset(token)
        control.stop()


def ends_cancelled(flow: Callable[P, R]) -> Callable[P, R]:
    """Let a flow that was cancelled end as Cancelled: no failure, and nothing for an automation to start again."""

    @wraps(flow)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return flow(*args, **kwargs)
        except (CancelledByUser, CancelledRun):
            return cast(R, Cancelled(message="Cancelled by a user; run it again and it continues where it stopped."))

    return run


def wait_for_server() -> None:
    """As a run of a deployment, wait until the server answers, for as long as it takes: it is to hear what came of it.

    A command does not wait: its own server, once gone, does not come back.
    """
    said = 0.0
    while os.environ.get(STARTED_BY_WORKER):
        try:
            with get_client(sync_client=True) as client:
                client.hello().raise_for_status()
            return
        except _UNANSWERED as error:
            if time.monotonic() - said > SERVER_AWAY_S:
                said = time.monotonic()
                log.warning("the work is done; Prefect's server is awaited: %s", without_credentials(str(error)))
            time.sleep(POLL_S)
