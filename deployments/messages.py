"""The block that messages to people call, and a test message."""

import time
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from tasks.server import UNANSWERED, reason_of, send_events
from zssmnet.errors import ServiceError

BLOCK = "zssmnet-notifications"
NOWHERE = "https://webhook.invalid/"
TEST = "zssmnet.test-message"
ANSWERS_S = 60.0


def webhook(client: SyncPrefectClient) -> tuple[UUID, bool]:
    """The id of the block that messages call, and whether it is new; one that nobody edited leads nowhere."""
    try:
        return client.read_block_document_by_name(BLOCK, "webhook").id, False
    except ObjectNotFound:
        return cast(UUID, Webhook(method="POST", url=SecretStr(NOWHERE)).save(BLOCK)), True


def send_test_message() -> str:
    """Send a message by the way of all others; what the receiver answered.

    Raises:
        ServiceError: it did not arrive, or no server answers.
    """
    payload = {"message": "This is a test message of zssmnet. Nothing needs to be done."}
    event = Event(event=TEST, resource={"prefect.resource.id": f"zssmnet.test.{uuid4()}"}, payload=payload)
    try:
        with get_client(sync_client=True) as client:
            send_events(event)
            deadline = time.monotonic() + ANSWERS_S
            while not (answer := _answer(client, event)) and time.monotonic() < deadline:
                time.sleep(0.5)
    except UNANSWERED as error:
        raise ServiceError(f"{PREFECT_API_URL.value()}: {reason_of(error)}") from error
    if answer is None:
        raise ServiceError(
            f"the message was not sent within {ANSWERS_S:g} s: run 'zssmnet-deploy', and check that the "
            "automation 'zssmnet: say that messages arrive' is on"
        )
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
