"""The database's size over days of runs: a real server, whose rows are made older to let days pass."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import LogCreate
from prefect.states import Completed, Pending, Running

from deployments.local_settings import DATABASE
from tests.deployments.stack_fixture import temporary_stack, wait_for
from tests.integration.service import Service, connected

pytestmark = [pytest.mark.integration, pytest.mark.long]

DAYS, KEPT_DAYS, RUNS_A_DAY = 7, 2, 12
"""In place of 90 days and 288 runs a day of watch-for-data."""
OLDER = ("flow_run", "flow_run_state", "log", "events", "event_resources", "automation_bucket", "automation_held_event")
SETTINGS = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(KEPT_DAYS * 86400),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": "{}",
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{KEPT_DAYS}D",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2",
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with temporary_stack(**SETTINGS) as stack:
        stack.start(["server", "setup"])
        with connected(stack) as service:
            yield service


def watch(client: SyncPrefectClient, number: int) -> None:
    """A run as the schedule of watch-for-data starts it, and its log."""
    deployment = client.read_deployment_by_name("watch-for-data/watch-for-data")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"images_path": "/archive"})
    for state in (Pending(), Running(), Completed()):
        client.set_flow_run_state(run.id, state)
    lines = [
        LogCreate(name="zssmnet", level=20, message=f"{number}: no new data", timestamp=run.created, flow_run_id=run.id)
    ]
    client.request("POST", "/logs/", json=[line.model_dump(mode="json") for line in lines])


def rows(database: Path) -> dict[str, int]:
    tables = ("flow_run", "log", "events", "automation_held_event")
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return {one: connection.execute(f"SELECT count(*) FROM {one}").fetchone()[0] for one in tables}  # noqa: S608


def pages(database: Path) -> int:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


def let_a_day_pass(database: Path) -> None:
    """Make all rows a day older, in every column of a point in time."""
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        tables = [one for (one,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if "TIME" in row[2].upper()]
            if columns and table in OLDER:
                older = ", ".join(f"{one} = strftime('%Y-%m-%d %H:%M:%f', {one}, '-1 day')" for one in columns)
                connection.execute(f"UPDATE {table} SET {older}")  # noqa: S608


def test_days_of_watching_for_data_leave_the_database_as_large_as_it_was(service: Service) -> None:
    database = service.stack.folder / DATABASE
    sizes, runs = [], []
    for day in range(DAYS):
        for number in range(RUNS_A_DAY):
            watch(service.client, day * RUNS_A_DAY + number)
        time.sleep(10)  # the automations see how the last runs went on
        let_a_day_pass(database)
        wait_for(lambda: rows(database)["flow_run"] <= KEPT_DAYS * RUNS_A_DAY)
        time.sleep(6)  # logs, events and what automations remember go with the next rounds
        sizes.append(pages(database))
        runs.append(rows(database))
        print(day + 1, sizes[-1], runs[-1])
    assert runs[-1]["flow_run"] == runs[KEPT_DAYS]["flow_run"]
    assert runs[-1]["log"] <= runs[KEPT_DAYS + 1]["log"]
    assert max(sizes[KEPT_DAYS + 2 :]) <= 1.05 * sizes[KEPT_DAYS + 1]
