"""Long runs: 1,500 small cases through the whole flow on a server with SQLite, and by the plain command.

    pytest tests/reliability/test_soak.py --long --reliability-report report.md

``ZSSMNET_SOAK_CASES`` asks for another number of cases.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import TaskRunSort

from benchmarks.many_cases import write_many_cases
from tests.deployments.stack_fixture import pid_of, temporary_stack
from tests.integration.service import Service, connected
from tests.reliability.ledger import Ledger
from tests.reliability.watching import Watch, family, in_words, thirds
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import IMAGE_SUFFIXES, MASK_SUFFIX, Case, take_inventory
from zssmnet.data.splits import stable_subset
from zssmnet.preparation.prepare import publish_prepared
from zssmnet.storage import LocalStorage, open_storage
from zssmnet.storage.verification import verify_stage

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]

CASES = int(os.environ.get("ZSSMNET_SOAK_CASES", "1500"))
RUN = f"{CASES:,} cases on SQLite"
COMMAND_RUN = f"{CASES:,} cases by the plain command"
PREPARATION, CUBES_STAGE = "prepare-", "cubes-subset-"
"""What the names of the tasks of these stages begin with."""
SAMPLE = min(CASES, 100)
PATIENCE_S = 1800.0
CUBES = {"cubes_per_case": 2, "size": [32, 32, 16]}
PRETRAINING: dict[str, Any] = {
    "network": {"channels": [2, 2, 2, 2, 2]},
    "corruption": {"shuffling": {"windows": 50}},
    "training": {"epochs": 1, "batch_size": 8, "device": "cpu"},
}
GROWS_MB, GROWS_BY = 30, 0.1
"""What memory may grow by from the middle third of a time to its last third."""
HEARTBEAT = "[SQL: INSERT INTO worker ("
"""Prefect's server does not wait for a locked SQLite database here; the next heartbeat comes after 30 s."""
HARM = re.compile(r"database is locked|Traceback|queue is full|dropping|dead letter", re.IGNORECASE)
"""What no log of the stack may tell."""


@dataclass(frozen=True)
class Archive:
    images: Path
    masks: Path

    @property
    def parameters(self) -> dict[str, str]:
        return {"images_path": str(self.images), "zonal_mask_path": str(self.masks)}

    def ids(self) -> list[str]:
        return sorted(path.name.removesuffix(MASK_SUFFIX) for path in self.masks.iterdir())


@dataclass(frozen=True)
class Soak:
    """A run of everything that has ended, and what was seen while it prepared cases and while it did the rest."""

    service: Service
    run: FlowRun
    preparing: Watch
    afterwards: Watch

    def seconds(self) -> float:
        return self.service.client.read_flow_run(self.run.id).total_run_time.total_seconds()

    def stage_s(self, tasks: str) -> float:
        """Seconds from the start of the first task of a stage to the end of the last; 0 if there are none."""
        wanted = {
            "flow_run_filter": FlowRunFilter(id=FlowRunFilterId(any_=[self.run.id])),
            "task_run_filter": TaskRunFilter(name=TaskRunFilterName(like_=tasks)),
            "limit": 1,
        }
        first = self.service.client.read_task_runs(**wanted, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
        last = self.service.client.read_task_runs(**wanted, sort=TaskRunSort.END_TIME_DESC)
        if not first or not first[0].start_time or not last[0].end_time:
            return 0.0
        return (last[0].end_time - first[0].start_time).total_seconds()

    def times(self) -> str:
        """How long the run and its stages took, in words."""
        (training,) = self.service.children(self.run, "pretrain")
        return (
            f"{self.seconds():.0f} s: preparation {self.stage_s(PREPARATION):.0f} s, "
            f"cubes {self.stage_s(CUBES_STAGE):.0f} s, training {training.total_run_time.total_seconds():.0f} s"
        )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive(*write_many_cases(tmp_path_factory.mktemp("archive"), CASES))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch, temporary_stack(OMP_NUM_THREADS="1") as stack:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)  # of other tests
        stack.start()
        with connected(stack) as service:
            yield service


@pytest.fixture(scope="module")
def first(service: Service, archive: Archive, root: Path) -> Soak:
    return run_all(service, archive, root)


