"""Cancel and suspend, as in Prefect's UI, reach a training that runs under a real worker."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Crashed, Suspended

from flows.of_stages import pretrain
from tasks.run_control import LOST
from tests.deployments.stack_fixture import take_down, temporary_stack
from tests.integration.service import Service, connected
from tests.phantoms import small_archive
from tests.zssmnet.training.examples import small_config, write_cubes
from zssmnet.registry.versions import MODEL

pytestmark = pytest.mark.integration
POOL = "run-control"
SUBSETS = (6, 6, 6, 6, 6, 4)


@pytest.fixture(scope="module")
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def service(client: SyncPrefectClient, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    client.create_deployment(
        client.create_flow(pretrain), POOL, work_pool_name=POOL, entrypoint="flows.of_stages.pretrain", pull_steps=[]
    )
    with worker(POOL, prefect_api, tmp_path_factory.mktemp("worker") / "log.txt"):
        yield Service(None, client)


class worker:  # noqa: N801  # a context manager
    """A worker of a pool, in a process of its own."""

    def __init__(self, pool: str, api: str, log: Path) -> None:
        start = [sys.executable, "-P", "-m", "prefect", "worker", "start"]
        self._words = [*start, "--pool", pool, "--type", "process", "--limit", "1"]
        self._environment = os.environ | {"PREFECT_API_URL": api, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        self._log = log

    def __enter__(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._words, env=self._environment, stdout=log, stderr=log)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # Prefect's worker was seen to wait for ever when it got SIGTERM
            self._process.kill()
            self._process.wait()


def start(service: Service, folder: Path, epochs: int) -> FlowRun:
    """A training that is under way."""
    write_cubes(folder / "cubes", SUBSETS)
    config = small_config(epochs=epochs, patience=epochs, halve_every=epochs)
    deployment = service.client.read_deployment_by_name(f"pretrain/{POOL}")
    parameters = {
        "cubes_path": str(folder / "cubes"),
        "output_path": str(folder / "weights"),
        "config": config.model_dump(mode="json"),
    }
    run = service.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    service.until(lambda: bool(list((folder / "weights" / "training").glob("*/last.checkpoint"))))
    return run


def resume_before_it_has_noticed(service: Service, run: FlowRun) -> None:
    """Suspend a training and resume it at once; again if it looked at its state in between."""
    while service.state(run) != ("Running", "Alive: it was resumed before it had ended."):
        service.client.set_flow_run_state(run.id, Suspended(timeout_seconds=3600))
        service.client.resume_flow_run(run.id)
        service.until(lambda: service.state(run)[0] == "Running")


def cancel(service: Service, run: FlowRun, weights: Path) -> None:
    """Cancel a training: it ends soon, and publishes nothing."""
    service.client.set_flow_run_state(run.id, Cancelling())
    checkpoint = next((weights / "training").glob("*/last.checkpoint"))
    asked = datetime.now(UTC).timestamp()
    assert service.ended(run)[0] == "Cancelled"
    assert checkpoint.stat().st_mtime - asked < 10, "it trained on"
    assert not (weights / MODEL).exists()


@pytest.mark.long
def test_a_training_shows_that_it_lives_goes_on_when_resumed_and_ends_when_cancelled(
    service: Service, tmp_path: Path
) -> None:
    """What users and automations do to one run, one after the other: taken for lost, resumed before it has noticed that
    it was suspended, resumed while its process ends, cancelled.
    """
    run = start(service, tmp_path, 100_000)
    service.client.set_flow_run_state(run.id, Crashed(message=LOST), force=True)
    service.until(lambda: service.state(run) == ("Running", "Alive: it was marked lost."))
    resume_before_it_has_noticed(service, run)
    service.client.set_flow_run_state(run.id, Suspended(timeout_seconds=3600))
    service.until(lambda: "once resumed, continues from its last checkpoint" in service.log(run))
    service.client.resume_flow_run(run.id)
    service.until(lambda: "continuing after epoch" in service.log(run))
    cancel(service, run, tmp_path / "weights")


def test_a_cancelled_training_ends_and_publishes_nothing(service: Service, tmp_path: Path) -> None:
    cancel(service, start(service, tmp_path, 100_000), tmp_path / "weights")


@pytest.mark.long
def test_a_suspended_training_frees_its_worker_and_publishes_when_resumed(service: Service, tmp_path: Path) -> None:
    run = start(service, tmp_path, 40)
    service.client.set_flow_run_state(run.id, Suspended(timeout_seconds=3600))
    service.until(lambda: "once resumed, continues from its last checkpoint" in service.log(run))
    checkpoint = next((tmp_path / "weights" / "training").glob("*/last.checkpoint"))
    left = checkpoint.stat().st_mtime
    time.sleep(3)
    assert service.state(run)[0] == "Suspended"
    assert checkpoint.stat().st_mtime == left
    service.client.resume_flow_run(run.id)
    assert service.ended(run)[0] == "Completed", service.log(run)
    assert "continuing after epoch" in service.log(run)
    assert (tmp_path / "weights" / MODEL).exists()


@pytest.mark.long
@pytest.mark.parametrize("minutes", [1, 10])
def test_a_server_that_is_away_stops_no_training(minutes: int, tmp_path: Path, archive: tuple[Path, Path]) -> None:
    """Neither the training nor the run that waits for it; both report when the server is there again."""
    images, masks = archive
    with temporary_stack(OMP_NUM_THREADS="1", PREFECT_WORKER_QUERY_SECONDS="2") as stack:
        stack.start()
        with connected(stack) as service:
            config = small_config(epochs=100_000, patience=100_000, batch_size=4)
            parameters = {
                "images_path": str(images),
                "zonal_mask_path": str(masks),
                "root": str(tmp_path / "root"),
                "cubes": {"cubes_per_case": 2},
                "pretraining": config.model_dump(mode="json"),
            }
            run = service.start("ssl-pretraining", parameters)
            training = tmp_path / "root" / "SSL" / "pretrained_weights" / "training"
            service.until(lambda: bool(list(training.glob("*/last.checkpoint"))))
            (child,) = service.children(run, "pretrain")
            take_down(stack, "server")
            time.sleep(60 * minutes)
            (checkpoint,) = training.glob("*/last.checkpoint")
            assert time.time() - checkpoint.stat().st_mtime < 30, "it has stopped"
            stack.start(["server"])
            time.sleep(120)  # longer than what marks runs as lost
            assert [service.state(one)[0] for one in (run, child)] == ["Running", "Running"], service.log(run)
            assert len(service.children(run, "pretrain")) == 1
            assert time.time() - checkpoint.stat().st_mtime < 30
            service.client.set_flow_run_state(run.id, Cancelling())
            assert [service.ended(one)[0] for one in (child, run)] == ["Cancelled", "Cancelled"]
