"""The service as its users meet it: deployments, workers in processes of their own, S3 over HTTP, a real server.

The tests of this module belong together and run in order: each goes on where those before it left the service. Runs
that take long are started early and looked after later, so that they wait for nobody. Without ``--long`` those runs are
left out that no other test needs.
"""

import asyncio
import json
import os
import re
import secrets
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import s3fs
import yaml
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from prefect.testing.cli import CycloptsCliRunner
from prefect.workers.process import ProcessJobConfiguration

from deployments import setup
from deployments.automations import automations, messages
from flows import cli
from flows.watch import watch_for_data
from tests.deployments.stack_fixture import kill, take_down, temporary_stack
from tests.integration.browser import look, look_while_it_trains, signed_in
from tests.integration.secrecy import Secrets
from tests.integration.service import ROOT, Service, connected, flow_run_id
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.ledger import Ledger
from zssmnet.phantom import evenly_split_cases
from zssmnet.registry.versions import MODEL, list_versions, stable_model
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout

pytestmark = pytest.mark.integration

DEPLOYMENTS = [f"{one['name']}/{one['name']}" for one in yaml.safe_load(setup.PREFECT_FILE.read_text())["deployments"]]

QUICK = {
    "OMP_NUM_THREADS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
}
CUBES = {"cubes_per_case": 2}
NETWORK: dict[str, Any] = {"channels": [2, 2, 2, 2, 2]}
CORRUPTION: dict[str, Any] = {"shuffling": {"windows": 50}}
FIRST_CASES, ALL_CASES = 6, 12
S3_ROOT = "s3://zssmnet/root"
LOST = "No heartbeat: the run's machine or process is gone."


def recipe(epochs: int, **more: Any) -> dict[str, Any]:
    training = {"epochs": epochs, "batch_size": 4, "device": "cpu", **more}
    return {"network": NETWORK, "corruption": CORRUPTION, "training": training}


@dataclass(frozen=True)
class Archive:
    """Images and masks, at first of some cases, and more of them to come."""

    images: Path
    masks: Path
    to_come: Path

    @property
    def parameters(self) -> dict[str, str]:
        return {"images_path": str(self.images), "zonal_mask_path": str(self.masks)}

    def ids(self) -> list[str]:
        return sorted(path.name.removesuffix(".nii.gz") for path in self.masks.iterdir())

    def more(self, count: int) -> list[str]:
        """Let so many of the cases come that are to come."""
        ids = sorted(path.name.removesuffix(".nii.gz") for path in (self.to_come / "masks").iterdir())[:count]
        for case_id in ids:
            for channel in range(3):
                name = f"{case_id}_000{channel}.nii.gz"
                (self.to_come / "images" / name).rename(self.images / "imagesTr" / name)
            (self.to_come / "masks" / f"{case_id}.nii.gz").rename(self.masks / f"{case_id}.nii.gz")
        return ids


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    first_masks = {f"{case_id}.nii.gz" for case_id in evenly_split_cases(FIRST_CASES)}
    images, masks = small_archive(folder / "all", ALL_CASES)
    archive = Archive(images, masks, folder / "to_come")
    for name in ("images", "masks"):
        (archive.to_come / name).mkdir(parents=True)
    for mask in sorted(masks.iterdir()):
        if mask.name not in first_masks:
            for channel in range(3):
                name = mask.name.replace(".nii.gz", f"_000{channel}.nii.gz")
                (images / "imagesTr" / name).rename(archive.to_come / "images" / name)
            mask.rename(archive.to_come / "masks" / mask.name)
    return archive


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="module")
def service(s3_endpoint: str) -> Iterator[Service]:
    """Everything but the worker of the pool gpu."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_urlsafe(24))
        with temporary_stack(s3_endpoint, **QUICK) as stack:
            stack.start(["server", "setup", "cpu-worker"])
            with connected(stack) as service:
                yield service


@pytest.fixture(scope="module")
def first_run(service: Service, archive: Archive, roots: Path) -> FlowRun:
    """All stages on a folder, started with Prefect's own command while nobody serves the pool gpu."""
    parameters = {**archive.parameters, "root": str(roots / "folder"), "cubes": CUBES, "pretraining": recipe(6)}
    words = ["deployment", "run", "ssl-pretraining/ssl-pretraining", "--params", json.dumps(parameters)]
    done = CycloptsCliRunner().invoke(words)
    assert done.exit_code == 0, done.output
    return service.client.read_flow_run(flow_run_id(done.output))


