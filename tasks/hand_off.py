"""Task that hands pre-training over to a work pool elsewhere, waits for it, and brings it back if it crashes."""

import logging
import time
from typing import Any, cast

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.context import get_run_context
from prefect.deployments import run_deployment
from prefect.exceptions import CancelledRun, ObjectNotFound, Pause, TerminationSignal
from prefect.states import Cancelled, Cancelling, Suspended
from prefect.utilities.urls import url_for
from pydantic import BaseModel, Field

from tasks.progress import Page
from tasks.run_control import LOST, ask_now, check_cancelled, check_suspended
from tasks.run_names import run_name
from tasks.server import reason_of
from zssmnet.errors import ServiceError
from zssmnet.report.markdown import code, text
from zssmnet.stages.pretrain import PretrainingSummary, Training, recorded_summary, summary_of_training

log = logging.getLogger("zssmnet.tasks")

WORK_QUEUE = "handed-over"
"""Work queue of the runs that a parent sends, by which they are known: if one crashes, its parent sends it again."""
POLL_S = 3.0
SERVER_AWAY_S = 30.0
SETTLING_S = 60.0
"""How long a run that is marked lost has time to prove that it is alive, as after a server outage."""
_WAITING = {StateType.SCHEDULED, StateType.PENDING}


class HandOff(BaseModel, frozen=True, extra="forbid"):
    """Location of pre-training, and limits of waiting and resubmitting."""

    deployment: str | None = Field(
        None, description="Deployment that runs pre-training, such as pretrain/pretrain; none: train in this process"
    )
    patience_min: float = Field(
        1440.0, ge=0, description="Minutes without any live worker in its work pool before giving up"
    )
    resend: int = Field(5, ge=0, description="How often a crashed pre-training is resubmitted")


HERE = HandOff()
"""Train in this process."""


@task(task_run_name="hand over to {hand_off.deployment}", cache_policy=NO_CACHE)
def hand_over(work: Training, hand_off: HandOff) -> PretrainingSummary | State[Any]:
    """Send pre-training to its work pool as a subflow, addresses only, and wait for it.

    A crashed run is resubmitted and continues from its last checkpoint, which is found by the
    same cubes and settings. Where this run is cancelled or suspended, so is the one that it waits for.

    Raises:
        ServiceError: no such deployment, no worker, or a run that failed, was cancelled or crashed too often.
    """
    before, crashes = recorded_summary(work), 0
    with get_client(sync_client=True) as client:
        while True:
            sent = _send(client, str(hand_off.deployment), work.model_dump(mode="json"))
            try:
                run = _wait(client, sent, hand_off)
            except CancelledRun:
                return Cancelled(message="Cancelled by a user.")  # the task has not failed
            state = _state(run)
            if state.is_completed():
                return summary_of_training(work, is_new=recorded_summary(work) != before)
            crashes += state.is_crashed()
            reason = " ".join((state.message or "no reason given").split())
            ended = f"pre-training run {run.name!r} in work pool {run.work_pool_name!r} ended as {state.name}: {reason}"
            if not state.is_crashed() or crashes > hand_off.resend:
                raise ServiceError(f"{ended}; run it again to continue from the last checkpoint")
            log.warning("%s; resubmitted, it continues from its last checkpoint", ended)


