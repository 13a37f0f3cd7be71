"""Automations of Prefect: what happens by itself to runs, and messages to people (``automations.yaml``)."""

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import Event
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore

from deployments.compose import substitute
from tasks.hand_off import WORK_QUEUE
from tasks.run_control import LOST
from tasks.server import send_events

_FILE = Path(__file__).with_suffix(".yaml")
_MARK = " (as made: "
_PARTS = {"name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"}


def automations(**values: object) -> list[Automation]:
    """Those that restart lost and crashed runs; values stand in for defaults of the file."""
    return [Automation.model_validate(one) for one in _read("automations", values)]


def messages(webhook: UUID, **values: object) -> list[Automation]:
    """Those that write to people: they call a webhook block with a JSON object that has the line as its ``text``."""
    return [_message(webhook, **one) for one in _read("messages", values)]


def _message(webhook: UUID, occasion: str, line: str, trigger: dict[str, Any], enabled: bool = False) -> Automation:
    return Automation(
        name=f"zssmnet: say that {occasion}",
        description=f"Calls the webhook block when {occasion}. Switch it on when that block has your address.",
        enabled=enabled,
        trigger=trigger,  # pydantic makes one of it
        actions=[CallWebhook(block_document_id=webhook, payload=f'{{"text": {{{{ ({line}) | tojson }}}}}}')],
    )


def _read(part: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
    variables = {"LOST": LOST, "WORK_QUEUE": WORK_QUEUE} | {name: str(value) for name, value in values.items()}
    found: list[dict[str, Any]] = yaml.safe_load(substitute(_FILE.read_text(), variables))[part]
    return found


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

    A server that was away forgets what it expected: a run that was lost meanwhile would stay Running for ever. So
    heartbeats are sent in its name. A run that is alive sends the next one itself.

    The first has the id of the state, as the event of the state had: the run's next event follows that one, and a new
    server, which has not seen it, would hold the next one back for a quarter of an hour. A server that has seen it
    takes the second alone.
    """
    runs = _runs_in(client, StateType.RUNNING)
    for run in runs:
        name, resource = "prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        known = Event(event=name, resource=resource, id=cast(UUID, run.state_id))
        send_events(known, Event(event=name, resource=resource))
    return len(runs)


def announce_crashes(client: SyncPrefectClient) -> int:
    """Report crashed runs to the automations again, except those that a parent handed over; their number.

    A server that ends right after a crash, as when all is stopped, may forget it before its automations have seen it.
    The event follows no other: a new server would wait for a quarter of an hour for one that it has not seen itself.
    """
    runs = [
        run for run in _runs_in(client, StateType.CRASHED) if run.work_queue_id and run.work_queue_name != WORK_QUEUE
    ]
    for run in runs:
        queue = {
            "prefect.resource.id": f"prefect.work-queue.{run.work_queue_id}",
            "prefect.resource.role": "work-queue",
            "prefect.resource.name": str(run.work_queue_name),
        }
        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.run-count": str(run.run_count)}
        send_events(Event(event="prefect.flow-run.Crashed", resource=resource, related=[queue]))
    return len(runs)


def _runs_in(client: SyncPrefectClient, state: StateType) -> list[FlowRun]:
    """Runs of deployments in a type of state."""
    wanted = FlowRunFilter(state={"type": {"any_": [state]}}, deployment_id={"is_null_": False})
    return client.read_flow_runs(flow_run_filter=wanted)


def _essence(automation: AutomationCore) -> Mapping[str, object]:
    return automation.model_dump(include={"description", "trigger", "actions"}, exclude={"trigger": {"id"}})


def _described(automation: AutomationCore) -> str:
    """The description, with the digest of what the automation does at its end."""
    essence = {**_essence(automation), "description": ""}
    does = json.dumps(essence, sort_keys=True, default=lambda one: sorted(one) if isinstance(one, Set) else str(one))
    text = (automation.description or "").partition(_MARK)[0]
    return f"{text}{_MARK}{hashlib.sha256(does.encode()).hexdigest()[:8]})"