@pytest.fixture(scope="module")
def command_run(service: Service, archive: Archive, roots: Path) -> int:
    """All stages with ``zssmnet run``, which trains in its own process; the exit status."""
    settings = roots / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    words = ["--images_path", str(archive.images), "--zonal_mask_path", str(archive.masks)]
    with pytest.raises(SystemExit) as exit:
        cli.main(["run", *words, "--config", str(settings), "--output", str(roots / "run")])
    return int(exit.value.code or 0)


@pytest.fixture(scope="module")
def impatient_run(service: Service, archive: Archive, roots: Path, first_run: FlowRun, command_run: int) -> FlowRun:
    """A run on the command's root, where all but the training is up to date, that gives up soon."""
    parameters = {**archive.parameters, "root": str(roots / "run"), "cubes": CUBES, "pretraining": recipe(6)}
    hand_off = {"deployment": "pretrain/pretrain", "patience_min": 0.05}
    return service.start("ssl-pretraining", {**parameters, "hand_off": hand_off})


@pytest.fixture(scope="module")
def orphaning_run(service: Service, archive: Archive, roots: Path, impatient_run: FlowRun) -> FlowRun:
    """A run on a root of its own, whose machine is lost while it waits for its training."""
    parameters = {**archive.parameters, "root": str(roots / "orphaning"), "cubes": CUBES, "pretraining": recipe(1)}
    return service.start("ssl-pretraining", parameters)


@pytest.fixture(scope="module")
def s3_run(service: Service, archive: Archive) -> FlowRun:
    """All stages with archive and root in a bucket."""
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.put(f"{archive.images}/", "zssmnet/archive/images/", recursive=True)
    bucket.put(f"{archive.masks}/", "zssmnet/archive/masks/", recursive=True)
    archive_there = {"images_path": "s3://zssmnet/archive/images", "zonal_mask_path": "s3://zssmnet/archive/masks"}
    parameters = {**archive_there, "root": S3_ROOT, "cubes": CUBES, "pretraining": recipe(2)}
    return service.start("ssl-pretraining", parameters)