def _send(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """Send a run, or take over the one that an earlier try of this parent has sent, if it is alive or completed.

    An idempotency key identifies the run to Prefect's server: the n-th of this parent.
    """
    parent = get_run_context().task_run.flow_run_id  # type: ignore[union-attr]
    number = 1
    while found := client.read_flow_runs(
        flow_run_filter=FlowRunFilter(idempotency_key={"any_": [f"{parent}-{number}"]})
    ):
        sent = found[0]
        if not _state(sent).is_final() or _state(sent).is_completed():
            log.info("pre-training run %r: already submitted; waiting", sent.name)
            if _state(sent).is_paused():
                client.resume_flow_run(sent.id)
            return sent
        number += 1
    try:
        made = run_deployment(
            deployment,
            parameters=parameters,
            timeout=0,
            as_subflow=True,
            idempotency_key=f"{parent}-{number}",
            flow_run_name=run_name("pretrain", str(parameters["output_path"])),  # the log names it as the UI finds it
            work_queue_name=WORK_QUEUE,
        )
    except ObjectNotFound as error:
        raise ServiceError(
            f"there is no deployment {deployment!r} on this Prefect server: make it with 'zssmnet-deploy', "
            "or choose another with hand_off.deployment"
        ) from error
    run = cast(FlowRun, made)  # at once, since this is no coroutine
    log.info("pre-training submitted to work pool %r as run %r", run.work_pool_name, run.name)
    return run


def _wait(client: SyncPrefectClient, run: FlowRun, hand_off: HandOff) -> FlowRun:
    """Wait for the end of a run; as long as it waits, look whether anybody is there to take it."""
    pool = _PoolWatch(client, run)
    seen = time.monotonic()
    while not _state(run).is_final() or (_is_lost(run) and time.monotonic() - seen < SETTLING_S):
        try:
            if not _is_lost(run):
                seen = time.monotonic()
            _pass_on(client, run)
            pool.look(_state(run))
            if pool.minutes_unserved > hand_off.patience_min:
                client.set_flow_run_state(run.id, Cancelling(message="No worker picked it up."))
                raise ServiceError(f"pre-training was not started within {hand_off.patience_min:g} min: {pool.reason}")
            time.sleep(POLL_S)
            run = client.read_flow_run(run.id)
        except TerminationSignal:
            # Its worker ends it when it is cancelled, and would then import all flows to look for hooks before it
            # reports that: half a minute in which the run is Cancelling.
            ask_now()
            _pass_on(client, run)
            raise
        except httpx.HTTPError as error:  # training does not need the server to go on
            log.warning("Prefect's server does not answer; retrying in %g s: %s", SERVER_AWAY_S, reason_of(error))
            time.sleep(SERVER_AWAY_S)
    return run


def _is_lost(run: FlowRun) -> bool:
    return _state(run).is_crashed() and _state(run).message == LOST


def _pass_on(client: SyncPrefectClient, run: FlowRun) -> None:
    """Cancel or suspend the run that is waited for, where this one is."""
    try:
        check_cancelled()
        check_suspended()
    except CancelledRun:
        client.set_flow_run_state(run.id, Cancelling(message="Its parent run was cancelled."))
        raise
    except Pause as pause:
        timeout = pause.state.state_details.pause_timeout if pause.state else None
        client.set_flow_run_state(run.id, Suspended(pause_expiration_time=timeout))
        raise


class _PoolWatch:
    """Logs and shows on the parent's page what a run waits for: a slot in its work pool, or a worker that serves it."""

    def __init__(self, client: SyncPrefectClient, run: FlowRun) -> None:
        self._client = client
        self._run = run
        self._pool = str(run.work_pool_name)
        self._unserved_since: float | None = None
        self._page = Page("hand-off", "Pre-training in another work pool")
        self._shown = ""
        self.reason = ""

    @property
    def minutes_unserved(self) -> float:
        """For how long there has been no live worker."""
        return 0.0 if self._unserved_since is None else (time.monotonic() - self._unserved_since) / 60

    def look(self, state: State[Any]) -> None:
        """Check the pool while the run waits, and log what has changed."""
        is_waiting = state.type in _WAITING
        self.reason = self._why_unserved() if is_waiting else ""
        if self.reason and self._unserved_since is None:
            self._unserved_since = time.monotonic()
            log.warning("pre-training waits: %s", self.reason)
        elif not self.reason and self._unserved_since is not None:
            self._unserved_since = None
            if state.is_running():
                log.info("pre-training is running")
        if state.is_paused():
            self._show("is suspended; once resumed, it continues from its last checkpoint.")
        elif self.reason:
            self._show(f"**waits**: {text(self.reason)}")
        else:
            self._show(f"{'waits for a free slot' if is_waiting else 'runs'} in work pool {code(self._pool)}.")

    def _why_unserved(self) -> str:
        if self._client.read_work_pool(self._pool).is_paused:
            return f"work pool {self._pool!r} is paused; resume it with 'prefect work-pool resume {self._pool}'"
        workers = self._client.read_workers_for_work_pool(self._pool)
        if any(worker.status == WorkerStatus.ONLINE for worker in workers):
            return ""
        return (
            f"no live worker serves work pool {self._pool!r}; start one with 'prefect worker start --pool {self._pool}'"
        )

    def _show(self, description: str) -> None:
        if description != self._shown:
            self._shown = description
            self._page.publish(f"Pre-training run [{text(self._run.name)}]({url_for(self._run)}) {description}")


def _state(run: FlowRun) -> State[Any]:
    assert run.state  # every run has one
    return run.state