@pytest.fixture(scope="module")
def second(first: Soak, service: Service, archive: Archive, root: Path) -> tuple[Soak, dict[str, tuple[int, int]]]:
    """The same again, and the files as they were before."""
    before = files_of(root)
    return run_all(service, archive, root), before


def run_all(service: Service, archive: Archive, root: Path) -> Soak:
    """All stages through the deployment, watched until the run has ended and the server has caught up.

    Small glands are written quickly, and are odd: the run ends with warnings.
    """
    parameters = {**archive.parameters, "root": str(root), "cubes": CUBES, "pretraining": PRETRAINING}
    run = service.start("ssl-pretraining", parameters)
    was_there = prepared_files(root)

    def behind() -> int:
        """Cases that are prepared, but whose tasks the server does not know as completed yet."""
        return max(0, prepared_files(root) - was_there - completed_tasks(service, run))

    preparing, afterwards = (Watch(groups_of(service), {"behind": behind}) for _ in range(2))
    preparing.until(lambda: has_ended(service, run) or cuts_cubes(service, run), PATIENCE_S)
    afterwards.until(lambda: has_ended(service, run) and behind() == 0, PATIENCE_S)
    return Soak(service, run, preparing, afterwards)


def groups_of(service: Service) -> dict[str, Any]:
    """The processes whose memory is watched."""
    stack = service.stack

    def runs(worker: str) -> list[int]:
        return service.processes_of(worker)

    return {
        "server": lambda: family(pid_of(stack, "server")),
        "cpu worker": lambda: [pid_of(stack, "cpu-worker")],
        "run": lambda: runs("cpu-worker"),
        "gpu worker": lambda: [pid_of(stack, "gpu-worker")],
        "training": lambda: runs("gpu-worker"),
    }


def has_ended(service: Service, run: FlowRun) -> bool:
    state = service.client.read_flow_run(run.id).state
    return bool(state and state.is_final())


def cuts_cubes(service: Service, run: FlowRun) -> bool:
    """Whether the stage after preparation has begun."""
    return service.count_tasks(run, CUBES_STAGE, ["PENDING", "RUNNING", "COMPLETED"]) > 0


def prepared_files(root: Path) -> int:
    """Cases of which all files are published: the mask is the last of them."""
    files = (root / "SSL/data").glob(f"subset*/*{MASK_SUFFIX}")
    return sum(1 for file in files if not file.name.endswith(IMAGE_SUFFIXES["nnunet"]))