def test_deploying_again_makes_nothing_twice(
    service: Service, first_run: FlowRun, long: bool, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the runs of the fixtures are on their way."""
    if long:
        request.getfixturevalue("orphaning_run")
    capfd.readouterr()
    assert setup.main() == 0
    reported = capfd.readouterr().out
    names = [name.partition("/")[0] for name in DEPLOYMENTS]
    assert all(f"deployment {name} is updated" in reported for name in names)
    deployments = service.client.read_deployments()
    names = [f"{one.name}/{one.name}" for one in deployments]
    assert sorted(names) == sorted(DEPLOYMENTS)
    wanted = [*automations(), *messages(uuid4())]
    assert len(service.client.read_automations()) == len(wanted) + 1  # and the trigger of retraining
    for one in deployments:
        assert one.description
        assert one.tags
        assert one.version
        trains = one.name in ("pretrain", "probe", "train-zones", "ssl-pretraining", "retrain-on-new-data")
        assert (one.global_concurrency_limit is None) == trains  # a limit is a lease, which ends with the server
        assert not any(schedule.active for schedule in one.schedules)
        helps = {name: field.get("description") for name, field in one.parameter_openapi_schema["properties"].items()}
        assert all(helps.values()), helps
    assert service.client.read_work_pool("gpu").concurrency_limit == 1
    assert {service.client.read_work_pool(name).type for name in ("cpu", "gpu")} == {"process"}


def test_keys_can_come_from_blocks(service: Service) -> None:
    """As the worker does it when a run starts: neither the deployment nor the run's parameters hold them."""
    template = json.loads((ROOT / "deployments" / "job_templates" / "process-s3-blocks.json").read_text())
    for name in ("s3-access-key-id", "s3-secret-access-key"):
        Secret(value=f"the value of {name}").save(name)
    configuration = asyncio.run(ProcessJobConfiguration.from_template_and_values(template, {"env": {"OTHER": "1"}}))
    assert configuration.env == {
        "AWS_ACCESS_KEY_ID": "the value of s3-access-key-id",
        "AWS_SECRET_ACCESS_KEY": "the value of s3-secret-access-key",
        "OTHER": "1",
    }


def test_a_run_says_at_once_when_nobody_serves_the_pool(service: Service, first_run: FlowRun, ledger: Ledger) -> None:
    with ledger.tried("service", "nobody serves the pool gpu"):
        service.until(lambda: bool(service.children(first_run, "pretrain")))
        service.until(lambda: "hand-off" in service.artifacts(first_run))
        reason = "no live worker serves work pool 'gpu'"
        assert reason in str(service.artifacts(first_run)["hand-off"].data)
        service.until(lambda: reason in service.log(first_run))


@pytest.mark.long
def test_a_run_gives_up_when_nobody_comes(service: Service, impatient_run: FlowRun, ledger: Ledger) -> None:
    with ledger.tried("service", "nobody serves the pool gpu"):
        name, message = service.ended(impatient_run)
        assert name == "Failed"
        assert "not started within 0.05 min: no live worker serves work pool 'gpu'; start one with" in message
        (child,) = service.children(impatient_run, "pretrain")
        assert service.ended(child)[0] == "Cancelled"


@pytest.mark.long
def test_a_parent_is_lost_while_it_waits(service: Service, orphaning_run: FlowRun) -> None:
    """The worker and the process of one run; the runs beside it go on alone. What becomes of it is seen later."""
    service.until(lambda: "hand-off" in service.artifacts(orphaning_run))
    process = service.process_of(orphaning_run, "cpu-worker")
    kill(service.stack, "cpu-worker")
    os.kill(process, signal.SIGKILL)


def test_a_worker_comes(service: Service, first_run: FlowRun, roots: Path, long: bool) -> None:
    """And the training begins. In the long part the whole machine is lost then; what becomes of it is seen later."""
    service.client.update_work_pool("gpu", _limit(2))  # else the lost run would hold the pool's only place
    service.stack.start(["gpu-worker"])
    training = Path(Layout(str(roots / "folder")).weights) / "training"
    service.until(lambda: len(list(training.glob("*/last.checkpoint"))) == 1)
    if long:
        (run,) = service.processes_of("gpu-worker")
        kill(service.stack, "gpu-worker")
        os.kill(run, signal.SIGKILL)


@pytest.mark.long
def test_the_command_gives_the_same_files(first_run: FlowRun, command_run: int, roots: Path) -> None:
    assert command_run == 0
    assert_same_files(str(roots / "run"), str(roots / "folder"))


@pytest.mark.long
def test_s3_gives_the_same_files(service: Service, s3_run: FlowRun, archive: Archive, roots: Path) -> None:
    """Nothing but addresses goes from one worker to the other."""
    idle = service.start("retrain-on-new-data", retraining(archive, roots, recipe(2)))
    assert service.ended(s3_run)[0] == "Completed", service.log(s3_run)
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    (child,) = service.children(s3_run, "pretrain")
    assert child.work_pool_name == "gpu"
    assert service.ended(child)[0] == "Completed"
    assert_same_files(S3_ROOT, str(roots / "run"))
    assert bucket.exists(f"zssmnet/root/SSL/pretrained_weights/{MODEL}")
    (model,) = list_versions(open_storage(Layout(S3_ROOT).weights))
    results = bucket.find("zssmnet/results")
    assert any(model.outputs[0].sha256 in bucket.cat_file(path).decode() for path in results)
    assert max(bucket.size(path) for path in results) < 20_000  # small records, of tasks and flows

    name, message = service.ended(idle)
    assert name == "Nothing new", message
    assert "0 new or changed cases, fewer than 3" in message
    assert not [task for task in service.tasks(idle) if task.startswith("prepare-")]
    assert not service.children(idle, "pretrain")


@pytest.mark.long
def test_a_worse_challenger_is_not_published(service: Service, archive: Archive, roots: Path) -> None:
    root = roots / "run"
    before = cubes_by_case(root)
    stable = published(root)
    new = archive.more(3)
    run = service.start("retrain-on-new-data", retraining(archive, roots, recipe(1, learning_rate=50.0)))
    name, message = service.ended(run)
    assert name == "Not better", message
    assert [task for task in service.tasks(run) if task.startswith("prepare-")] == [f"prepare-{one}" for one in new]
    assert "- new: 3" in str(service.artifacts(run)["summary"].data)
    after = cubes_by_case(root)
    assert set(after) - set(before) == set(new)
    for case_id, cubes in before.items():
        np.testing.assert_array_equal(after[case_id], cubes)
    assert published(root) == stable
    assert [one["sha256"] for one in announcements(service, str(root))] == [stable]
    assert [one["reason"] for one in announcements(service, S3_ROOT)] == ["pretraining"]


@pytest.mark.long
def test_a_better_one_is_published_when_data_arrive(service: Service, archive: Archive, roots: Path) -> None:
    """The marker is dropped, the watch sees it and sends the event, which starts the deployment."""
    root = roots / "run"
    before = published(root)
    deployment = service.client.read_deployment_by_name("retrain-on-new-data/retrain-on-new-data")
    parameters = {**deployment.parameters, **retraining(archive, roots, recipe(4, learning_rate=0.1))}
    service.client.request("PATCH", f"/deployments/{deployment.id}", json={"parameters": parameters})
    known = {run.id for run in service.runs_of("retrain-on-new-data")}
    archive.more(ALL_CASES - len(archive.ids()))
    (archive.images / "NEW_DATA").write_text("2026-11-24")
    assert watch_for_data(str(archive.images))
    assert not watch_for_data(str(archive.images))  # seen
    service.until(lambda: len(service.runs_of("retrain-on-new-data")) > len(known))
    (run,) = [run for run in service.runs_of("retrain-on-new-data") if run.id not in known]
    name, message = service.ended(run)
    assert name == "Published", message
    after = published(root)
    assert after != before
    service.until(lambda: announcements(service, str(root))[0]["sha256"] == after)
    event = announcements(service, str(root))[0]
    assert event["reason"] == "challenge"
    assert len(list_versions(open_storage(Layout(str(root)).weights))) == 2


@pytest.mark.long
def test_rolling_back_is_one_command(service: Service, roots: Path) -> None:
    weights = open_storage(Layout(str(roots / "run")).weights)
    first, second = (version.outputs[0].sha256 for version in list_versions(weights))
    assert published(roots / "run") == second
    with pytest.raises(SystemExit) as exit:
        cli.main(["rollback", "--output", str(roots / "run")])
    assert not exit.value.code
    assert published(roots / "run") == first
    service.until(lambda: announcements(service, str(roots / "run"))[0]["reason"] == "rollback")


def test_the_run_ends_with_its_page(service: Service, first_run: FlowRun) -> None:
    assert service.ended(first_run)[0] == "Completed", service.log(first_run)
    training = service.children(first_run, "pretrain")[-1]
    assert (training.work_pool_name, service.state(training)[0]) == ("gpu", "Completed")
    assert f"**{FIRST_CASES} of {FIRST_CASES} cases used**" in str(service.artifacts(first_run)["summary"].data)
    assert f"/runs/flow-run/{training.id})" in str(service.artifacts(first_run)["hand-off"].data)
    model = str(service.artifacts(training)["summary"].data)
    assert model.startswith("## Model")
    assert re.search(r"in epoch \d of 6", model)


@pytest.mark.long
def test_a_lost_training_is_sent_again_and_goes_on(service: Service, first_run: FlowRun, ledger: Ledger) -> None:
    with ledger.tried("service", "worker of the pool gpu and its training killed"):
        lost, again = service.children(first_run, "pretrain")
        assert service.state(lost) == ("Crashed", LOST)
        assert service.state(again)[0] == "Completed"
        assert {lost.work_pool_name, again.work_pool_name} == {"gpu"}
        assert "continuing after epoch" in service.log(again)
        assert "resubmitted, it continues from its last checkpoint" in service.log(first_run)


@pytest.mark.long
def test_a_lost_parent_is_started_again_and_takes_over_its_training(
    service: Service, orphaning_run: FlowRun, ledger: Ledger
) -> None:
    with ledger.tried("service", "worker of the pool cpu and a waiting parent killed"):
        service.until(lambda: service.state(orphaning_run)[0] == "Completed")
        assert [message for name, message in service.states(orphaning_run) if name == "Crashed"] == [LOST]
        assert service.client.read_flow_run(orphaning_run.id).run_count == 2
        (training,) = service.children(orphaning_run, "pretrain")
        assert (training.run_count, service.state(training)[0]) == (1, "Completed")
        already = f"pre-training run {training.name!r}: already submitted; waiting"
        service.until(lambda: already in service.log(orphaning_run))


@pytest.fixture(scope="module")
def training_run(service: Service, archive: Archive, roots: Path, first_run: FlowRun) -> FlowRun:
    """A run whose training goes on for long."""
    service.stack.start(["gpu-worker"])
    service.ended(first_run)
    parameters = {**archive.parameters, "root": str(roots / "run"), "cubes": CUBES, "pretraining": recipe(1000, seed=7)}
    run = service.start("ssl-pretraining", parameters)
    service.until(lambda: any(service.state(child)[0] == "Running" for child in service.children(run, "pretrain")))
    (child,) = service.children(run, "pretrain")
    service.until(lambda: "pretrain-progress" in service.artifacts(child))
    assert service.processes_of("gpu-worker")
    return run


@pytest.mark.long
def test_the_ui_shows_it_all(service: Service, first_run: FlowRun, training_run: FlowRun, tmp_path: Path) -> None:
    with signed_in(service.stack.environment) as page:
        look_while_it_trains(page, service, training_run, tmp_path)
        look(page, service, first_run, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 14


@pytest.fixture(scope="module")
def cancelled_run(service: Service, training_run: FlowRun) -> FlowRun:
    """The run whose training goes on for long, cancelled."""
    service.client.set_flow_run_state(training_run.id, Cancelling())
    return training_run


@pytest.mark.long
def test_cancelling_the_parent_ends_the_training(service: Service, cancelled_run: FlowRun, ledger: Ledger) -> None:
    with ledger.tried("service", "parent cancelled"):
        (child,) = service.children(cancelled_run, "pretrain")
        # it reports that itself; its worker would import all flows first, to look for hooks
        assert service.ended(cancelled_run) == ("Cancelled", "Cancelled by a user; run it again to continue.")
        assert service.count_tasks(cancelled_run, "hand over to", ["CANCELLED"]) == 1
        assert service.ended(child)[0] == "Cancelled"
        service.until(lambda: not service.processes_of("gpu-worker"))
        service.until(lambda: not service.processes_of("cpu-worker"))


def test_the_commands_of_the_operations_pages_are_taken(service: Service) -> None:
    """All of Prefect's commands on the pages, but those that start workers; nobody does the work that they ask for."""
    for worker in ("cpu-worker", "gpu-worker"):
        take_down(service.stack, worker)
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("operations.md", "kubernetes.md"))
    blocks = re.findall(r"^```sh\n(.*?)^```", pages, re.DOTALL | re.MULTILINE)
    lines = dict.fromkeys("\n".join(blocks).replace("\\\n", " ").splitlines())  # each once
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("prefect ") and " worker start " not in line]
    assert len(commands) >= 14
    retrain = service.client.read_deployment_by_name("retrain-on-new-data/retrain-on-new-data")
    stand_ins = {"<schedule id>": str(retrain.schedules[0].id), "s3://archive/imagesTr": "s3://zssmnet/nothing"}
    for words in commands:
        command = " ".join(words)
        if command.startswith("work-pool create"):
            words[2] = f"{words[2]}-{words[4]}"
        result = CycloptsCliRunner().invoke([stand_ins.get(word, word) for word in _joined(words)])
        assert result.exit_code == 0, f"{command}: {result.output}"
        if command.startswith("deployment run"):
            stand_ins["<run id>"] = str(flow_run_id(result.output))


