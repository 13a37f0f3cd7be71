"""Prefect automations for runs that crash, that are lost with their machine, or that nobody starts or ends.

A run is known to live by its heartbeats. One that crashes is started again as the same run, with the same parameters,
and goes on from its records and its last checkpoint; but not for ever, since what crashed for want of memory will crash
again. Two kinds of runs are not started again here: those that a parent has handed over, since the parent sends them
again itself and counts how often, and subflows within their parent's process, which begin anew with the parent.

Each automation is bound to states, so that what a user has ended stays ended.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import Event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.hand_off import WORK_QUEUE
from tasks.run_control import LOST

HEARTBEATS_MISSED = timedelta(seconds=90)
"""Runs send a heartbeat every 30 s: three are missed."""
STARTING = timedelta(minutes=30)
"""Longer than a worker takes to start a run, with time to fetch an image."""
SETTLING = timedelta(seconds=45)
"""How long a run stays crashed before it is started again: longer than the time between two heartbeats, by which a run
shows itself that was thought lost and lives; and longer than its worker takes to let go of it, since a worker with a
limit ends with an error when it is given a run that it still counts as running.
"""
_MARK = " (as made: "
_PARTS = {"name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"}
STARTS = 5
"""How often a run is started in all, if it crashes repeatedly."""


def automations(
    silence: timedelta = HEARTBEATS_MISSED,
    settling: timedelta = SETTLING,
    starting: timedelta = STARTING,
    starts: int = STARTS,
) -> list[Automation]:
    """The automations of the service."""
    return [
        Automation(
            name="zssmnet: runs whose machine has gone",
            description="Marks a run as crashed when its heartbeats are missing: its machine or process is gone.",
            trigger=_missing({"heartbeat"}, silence),
            actions=[_change(StateType.CRASHED, LOST)],
        ),
        Automation(
            name="zssmnet: crashed runs are started again",
            description="Reschedules a crashed run; it continues from its records and its last checkpoint.",
            trigger=_missing({"Crashed"}, settling, related=not_handed_over()),
            actions=[_change(StateType.SCHEDULED, "It crashed; restarted, it continues.", "AwaitingRetry")],
        ),
        Automation(
            name="zssmnet: crashed runs that are not started again",
            description=f"Lets a run fail that crashed before it began, or that has been started {starts} times.",
            trigger=_crashed("0", f"[{starts}-9]", "[1-9][0-9]*"),
            actions=[
                _change(
                    StateType.FAILED,
                    f"It crashed before it began, or for the {starts}th time, so it is not restarted automatically. "
                    "The reason is in its log, or in its worker's; once fixed, start it again and it continues.",
                )
            ],
        ),
        Automation(
            name="zssmnet: runs whose worker has gone before they began",
            description="Lets another worker take a run that a worker has taken and not started.",
            trigger=_missing(
                {"Pending", "Submitting", "InfrastructurePending"},
                starting,
                related={"prefect.resource.role": "deployment"},
            ),
            actions=[_change(StateType.SCHEDULED, "The worker that took it has not started it.", "AwaitingRetry")],
        ),
        Automation(
            name="zssmnet: cancelled runs whose worker has gone",
            description="Marks a run as cancelled whose cancellation was requested and whose heartbeats are missing.",
            trigger=_missing({"Cancelling"}, silence, expect={"heartbeat", "Cancelled"}),
            actions=[_change(StateType.CANCELLED, "Cancellation requested; its machine or process is gone.")],
        ),
    ]


def make(client: SyncPrefectClient, wanted: Automation) -> str:
    """Create an automation, or update the one of its name; what was done.

    One that is there as it should be is left alone, because it knows which runs it is waiting for; one that a user has
    changed, too. What is switched off stays so. A digest in the description shows whether it is as it was made.
    """
    wanted = wanted.model_copy(update={"description": _described(wanted)})
    there = client.read_automations_by_name(wanted.name)
    if not there:
        wanted.create()
        return "created"
    (first, *doubles) = there
    for double in doubles:
        client.delete_automation(double.id)
    state = "on" if first.enabled else "off, as you left it"
    if _essence(first) == _essence(wanted):
        return f"unchanged, and {state}"
    if _MARK in (first.description or "") and first.description != _described(first):
        return f"left as you changed it, and {state}; delete it to have it recreated"
    client.update_automation(first.id, AutomationCore(**wanted.model_dump(include=_PARTS) | {"enabled": first.enabled}))
    return f"updated, and {state}"


def expect_heartbeats(client: SyncPrefectClient) -> int:
    """Let the server expect heartbeats of all runs of deployments in state Running; their number.

    A server that was away forgets what it expected: a run that was lost meanwhile would stay Running for ever. So one
    heartbeat is sent in its name. A run that is alive sends the next one itself.
    """
    runs = _runs_in(client, StateType.RUNNING)
    events = [
        Event(event=event_of_runs("heartbeat"), resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"})
        for run in runs
    ]
    client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
    return len(runs)


def announce_crashes(client: SyncPrefectClient) -> int:
    """Report crashed runs to the automations again, except those that a parent handed over; their number.

    A server that ends right after a crash, as when all is stopped, may forget it before its automations have seen it.
    The event follows no other: a new server would wait for a quarter of an hour for one that it has not seen itself.
    """
    runs = [
        run for run in _runs_in(client, StateType.CRASHED) if run.work_queue_id and run.work_queue_name != WORK_QUEUE
    ]
    events = [
        Event(
            event=event_of_runs("Crashed"),
            resource={"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.run-count": str(run.run_count)},
            related=[
                {
                    "prefect.resource.id": f"prefect.work-queue.{run.work_queue_id}",
                    "prefect.resource.role": "work-queue",
                    "prefect.resource.name": str(run.work_queue_name),
                }
            ],
        )
        for run in runs
    ]
    client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
    return len(runs)


def _runs_in(client: SyncPrefectClient, state: StateType) -> list[FlowRun]:
    """Runs of deployments in a type of state."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[state])),
            deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        )
    )