def completed_tasks(service: Service, run: FlowRun) -> int:
    return service.count_tasks(run, PREPARATION, ["COMPLETED"])


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every prepared file, file of cubes and record."""
    files = [path for folder in ("data", "generated_cubes") for path in (root / "SSL" / folder).rglob("*.*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.is_file()}


def test_no_task_is_lost(first: Soak, archive: Archive, ledger: Ledger) -> None:
    with ledger.tried(RUN, "a task lost, doubled or left open", tries=CASES):
        assert first.service.state(first.run)[0] == "With warnings", first.service.state(first.run)
        tasks = first.service.all_tasks(first.run, PREPARATION)
        assert Counter(name for name, _ in tasks) == Counter(f"prepare-{case_id}" for case_id in archive.ids())
        assert Counter(state for _, state in tasks) == {"COMPLETED": CASES}
        summary = str(first.service.artifacts(first.run)["summary"].data)
        assert f"**{CASES} of {CASES} cases used**" in summary
        assert f"{2 * CASES} cubes in " in summary


def test_no_queue_grows(first: Soak, ledger: Ledger) -> None:
    behind = first.preparing.read["behind"]
    then = first.afterwards.read.get("behind", [])
    at_last = (behind + then)[-1]
    ledger.measured(RUN, "the server behind the run", f"{max(behind)} tasks at most, {at_last} at the end")
    early, middle, late = thirds(behind)
    assert late <= 1.5 * max(early, middle) + 50, behind


def test_memory_stays_flat(first: Soak, ledger: Ledger) -> None:
    """While cases are prepared; and the service needs no more for the rest."""
    before, after = first.preparing.memory_mb, first.afterwards.memory_mb
    for group in {**before, **after}:
        ledger.measured(RUN, f"memory, {group}", in_words(before.get(group, []) + after.get(group, [])))
    for group, used in before.items():
        assert_flat(group, used)
    for group in ("server", "cpu worker"):
        assert max(after[group]) <= allowed(max(before[group])), f"{group}: {in_words(after[group])}"


def allowed(used_mb: float) -> float:
    """What a process that has used so much may use later."""
    return used_mb * (1 + GROWS_BY) + GROWS_MB


def assert_flat(group: str, used: list[float]) -> None:
    _, middle, late = thirds(used)
    assert late <= allowed(middle), f"{group}: {in_words(used)}"


def test_the_time_it_took(first: Soak, archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    ledger.measured(RUN, "time", first.times())
    a_task, alone = 1000 * first.stage_s(PREPARATION) / CASES, 1000 * seconds_of_the_work_alone(archive, tmp_path)
    ledger.measured(RUN, "time of a case", f"{a_task:.0f} ms, of which {alone:.0f} ms are the work itself")


def seconds_of_the_work_alone(archive: Archive, output: Path) -> float:
    """Seconds a case when some cases are prepared without Prefect, on as many threads."""
    images, masks, data = (open_storage(str(folder)) for folder in (archive.images, archive.masks, output))
    cases = take_inventory(images, masks).cases[:SAMPLE]

    def work(case: Case) -> None:
        publish_prepared(case, stable_subset(case.id), images, masks, data, PreparationConfig())

    began = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(work, cases))
    return (time.monotonic() - began) / len(cases)


def test_nothing_is_done_again(second: tuple[Soak, dict[str, tuple[int, int]]], root: Path, ledger: Ledger) -> None:
    again, before = second
    with ledger.tried(RUN, "a second run with nothing new"):
        assert again.service.state(again.run)[0] == "With warnings", again.service.state(again.run)
        assert f"0 cases prepared, {CASES} up to date, 0 left out" in again.service.log(again.run)
        assert again.service.all_tasks(again.run, PREPARATION) == []
        assert files_of(root) == before
    ledger.measured(RUN, "time of a second run with nothing new", again.times())


def test_nothing_is_left_open(second: tuple[Soak, dict[str, tuple[int, int]]], ledger: Ledger) -> None:
    service = second[0].service
    assert service.count_open() == 0
    harm = [one for log in (service.stack.folder / "logs").iterdir() for one in entries(log) if HARM.search(one)]
    late = [one for one in harm if HEARTBEAT in one]
    ledger.measured(RUN, "heartbeats of a worker, sent twice a minute, that met a locked database", f"{len(late)}")
    assert harm == late
    assert not list((service.stack.folder / "prefect").glob("dlq/*"))


def entries(log: Path) -> list[str]:
    """What was logged, each with the lines that follow its time."""
    return re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \| )", log.read_text(errors="replace"), flags=re.MULTILINE)


def test_the_plain_command(archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    output = tmp_path / "SSL/data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    words = ["--images_path", archive.images, "--zonal_mask_path", archive.masks, "--output_path", output]
    with (tmp_path / "out").open("w+") as out, (tmp_path / "log").open("w+") as log:
        began = time.monotonic()
        command = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "prepare", *map(str, words)],
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=log,
        )
        watch = Watch({"command": lambda: family(command.pid)})
        watch.until(lambda: command.poll() is not None, PATIENCE_S)
        took = time.monotonic() - began
    with ledger.tried(COMMAND_RUN, "a case lost", tries=CASES):
        told_at_last = (tmp_path / "log").read_text()
        assert command.returncode == 0, told_at_last[-2000:]
        assert (tmp_path / "out").read_text().startswith(f"{CASES} cases prepared, 0 up to date, 0 left out")
        assert not HARM.search(told_at_last)
        masks = (path.name for path in output.glob(f"subset*/*{MASK_SUFFIX}"))
        ids = [name.removesuffix(MASK_SUFFIX) for name in masks if not name.endswith(IMAGE_SUFFIXES["nnunet"])]
        assert sorted(ids) == archive.ids()
        assert verify_stage(LocalStorage(output)) == []
    ledger.measured(COMMAND_RUN, "time of zssmnet prepare", f"{took:.0f} s")
    (used,) = watch.memory_mb.values()
    ledger.measured(COMMAND_RUN, "memory", in_words(used))
    assert_flat("command", used)
