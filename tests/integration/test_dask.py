"""Preparation and cubes on a Dask cluster: the same files as in threads, whatever becomes of its workers."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import s3fs
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flows.of_stages import generate_cubes, prepare_data
from tasks.runner import DASK_ADDRESS, task_runner
from tests.integration.dask_cluster import Cluster, two_workers
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.killing import assert_whole, digests
from tests.reliability.ledger import Ledger
from tests.runs import artifacts_of, logs_of, runs_over, until
from zssmnet.config import CubesConfig
from zssmnet.stages.prepare import PreparationSummary
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
    make_cubes(archive, tmp_path / "threads", task_runner())
    with two_workers() as cluster, cluster.watched() as workers_of:
        prepared = make_cubes(archive, tmp_path / "dask", DaskTaskRunner(address=cluster.address))
    assert digests(str(tmp_path / "dask")) == digests(str(tmp_path / "threads"))
    assert (prepared.prepared, prepared.others) == (6, "0 up to date, 2 left out")
    assert len(set().union(*workers_of.values())) == 2
    assert lines_of(tmp_path / "threads") == lines_of(tmp_path / "dask")
    for run, key, progress in (
        ("prepare-data", "prepare-progress", "7 of 7 cases"),
        ("generate-cubes", "cubes-progress", "6 of 6 cases"),
    ):
        artifact = artifacts_of(runs_over(tmp_path / "dask")[run])[key]
        assert artifact.data == 100
        assert str(artifact.description).startswith(progress)


def make_cubes(archive: Path, root: Path, runner: TaskRunner[Any]) -> PreparationSummary:
    """Preparation and cubes, their tasks on this runner."""
    images, masks, layout = archive / "nnunet_raw", archive / "zonal_masks", Layout(str(root))
    prepared = prepare_data.with_options(task_runner=runner)(str(images), str(masks), layout.data)
    generate_cubes.with_options(task_runner=runner)(layout.data, layout.cubes, config=CubesConfig(cubes_per_case=2))
    return prepared


def test_a_run_on_a_cluster_gives_the_same_files(in_threads: tuple[Place, str], cluster: Cluster) -> None:
    place, reported = in_threads
    on_dask = place.run("dask", **{DASK_ADDRESS: cluster.address})
    assert place.digests("dask") == place.digests("threads")
    assert "6 prepared, 0 up to date, 2 left out" in on_dask
    assert on_dask == reported.replace(f"{place.folder}/threads", f"{place.folder}/dask")


def test_a_cluster_gives_the_same_files_on_s3(place: Place, archive: Path, s3_root: str) -> None:
    s3fs.S3FileSystem(use_listings_cache=False).put(f"{archive}/", f"{s3_root}/archive/", recursive=True)
    in_bucket = replace(place, folder=s3_root)
    with two_workers() as cluster:  # which know where S3 is, since the fixture has set the environment
        in_bucket.run("dask", **{DASK_ADDRESS: cluster.address})
    there, here = in_bucket.digests("dask"), place.digests("threads")
    assert there.keys() == here.keys()
    names_the_archive = {"SSL/reports/archive.html", "SSL/reports/records/archive.json"}  # the files of cases left out
    differing = {key for key in here if there[key] != here[key]} - names_the_archive
    assert all(key.startswith("SSL/pretrained_weights/") for key in differing), differing


def lines_of(root: Path) -> list[tuple[str, str, bool]]:
    """What the library logged in preparation and cubes: logger, line, whether it is a task's."""
    runs = [runs_over(root)[name] for name in ("prepare-data", "generate-cubes")]

    def lines() -> list[tuple[str, str, bool]]:
        logs = (log for run in runs for log in logs_of(run))
        found = ((log.name, log.message.replace(str(root), "root"), log.task_run_id is not None) for log in logs)
        return sorted(line for line in found if line[0].startswith("zssmnet"))

    def has_all() -> bool:
        of_tasks = [message for _, message, of_task in lines() if of_task]
        words = ("prepared for subset", "is left out", "cubes of")
        return [sum(word in message for message in of_tasks) for word in words] == [6, 1, 6] and any(
            "cubes in 6 subsets" in message for _, message, _ in lines()
        )

    until(has_all)
    return lines()


def test_workers_that_are_killed_cost_nothing_but_time(place: Place, cluster: Cluster, ledger: Ledger) -> None:
    with ledger.tried("Dask", "worker killed (SIGKILL)", 2):
        kill_two(place, cluster)


def kill_two(place: Place, cluster: Cluster) -> None:
    run = place.start("killed", **{DASK_ADDRESS: cluster.address})
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
