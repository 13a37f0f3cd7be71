"""Preparation and cubes on a Dask cluster: the same files as in threads, whatever becomes of its workers."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import dask.config
import pytest
import s3fs
from flows.concurrency import Runner, one_task_a_core
from flows.dask_settings import ADDRESS, ARGUMENTS, CLUSTER
from flows.generate_cubes import generate_cubes
from flows.on_dask import OnDask
from flows.prepare_data import PreparationSummary, prepare_data
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Log
from prefect.client.schemas.sorting import LogSort
from prefect.futures import as_completed

from tests.integration.dask_cluster import Cluster, two_workers
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.killing import assert_whole, digests
from tests.reliability.ledger import Ledger
from tests.runs import artifacts_of, runs_over
from zssmnet.config import CubesConfig
from zssmnet.errors import ServiceError
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout

pytestmark = [pytest.mark.integration, pytest.mark.long]
PATIENCE_S = 900


@dataclass(frozen=True)
class Place:
    """An archive with six good cases and two that cannot be used, and working roots beside it."""

    folder: str
    api: str
    settings: Path

    def run(self, root: str, **variables: str) -> str:
        """``zssmnet run`` without training's length; what it prints."""
        done = self.start(root, **variables)
        out, err = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, err[-4000:]
        assert "Traceback" not in err
        return out

    def start(self, root: str, **variables: str) -> "subprocess.Popen[str]":
        """Start ``zssmnet run``."""
        words = ["run", "--images_path", f"{self.folder}/archive/nnunet_raw", "--output", f"{self.folder}/{root}"]
        words += ["--zonal_mask_path", f"{self.folder}/archive/zonal_masks", "--config", str(self.settings)]
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words],
            # one thread, as Dask sets it for all that starts after its cluster: weights depend on their number
            env=os.environ | {"PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def digests(self, root: str) -> dict[str, str]:
        """SHA-256 of all files below a root but the logs; of records without the times of their inputs."""
        return digests(f"{self.folder}/{root}")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    images, masks = small_archive(folder, cases=8)
    first, second = sorted(masks.glob("*.nii.gz"))[-2:]
    first.unlink()
    truncated = images / "imagesTr" / second.name.replace(".nii.gz", "_0001.nii.gz")
    truncated.write_bytes(truncated.read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def in_threads(archive: Path, tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> tuple[Place, str]:
    """A folder in which a run without Dask has made its files, and what it printed."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "archive").symlink_to(archive)
    (folder / "quick.toml").write_text(QUICK_SETTINGS)
    place = Place(str(folder), prefect_api, folder / "quick.toml")
    return place, place.run("threads")


@pytest.fixture
def place(in_threads: tuple[Place, str]) -> Place:
    return in_threads[0]


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    """Two workers with the environment that leads to the place."""
    with two_workers() as cluster:
        yield cluster


def test_a_cluster_gives_the_same_files_as_threads(archive: Path, prefect_api: str, tmp_path: Path) -> None:
    make_cubes(archive, tmp_path / "threads", one_task_a_core())
    with two_workers() as cluster, cluster.watched() as workers_of:
        prepared = make_cubes(archive, tmp_path / "dask", OnDask.at(cluster.address))
    assert digests(str(tmp_path / "dask")) == digests(str(tmp_path / "threads"))
    assert (prepared.prepared, prepared.others) == (6, "0 up to date, 2 left out")
    assert set(workers_of) == {"prepare", "cut_cubes"}
    assert {len(workers) for workers in workers_of.values()} == {2}
    assert lines_of(tmp_path / "threads") == lines_of(tmp_path / "dask")
    for run, key, progress in (
        ("prepare-data", "prepare-progress", "7 of 7 cases"),
        ("generate-cubes", "cubes-progress", "6 of 6 cases"),
    ):
        artifact = artifacts_of(runs_over(tmp_path / "dask")[run])[key]
        assert artifact.data == 100
        assert str(artifact.description).startswith(progress)


def make_cubes(archive: Path, root: Path, runner: Runner) -> PreparationSummary:
    """Preparation and cubes, their tasks on this runner."""
    images, masks, layout = archive / "nnunet_raw", archive / "zonal_masks", Layout(str(root))
    prepared = prepare_data.with_options(task_runner=runner)(str(images), str(masks), layout.data)
    generate_cubes.with_options(task_runner=runner)(layout.data, layout.cubes, config=CubesConfig(cubes_per_case=2))
    return prepared


def test_a_run_on_a_cluster_gives_the_same_files(in_threads: tuple[Place, str], cluster: Cluster) -> None:
    place, reported = in_threads
    on_dask = place.run("dask", **{ADDRESS: cluster.address})
    assert place.digests("dask") == place.digests("threads")
    assert "6 prepared, 0 up to date, 2 left out" in on_dask
    assert on_dask == reported.replace(f"{place.folder}/threads", f"{place.folder}/dask")


def test_a_cluster_gives_the_same_files_on_s3(place: Place, archive: Path, s3_root: str) -> None:
    s3fs.S3FileSystem(use_listings_cache=False).put(f"{archive}/", f"{s3_root}/archive/", recursive=True)
    in_bucket = replace(place, folder=s3_root)
    with two_workers() as cluster:  # which know where S3 is, since the fixture has set the environment
        in_bucket.run("dask", **{ADDRESS: cluster.address})
    there, here = in_bucket.digests("dask"), place.digests("threads")
    assert there.keys() == here.keys()
    names_the_archive = {"SSL/reports/archive.html", "SSL/reports/records/archive.json"}  # the files of cases left out
    differing = {key for key in here if there[key] != here[key]} - names_the_archive
    assert all(key.startswith("SSL/pretrained_weights/") for key in differing), differing


def lines_of(root: Path) -> list[tuple[str, str, bool]]:
    """What the library logged in preparation and cubes: logger, line, whether it is a task's."""
    runs = runs_over(root)
    logs: Sequence[Log] = []
    with get_client(sync_client=True) as client:
        for name in ("prepare-data", "generate-cubes"):
            chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[runs[name].id]))
            logs = [*logs, *client.read_logs(chosen, limit=200, offset=0, sort=LogSort.TIMESTAMP_ASC)]
    lines = [(log.name, log.message.replace(str(root), "root"), log.task_run_id is not None) for log in logs]
    library = sorted(line for line in lines if line[0].startswith("zssmnet"))
    assert sum("prepared for subset" in message and of_task for _, message, of_task in library) == 6
    assert sum("is left out" in message and of_task for _, message, of_task in library) == 1
    return library


def test_workers_that_are_killed_cost_nothing_but_time(place: Place, cluster: Cluster, ledger: Ledger) -> None:
    with ledger.tried("Dask", "worker killed (SIGKILL)", 2):
        kill_two(place, cluster)


def kill_two(place: Place, cluster: Cluster) -> None:
    run = place.start("killed", **{ADDRESS: cluster.address})
    data, cubes = (open_storage(f"{place.folder}/killed/SSL/{name}") for name in ("data", "generated_cubes"))
    killed = [cluster.kill_a_busy_worker()]
    while run.poll() is None and not any(entry.key.endswith(".npy") for entry in cubes.list()):
        threading.Event().wait(0.01)
    if run.poll() is None:
        killed.append(cluster.kill_a_busy_worker())
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err[-4000:]
    assert len(killed) == 2
    assert place.digests("killed") == place.digests("threads")
    assert_whole(f"{place.folder}/killed", place.digests("threads"))
    assert not [path for storage in (data, cubes) for path in Path(storage.uri).rglob(".partial")]


def test_a_cluster_that_is_started_for_the_run(place: Place) -> None:
    arguments = '{"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}'
    for counts in ("6 prepared, 0 up to date, 2 left out", "0 prepared, 6 up to date, 2 left out"):
        assert counts in place.run("started", **{CLUSTER: "dask.distributed.LocalCluster", ARGUMENTS: arguments})


def test_workers_of_a_local_cluster_log_lines_alone(prefect_api: str, capfd: pytest.CaptureFixture[str]) -> None:
    """They are processes that write where the command does."""

    @task
    def fails() -> None:
        try:
            raise OSError("gone")
        except OSError:
            logging.getLogger("distributed.worker").exception("a worker's error")

    @flow(task_runner=OnDask.started("dask.distributed.LocalCluster", {"n_workers": 1, "dashboard_address": ":0"}))
    def failing() -> None:
        fails.submit().result()

    failing()
    written = capfd.readouterr().err
    assert len(re.findall("ERROR - a worker's error\n", written)) == 1, written
    assert "Traceback" not in written


def test_a_scheduler_that_goes_ends_the_run_with_a_line(prefect_api: str, tmp_path: Path) -> None:
    address, program = f"tcp://127.0.0.1:{free_port()}", str(Path(sys.executable).with_name("dask"))
    log = (tmp_path / "log").open("w")
    commands = (["scheduler", "--port", address.rpartition(":")[2]], ["worker", address, "--nthreads", "1"])
    cluster = [subprocess.Popen([program, *command, "--no-dashboard"], stderr=log) for command in commands]
    begun = tmp_path / "begun"

    @task
    def waits() -> None:
        begun.touch()
        threading.Event().wait(PATIENCE_S)

    @flow(task_runner=OnDask.at(address))
    def lost() -> None:
        (future,) = as_completed([waits.submit()])
        future.result()

    def kill_the_scheduler() -> None:
        while not begun.exists():
            threading.Event().wait(0.05)
        cluster[0].kill()

    try:
        with (
            ThreadPoolExecutor(1) as killer,
            pytest.raises(ServiceError, match=r"^Dask's scheduler has gone,") as raised,
        ):
            killer.submit(kill_the_scheduler)
            lost()
    finally:
        for process in cluster:
            process.kill()
            process.wait()
        log.close()
    assert re.fullmatch(".*", str(raised.value))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_a_task_is_tried_again_and_one_that_kills_its_workers_is_given_up(tmp_path: Path, prefect_api: str) -> None:
    @task(retries=1)
    def fails_once(marker: str) -> str:
        if not Path(marker).exists():
            Path(marker).touch()
            raise RuntimeError("the first time")
        return "done"

    @task
    def kills() -> None:
        os.kill(os.getpid(), 9)

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), two_workers() as cluster:

        @flow(task_runner=OnDask.at(cluster.address))
        def both() -> None:
            assert fails_once.submit(str(tmp_path / "marker")).result() == "done"
            kills.submit().result()

        with pytest.raises(ServiceError, match=r"^Dask gave a task up after 1 workers had ended at it, .*$") as raised:
            both()
    assert re.fullmatch(".*", str(raised.value))
