"""Prefect's server, which may be away: the errors of its client, and events that are sent at once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.exceptions import PrefectException

from zssmnet.errors import without_credentials

UNANSWERED = (httpx.HTTPError, PrefectException, RuntimeError)
"""What Prefect's client raises where the server does not answer, or refuses."""


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """Ignore errors of a server that does not answer: what it should have got is lost, the work continues."""
    with suppress(*UNANSWERED):
        yield


def reason_of(error: BaseException) -> str:
    """The message of an error as one line without credentials."""
    return without_credentials(" ".join(str(error).split()))


def send_events(*events: Event) -> None:
    """Send events and wait until the server has them; Prefect's ``emit_event`` sends some time later, or not."""
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
