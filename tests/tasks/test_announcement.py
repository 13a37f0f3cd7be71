"""Events of published models, and which of them are sent again, on a real Prefect server."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.announcement import ANNOUNCED, PUBLISHED, announce
from tests.model_record import model_record
from zssmnet.registry.versions import MODEL, publish, roll_back
from zssmnet.storage import LocalStorage
from zssmnet.storage.records import remove_record
from zssmnet.storage.verification import verify_stage

PATIENCE_S = 300
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture
def weights(tmp_path: Path, prefect_api: str) -> LocalStorage:
    return LocalStorage(tmp_path / "weights")


def add(weights: LocalStorage, run_id: str) -> None:
    """Publish a model."""
    file = weights.folder.with_name("best")
    file.write_text(f"the weights of {run_id}")
    publish(weights, model_record(run_id), file)


def events(weights: LocalStorage) -> list[tuple[str, str]]:
    """Version and reason of all events about this folder's model, from the first to the last."""
    wanted: dict[str, Any] = {
        "event": {"name": [PUBLISHED]},
        "resource": {"id": [f"zssmnet.model.{weights.where(MODEL)}"]},
    }
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
    return [(one["payload"]["version"], one["payload"]["reason"]) for one in reversed(found)]


def wait_for_events(weights: LocalStorage, expected: list[tuple[str, str]]) -> None:
    """The server has an event before it shows it."""
    deadline = time.monotonic() + PATIENCE_S
    while events(weights) != expected:
        assert time.monotonic() < deadline, events(weights)
        time.sleep(0.2)


def test_each_change_of_the_stable_model_is_announced_once(weights: LocalStorage) -> None:
    announce(weights, "pretraining")
    add(weights, "aaaa")
    announce(weights, "pretraining")
    announce(weights, "pretraining")
    add(weights, "bbbb")
    announce(weights, "challenge")
    announce(weights, "challenge")
    roll_back(weights)
    announce(weights, "rollback")
    announce(weights, "challenge")
    wait_for_events(weights, [("aaaa", "pretraining"), ("bbbb", "challenge"), ("aaaa", "rollback")])


def test_a_model_whose_run_was_killed_before_it_told_is_announced_by_the_next(weights: LocalStorage) -> None:
    add(weights, "aaaa")
    announce(weights, "pretraining")
    add(weights, "bbbb")  # and killed
    announce(weights, "pretraining")
    remove_record(weights, ANNOUNCED)  # as if killed between event and record: sent twice, but not never
    announce(weights, "pretraining")
    wait_for_events(weights, [("aaaa", "pretraining"), ("bbbb", "pretraining"), ("bbbb", "pretraining")])


def test_a_server_that_is_away_is_told_later(weights: LocalStorage, caplog: pytest.LogCaptureFixture) -> None:
    add(weights, "aaaa")
    with temporary_settings({PREFECT_API_URL: NOBODY}), caplog.at_level(logging.WARNING, "zssmnet"):
        announce(weights, "pretraining")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"could not send {PUBLISHED}; the next run retries"
    ]
    assert weights.stat(f"records/{ANNOUNCED}.json") is None
    announce(weights, "pretraining")
    wait_for_events(weights, [("aaaa", "pretraining")])


def test_the_record_is_not_foreign(weights: LocalStorage) -> None:
    add(weights, "aaaa")
    announce(weights, "pretraining")
    assert weights.stat(f"records/{ANNOUNCED}.json")
    assert verify_stage(weights) == []
