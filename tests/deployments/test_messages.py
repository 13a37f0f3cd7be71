"""Messages to people: on a real server, without workers; the tests set the states that runs would set."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Completed, Crashed, Failed, Late, Pending, Running
from pydantic import SecretStr

from deployments.automations import automations, make, messages
from deployments.messages import BLOCK, TEST, send_test_message, webhook
from flows.of_stages import prepare_data
from tasks.announcement import PUBLISHED
from tasks.attention import DISK_FULL, STALLED
from tasks.hand_off import WORK_QUEUE
from zssmnet.errors import ServiceError

pytestmark = pytest.mark.integration

FOLDERS = {"images_path": "s3://mine/images", "zonal_mask_path": "s3://mine/masks", "output_path": "s3://mine/data"}
SOON_S = 10
"""The least that Prefect takes."""


class Receiver:
    """An address that keeps what is posted there, and answers with a status."""

    def __init__(self) -> None:
        posted: list[str] = []
        receiver = self
        self.posted, self.status = posted, 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def about(self, name: str) -> list[str]:
        return [one for one in self.posted if name in one]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiver.server as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


@pytest.fixture(scope="module")
def client(prefect_api: str, receiver: Receiver) -> Iterator[SyncPrefectClient]:
    """Of a server with a deployment, and all messages on."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="unserved", type="process"))
        client.create_deployment(client.create_flow(prepare_data), name="told", work_pool_name="unserved")
        block, _ = webhook(client)
        address = SecretStr(f"http://127.0.0.1:{receiver.server.server_port}/")
        Webhook(method="POST", url=address).save(BLOCK, overwrite=True)
        for one in messages(block, UNSERVED_S=SOON_S, QUEUED_S=SOON_S):
            assert one.enabled == one.name.endswith("messages arrive")
            make(client, one)
            (made,) = client.read_automations_by_name(one.name)
            client.resume_automation(made.id)
        yield client


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def run(client: SyncPrefectClient, *states: object, queue: str = "default", parent: str = "") -> FlowRun:
    """A run of a deployment that went through these states."""
    deployment = client.read_deployment_by_name("prepare-data/told")
    name = f"prepare-data {uuid4()}"
    run = client.create_flow_run_from_deployment(deployment.id, name=name, parameters=FOLDERS, work_queue_name=queue)
    for state in states:
        client.set_flow_run_state(run.id, state, force=True)  # type: ignore[arg-type]
    return run


def test_a_person_reads_of_final_failures_and_of_nothing_that_mends_itself(
    client: SyncPrefectClient, receiver: Receiver
) -> None:
    began = (Pending(), Running())
    mended = run(client, *began, Crashed(message="stopped"), AwaitingRetry(), *began, Completed())
    handed_over = run(client, *began, Failed(message="its parent reports it"), queue=WORK_QUEUE)
    failed = run(client, *began, Failed(message='the disk "data" is full'))
    restarted = run(client, *began, Crashed(message="gone"), AwaitingRetry(), *began, Failed(message="no such file"))
    left_out = run(client, *began, Completed(name="Cases left out", message="6 of 8 cases used"))
    until(lambda: all(receiver.about(one.name) for one in (failed, restarted, left_out)))
    assert receiver.about(failed.name) == [f'Run {failed.name} ended as Failed: the disk "data" is full']
    assert receiver.about(restarted.name) == [f"Run {restarted.name} ended as Failed: no such file"]
    assert receiver.about(left_out.name) == [f"Run {left_out.name} ended as Cases left out: 6 of 8 cases used"]
    assert receiver.about(mended.name) == receiver.about(handed_over.name) == []


def test_the_file_names_the_events_that_are_sent() -> None:
    expected = {name for one in messages(uuid4()) for name in one.trigger.expect}  # type: ignore[union-attr]
    assert {name for name in expected if name.startswith("zssmnet.")} == {PUBLISHED, STALLED, DISK_FULL, TEST}


@pytest.mark.parametrize(("reason", "fails"), [
    ("PrefectHTTPStatusError: Server error '503 Service Unavailable' for url ...", False),
    ("ImageNotFound: no such image", True),
])  # fmt: skip
def test_a_run_that_met_a_busy_server_before_it_began_does_not_fail(reason: str, fails: bool) -> None:
    (one,) = (one for one in automations() if one.name.endswith("not started again"))
    resource = {"prefect.resource.id": "prefect.flow-run.1", "prefect.run-count": "0"}
    event = ReceivedEvent(
        id=uuid4(),
        occurred=datetime.now(UTC),
        event="prefect.flow-run.Crashed",
        resource=resource | {"prefect.state-message": f"Failed to submit flow run to infrastructure: {reason}"},
        related=[
            {
                "prefect.resource.id": "prefect.work-queue.1",
                "prefect.resource.role": "work-queue",
                "prefect.resource.name": "default",
            }
        ],
    )
    assert EventTrigger.model_validate(one.trigger.model_dump()).covers(event) == fails


def test_a_rollback_says_rollback(client: SyncPrefectClient, receiver: Receiver) -> None:
    for version, reason in (("1111", "challenge"), ("2222", "rollback")):
        model = {"version": version, "model": "s3://zssmnet/root/ssl_mnet_zonal.model", "reason": reason}
        event = Event(event=PUBLISHED, resource={"prefect.resource.id": "zssmnet.model.any"}, payload=model)
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
    until(lambda: len(receiver.about("ssl_mnet_zonal")) == 2)
    assert sorted(receiver.about("ssl_mnet_zonal")) == [
        "New model 1111: s3://zssmnet/root/ssl_mnet_zonal.model",
        "Rolled back to model 2222: s3://zssmnet/root/ssl_mnet_zonal.model",
    ]


@pytest.mark.long
def test_a_pool_without_workers_and_a_run_that_waits_are_reported(
    client: SyncPrefectClient, receiver: Receiver
) -> None:
    """And neither a pool whose worker is back, nor a run that begins."""
    for name in ("deserted", "restarted"):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        client.request("POST", f"/work_pools/{name}/workers/heartbeat", json={"name": "one"})
        client.request("DELETE", f"/work_pools/{name}/workers/one")
    late, begun = run(client, Late()), run(client, Late(), Pending(), Running())
    client.request("POST", "/work_pools/restarted/workers/heartbeat", json={"name": "two"})
    until(lambda: bool(receiver.about("deserted") and receiver.about(late.name)))
    assert receiver.about("deserted") == ["No worker serves work pool deserted: check the machines that should"]
    assert receiver.about(late.name) == [f"Run {late.name} has waited for hours to start: check its work pool"]
    assert receiver.about("restarted") == receiver.about(begun.name) == []


def test_a_test_message_says_whether_it_arrived(client: SyncPrefectClient, receiver: Receiver) -> None:
    assert send_test_message().startswith("the receiver answered 200")
    assert receiver.about("test message")
    receiver.status = 404
    with pytest.raises(ServiceError, match="did not arrive: the receiver answered 404; check the address in block"):
        send_test_message()
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ServiceError, match=r"http://127.0.0.1:9/api: "),
    ):
        send_test_message()
    receiver.status = 200
    Webhook(method="POST", url=SecretStr("http://127.0.0.1:9/")).save(BLOCK, overwrite=True)
    with pytest.raises(ServiceError, match="did not arrive: Webhook call failed: "):
        send_test_message()
