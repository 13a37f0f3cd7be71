"""Deploying again keeps what users have set, adds what is new, and says both: on a real server, without workers."""

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.filesystems import RemoteFileSystem
from prefect.states import Crashed, Pending, Running

from deployments import setup
from deployments.automations import announce_crashes, automations
from flows.watch import MARKER, watch_for_data
from tasks.hand_off import WORK_QUEUE, HandOff

RETRAIN = "retrain-on-new-data/retrain-on-new-data"
TRIGGER = "retrain when data have arrived"
USER_S = {"images_path": "s3://mine/images", "root": "s3://mine/root", "pretraining": {"training": {"epochs": 3}}}

FOLDERS = {"images_path": "s3://mine/images", "zonal_mask_path": "s3://mine/masks", "output_path": "s3://mine/data"}

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def first(prefect_api: str) -> None:
    assert setup.main() == 0


@pytest.fixture(scope="module")
def client(first: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def automation(client: SyncPrefectClient, name: str) -> Any:
    (one,) = client.read_automations_by_name(name)
    return one


def change(client: SyncPrefectClient, name: str, **changes: Any) -> Any:
    """Change an automation as a user, or an earlier version, does; as it was."""
    one = automation(client, name)
    kept = one.model_dump(mode="json", include={"name", "description", "trigger", "actions", "enabled"})
    client.request("PUT", f"/automations/{one.id}", json=kept | changes)
    return one


@dataclass(frozen=True)
class Again:
    """Deployed again, after users and an earlier version.

    Attributes:
        before: the deployment that a user has changed.
        old: the automation that an earlier version has made.
        said: what deploying printed.
    """

    before: DeploymentResponse
    old: Any
    said: str


LOST, CHANGED, _, OLD = (one.name for one in automations()[:4])
OWN = {"description": "ours", "tags": ["ours"], "work_queue_name": "ours", "paused": True, "concurrency_limit": 7}


@pytest.fixture(scope="module")
def again(client: SyncPrefectClient) -> Again:
    before = client.read_deployment_by_name(RETRAIN)
    (weekly,) = before.schedules
    client.update_deployment_schedule(before.id, weekly.id, active=True)
    client.create_deployment_schedules(before.id, [(CronSchedule(cron="1 2 * * *", timezone="Europe/Berlin"), True)])
    client.update_deployment(before.id, DeploymentUpdate(parameters={**before.parameters, **USER_S}))
    client.request("PATCH", f"/deployments/{before.id}", json={"version": "0.0.9", **OWN})
    client.pause_automation(automation(client, LOST).id)
    client.pause_automation(automation(client, TRIGGER).id)
    change(client, CHANGED, actions=[{"type": "do-nothing"}])
    old = change(client, OLD, description="of an earlier version", enabled=False, actions=[{"type": "do-nothing"}])
    with redirect_stdout(io.StringIO()) as said:
        assert setup.main() == 0
    return Again(before, old, said.getvalue())


def test_data_that_have_come_start_the_retraining(client: SyncPrefectClient, tmp_path: Path) -> None:
    """The marker is dropped, the watch sees it and sends the event, which starts the deployment."""
    deployment = client.read_deployment_by_name(RETRAIN)
    archive = {"images_path": str(tmp_path), "zonal_mask_path": str(tmp_path), "root": str(tmp_path / "root")}
    parameters = {**deployment.parameters, **archive}
    client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
    (tmp_path / MARKER).write_text("2026-11-24")
    assert watch_for_data(str(tmp_path))
    assert not watch_for_data(str(tmp_path))  # seen
    its = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    deadline = time.monotonic() + 120
    while not (runs := client.read_flow_runs(deployment_filter=its)) and time.monotonic() < deadline:
        time.sleep(0.2)
    (run,) = runs
    assert run.parameters == parameters
    client.delete_flow_run(run.id)
    client.update_deployment(deployment.id, DeploymentUpdate(parameters=deployment.parameters))


def test_deploying_again_keeps_what_a_user_has_set(client: SyncPrefectClient, again: Again) -> None:
    after = client.read_deployment_by_name(RETRAIN)
    assert after.id == again.before.id
    assert after.version == again.before.version
    assert sorted((one.schedule.cron, one.active) for one in after.schedules) == [
        ("0 3 * * 1", True),
        ("1 2 * * *", True),
    ]
    assert after.model_dump(include={*OWN} - {"concurrency_limit"}) | {"concurrency_limit": 7} == OWN
    assert after.global_concurrency_limit
    assert after.global_concurrency_limit.limit == 7
    assert after.parameters == {"hand_off": {"deployment": "pretrain/pretrain"}, **USER_S}
    assert not automation(client, LOST).enabled
    assert not automation(client, TRIGGER).enabled
    assert automation(client, CHANGED).actions[0].type == "do-nothing"
    said = again.said
    assert "deployment retrain-on-new-data is updated" in said
    assert "schedules (0 3 * * 1 on, 1 2 * * * on)" in said or "schedules (1 2 * * * on, 0 3 * * 1 on)" in said
    assert f"automation {LOST!r} is unchanged, and off, as you left it" in said
    assert f"automation {CHANGED!r} is left as you changed it" in said


def test_what_an_earlier_version_made_otherwise_is_brought_up_to_date(client: SyncPrefectClient, again: Again) -> None:
    new = automation(client, OLD)
    assert (new.id, new.enabled, new.actions[0].type) == (again.old.id, False, "change-flow-run-state")


def test_what_is_missing_is_made_and_said(
    client: SyncPrefectClient, again: Again, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deployment that cannot run yet."""
    client.delete_deployment(again.before.id)
    assert setup.main() == 0
    assert (
        "note: deployment retrain-on-new-data cannot run by schedule or event before it has images_path, "
        "zonal_mask_path, root" in capsys.readouterr().out
    )
    assert HandOff.model_validate(client.read_deployment_by_name(RETRAIN).parameters["hand_off"]).deployment


def test_a_crash_is_announced_again_unless_a_parent_sees_to_its_run(client: SyncPrefectClient) -> None:
    """The server may have ended before it has acted on a crash, as when everything is stopped."""
    deployment = client.read_deployment_by_name("prepare-data/prepare-data")
    runs = [
        client.create_flow_run_from_deployment(deployment.id, work_queue_name=queue, parameters=FOLDERS)
        for queue in ("default", WORK_QUEUE)
    ]
    for run in runs:
        for state in (Pending(), Running(), Crashed(message="stopped")):  # one that never began would fail for good
            client.set_flow_run_state(run.id, state, force=True)
    assert announce_crashes(client) >= 1

    def announced(run: FlowRun) -> list[str | None]:
        wanted = {"event": {"name": ["prefect.flow-run.Crashed"]}, "resource": {"id": [f"prefect.flow-run.{run.id}"]}}
        found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
        return [one["follows"] for one in found if not one["payload"]]

    deadline = time.monotonic() + 120
    while not announced(runs[0]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [announced(run) for run in runs] == [[None], []]  # a new server waits for what it should follow
    for run in runs:
        client.delete_flow_run(run.id)


def test_the_run_form_shows_what_matters_first_and_folds_its_sections() -> None:
    """As far as Prefect's UI allows: a section that may be none is folded; fields come in the order of positions."""
    form = setup.run_form("flows.of_stages.ssl_pretraining")
    fields = sorted(form["properties"].items(), key=lambda one: one[1]["position"])
    assert [name for name, _ in fields][:4] == ["images_path", "zonal_mask_path", "root", "zones_model"]
    sections = {name: field for name, field in fields if "$ref" in str(field)}
    assert [(name, field["default"]) for name, field in sections.items()][:-1] == [
        ("preparation", None),
        ("cubes", None),
        ("pretraining", None),
    ]
    assert fields[-1][0] == "hand_off"
    for section in form["definitions"].values():
        assert [(one["position"], one["title"]) for one in section["properties"].values()] == [
            *enumerate(section["properties"])
        ]
    challenger = setup.run_form("flows.of_stages.retrain_on_new_data")["definitions"]["ChallengerTrainingConfig"]
    assert challenger["properties"]["epochs"]["default"] == 100


def test_a_block_of_results_that_a_user_has_edited_is_kept(
    client: SyncPrefectClient, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSSMNET_BUCKET", "zssmnet")
    setup.make_result_storage()
    block = RemoteFileSystem.load(setup.RESULTS)
    assert block.basepath == "s3://zssmnet/results"
    RemoteFileSystem(basepath="s3://elsewhere/results").save(setup.RESULTS, overwrite=True)
    setup.make_result_storage()
    assert RemoteFileSystem.load(setup.RESULTS).basepath == "s3://elsewhere/results"
    assert "exists: results of runs go where it leads" in capsys.readouterr().out
