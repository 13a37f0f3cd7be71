"""Events about what a person must do something about, on a real Prefect server."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from tasks import attention, progress
from tasks.attention import DISK_FULL, STALLED, check_disks
from tasks.progress import RunProgress

PATIENCE_S = 300


def events(name: str) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json={"filter": {"event": {"name": [name]}}})
    return list(found.json()["events"])


def wait_for_event(name: str, text: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := [one for one in events(name) if text in one["payload"]["message"]]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found[0]


def test_a_disk_that_is_nearly_full_is_reported_once_for_all_that_lies_on_it(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ZSSMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(attention, "PREFECT_HOME", type("Setting", (), {"value": lambda self: tmp_path})())
    monkeypatch.setattr(attention, "FREE_GB", 0.0)
    with caplog.at_level(logging.WARNING, "zssmnet"):
        check_disks("s3://bucket/root")
        check_disks(str(tmp_path / "root" / "not" / "there" / "yet"))
        assert caplog.messages == []
        monkeypatch.setattr(attention, "FREE_GB", 1e9)
        monkeypatch.setattr(attention, "FREE_SHARE", 1.1)
        check_disks(str(tmp_path / "root" / "not" / "there" / "yet"))
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: only ")
    assert line.endswith(" GB are free; make room")
    assert wait_for_event(DISK_FULL, str(tmp_path))["resource"]["prefect.resource.id"].endswith(f":{tmp_path}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "UPDATE_EVERY_S", 0.05)
    monkeypatch.setattr(attention, "SILENCE_S", 0.2)


def test_a_run_that_does_not_advance_is_reported_once(
    prefect_api: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    @flow(flow_run_name="the silent one")
    def silent() -> None:
        with RunProgress() as progress:
            progress.begin("train", 3, "epochs")
            progress.advance("train")
            wait_for_event(STALLED, "the silent one")
            time.sleep(0.5)

    with caplog.at_level(logging.WARNING, "zssmnet"):
        silent()
    (line,) = (one for one in caplog.messages if "has not advanced" in one)
    assert line == "run the silent one has not advanced for 0 min; check its machine and storage"


def test_neither_a_run_that_waits_for_its_first_step_nor_one_after_its_last_is_stalled(
    prefect_api: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock of another run, or the publication, may take long; so may what took long before."""

    @flow
    def patient() -> None:
        with RunProgress() as progress:
            progress.begin("train", 2, "epochs")
            time.sleep(0.5)
            progress.note("train", "step 1")
            assert progress.signs
            progress.signs.longest = 100.0
            time.sleep(0.5)
            progress.advance("train", 2)
            time.sleep(0.5)

    with caplog.at_level(logging.WARNING, "zssmnet"):
        patient()
    assert not [one for one in caplog.messages if "has not advanced" in one]
