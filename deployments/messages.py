"""Messages to people, each an automation of Prefect: what a person must do something about, and news of models.

They call a webhook block with a JSON object that has the line as its ``text``, and are created switched off. What mends
itself is no reason for a message: a crashed run is restarted, or ends as Failed.
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import SecretStr

from deployments.automations import event_of_runs, not_handed_over, of_runs
from tasks.announcement import PUBLISHED
from tasks.attention import DISK_FULL, STALLED
from zssmnet.errors import ServiceError

BLOCK = "zssmnet-notifications"
NOWHERE = "https://webhook.invalid/"
TEST = "zssmnet.test-message"
ANSWERS_S = 60.0
UNSERVED = timedelta(minutes=5)
"""How long a work pool may be without a worker: longer than a restart or an upgrade takes."""
QUEUED = timedelta(hours=12)
"""How long a run may wait for others before somebody should look."""
_RUN = "'Run ' ~ flow_run.name ~ ' ended as ' ~ flow_run.state.name ~ ': ' ~ flow_run.state.message"
_MODEL = (
    "('Rolled back to model ' if event.payload.reason == 'rollback' else 'New model ') ~ event.payload.version ~ ': ' "
    "~ event.payload.model"
)
_OF_MODELS = ResourceSpecification({"prefect.resource.id": "zssmnet.model.*"})
_OF_POOLS = ResourceSpecification({"prefect.resource.id": "prefect.work-pool.*"})


def messages(webhook: UUID, unserved: timedelta = UNSERVED, queued: timedelta = QUEUED) -> list[Automation]:
    """The automations that write to people, through this webhook block."""
    # a training that a parent handed over is the parent's to report
    runs: dict[str, Any] = {"match": of_runs(), "match_related": ResourceSpecification(dict(not_handed_over()))}
    unserved_line = "'No worker serves work pool ' ~ work_pool.name ~ ': check the machines that should'"
    queued_line = f"'Run ' ~ flow_run.name ~ ' has waited to start for {queued}: check its work pool'"
    noted = "event.payload.message"
    return [
        _message(webhook, "a run failed", _line(_RUN), expect={event_of_runs("Failed")}, **runs),
        _message(webhook, "cases were left out", _line(_RUN), expect={event_of_runs("Cases left out")}, **runs),
        _message(
            webhook,
            "no worker serves a pool",
            _line(unserved_line),
            match=_OF_POOLS,
            **_missing({"prefect.work-pool.not-ready"}, {"prefect.work-pool.*"}, unserved),
        ),
        _message(
            webhook,
            "a run does not start",
            _line(queued_line),
            **runs,
            **_missing({event_of_runs("Late")}, {event_of_runs("*")}, queued),
        ),
        _message(webhook, "a run does not advance", _line(noted), expect={STALLED}),
        _message(
            webhook,
            "a disk is nearly full",
            _line(noted),
            expect={DISK_FULL},
            for_each={"prefect.resource.id"},
            within=timedelta(days=1),  # said once a day
        ),
        _message(webhook, "a model was published", _line(_MODEL), expect={PUBLISHED}, match=_OF_MODELS),
        _message(webhook, "a challenger was not better", _line(_RUN), expect={event_of_runs("Not better")}, **runs),
        _message(webhook, "messages arrive", _line(noted), enabled=True, expect={TEST}),
    ]


def webhook(client: SyncPrefectClient) -> tuple[UUID, bool]:
    """The id of the block that messages call, and whether it is new; one that nobody edited leads nowhere."""
    try:
        return cast(UUID, cast(Webhook, Webhook.load(BLOCK))._block_document_id), False
    except ValueError:
        return cast(UUID, Webhook(method="POST", url=SecretStr(NOWHERE)).save(BLOCK)), True


def send_test_message() -> str:
    """Send a message by the way of all others; what the receiver answered.

    Raises:
        ServiceError: it did not arrive.
    """
    with get_client(sync_client=True) as client:
        test = str(uuid4())
        payload = {"message": "This is a test message of zssmnet. Nothing needs to be done."}
        event = Event(event=TEST, resource={"prefect.resource.id": f"zssmnet.test.{test}"}, payload=payload)
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
        deadline = time.monotonic() + ANSWERS_S
        while not (answer := _answer(client, event)):
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"the message was not sent within {ANSWERS_S:g} s: run 'zssmnet-deploy', and check that the "
                    "automation 'zssmnet: say that messages arrive' is on"
                )
            time.sleep(0.5)
        status = answer.get("status_code")
        if status is None or status >= 400:
            reason = f"the receiver answered {status}" if status else str(answer.get("reason", "no reason given"))
            raise ServiceError(f"the message did not arrive: {reason}; check the address in block webhook/{BLOCK}")
        return f"the receiver answered {status}; automations that are switched on send their messages there"


def _answer(client: SyncPrefectClient, event: Event) -> Mapping[str, Any] | None:
    """What came of the message of an event; None as long as nothing did."""
    done = ["prefect.automation.action.executed", "prefect.automation.action.failed"]
    wanted = {"event": {"name": done}, "related": {"id": [f"prefect.event.{event.id}"]}}
    found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
    return found[0]["payload"] if found else None


def _message(webhook: UUID, occasion: str, payload: str, enabled: bool = False, **trigger: Any) -> Automation:
    reactive = {"posture": Posture.Reactive, "threshold": 1, "within": timedelta(0)}
    return Automation(
        name=f"zssmnet: say that {occasion}",
        description=f"Calls the webhook block when {occasion}. Switch it on when that block has your address.",
        enabled=enabled,
        trigger=EventTrigger(**(reactive | trigger)),
        actions=[CallWebhook(block_document_id=webhook, payload=payload)],
    )


def _line(expression: str) -> str:
    return f'{{"text": {{{{ ({expression}) | tojson }}}}}}'


def _missing(after: set[str], expect: set[str], within: timedelta) -> dict[str, Any]:
    """When nothing of what is expected follows."""
    return {
        "after": after,
        "expect": expect,
        "for_each": {"prefect.resource.id"},
        "posture": Posture.Proactive,
        "within": within,
    }