def test_no_secret_is_told_anywhere(service: Service, roots: Path, ledger: Ledger) -> None:
    """After all these runs: the stack's passwords, S3 key and blocks, in clear or as a header of HTTP."""
    with ledger.tried("secrets", "passwords and keys of the service"):
        found = Secrets(service.stack, {"a block": "the value of s3-secret-access-key"})
        assert found.found_in_commands() == []
        assert found.found_in_files(service.stack.folder) == []
        assert found.found_in_files(roots) == []
        assert found.found_in_bucket("zssmnet") == []
        assert found.found_in_database() == []


def _joined(words: list[str]) -> list[str]:
    """``<run id>`` and ``<schedule id>`` are one word each."""
    return re.sub(r"<(\w+)\0id>", r"<\1 id>", "\0".join(words)).split("\0")


def retraining(archive: Archive, roots: Path, pretraining: dict[str, Any]) -> dict[str, Any]:
    return {
        **archive.parameters,
        "root": str(roots / "run"),
        "cubes": CUBES,
        "min_new_cases": 3,
        "pretraining": pretraining,
    }


def assert_same_files(one: str, other: str) -> None:
    """Prepared data and cubes are the same, bit for bit."""
    ours, theirs = open_storage(one), open_storage(other)
    for folder, count in (("SSL/data", 6 * 4), ("SSL/generated_cubes", 6)):
        names = [entry.key for entry in ours.list(folder) if entry.key.endswith((".nii.gz", ".npy"))]
        assert names == [entry.key for entry in theirs.list(folder) if entry.key.endswith((".nii.gz", ".npy"))]
        assert len(names) == count
        for name in names:
            assert ours.read(name) == theirs.read(name), name


def cubes_by_case(root: Path) -> dict[str, Any]:
    """The cubes of each case."""
    found = {}
    for file in sorted((root / "SSL/generated_cubes").glob("*.npy")):
        record = json.loads((file.parent / "records" / f"{file.name}.json").read_text())
        cubes = np.load(file)
        for number, (case_id, _) in enumerate(record["cases"]):
            found[case_id] = cubes[2 * number : 2 * number + 2]
    return found


def announcements(service: Service, root: str) -> list[dict[str, Any]]:
    """What events report about the models of a root, the latest first."""
    payloads = [event["payload"] for event in service.events("zssmnet.model.published")]
    return [payload for payload in payloads if payload["model"].startswith(f"{root}/")]


def published(root: Path) -> str:
    """SHA-256 of the stable model, as its record tells."""
    model = stable_model(open_storage(Layout(str(root)).weights))
    assert model
    return model.outputs[0].sha256


def _limit(number: int) -> Any:
    from prefect.client.schemas.actions import WorkPoolUpdate

    return WorkPoolUpdate(concurrency_limit=number)