def _essence(automation: AutomationCore) -> Mapping[str, object]:
    return automation.model_dump(include={"description", "trigger", "actions"}, exclude={"trigger": {"id"}})


def _described(automation: AutomationCore) -> str:
    """The description, with the digest of what the automation does at its end."""
    does = json.dumps({**_essence(automation), "description": ""}, sort_keys=True, default=_plain)
    text = (automation.description or "").partition(_MARK)[0]
    return f"{text}{_MARK}{hashlib.sha256(does.encode()).hexdigest()[:8]})"


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _missing(
    after: set[str], within: timedelta, expect: set[str] | None = None, related: Mapping[str, str] | None = None
) -> EventTrigger:
    """When nothing follows in the life of a run, or nothing of what is expected."""
    return EventTrigger(
        match=of_runs(),
        match_related=ResourceSpecification(dict(related or {})),
        for_each={"prefect.resource.id"},
        after={event_of_runs(name) for name in after},
        expect={event_of_runs(name) for name in expect or {"*"}},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _crashed(*starts: str) -> EventTrigger:
    """At once when a run has crashed that was started so many times (patterns of their number)."""
    return EventTrigger(
        match=of_runs({"prefect.run-count": list(starts)}),
        match_related=ResourceSpecification(dict(not_handed_over())),
        expect={event_of_runs("Crashed")},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def not_handed_over() -> Mapping[str, str]:
    """What belongs to runs of deployments but for those that a parent has handed over.

    Each run of a deployment has one work queue, and no other run has any. Its heartbeats name it as well.
    """
    return {"prefect.resource.role": "work-queue", "prefect.resource.name": f"!{WORK_QUEUE}"}


def of_runs(labels: Mapping[str, str | list[str]] | None = None) -> ResourceSpecification:
    """What matches events of runs, which may need labels."""
    return ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*", **(labels or {})})


def event_of_runs(name: str) -> str:
    """The name of the event that a run came into a state, or sent a heartbeat."""
    return f"prefect.flow-run.{name}"


def _change(state: StateType, message: str, name: str | None = None) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=state, name=name, message=message)
