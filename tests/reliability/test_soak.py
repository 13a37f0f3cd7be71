"""Long runs: 1,500 small cases through the whole flow on a server with PostgreSQL, and by the plain command.

    pytest tests/reliability/test_soak.py --long --reliability-report report.md

``ZSSMNET_SOAK_CASES`` asks for another number of cases.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun

from tests.deployments.stack_fixture import temporary_stack
from tests.integration.service import Service, connected
from tests.reliability.ledger import Ledger
from tests.reliability.many_cases import write_many_cases
from tests.reliability.watching import Watch, family, thirds, told
from zssmnet.preparation import MASK_SUFFIX

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]

CASES = int(os.environ.get("ZSSMNET_SOAK_CASES", "1500"))
RUN = f"{CASES:,} cases on PostgreSQL"
COMMAND_RUN = f"{CASES:,} cases by the plain command"
SAMPLE = min(CASES, 100)
PATIENCE_S = 1800.0
CUBES = {"cubes_per_case": 2}
PRETRAINING: dict[str, Any] = {
    "network": {"channels": [2, 2, 2, 2, 2]},
    "corruption": {"shuffling": {"windows": 50}},
    "training": {"epochs": 1, "device": "cpu"},
}
GROWS_MB, GROWS_BY = 30, 0.1
"""What memory may grow by from the middle third of a time to its last third."""
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
    """A run of everything that has ended, and what was seen while it went on."""

    service: Service
    run: FlowRun
    watch: Watch

    def child(self, flow: str) -> FlowRun:
        (found,) = self.service.children(self.run, flow)
        return found

    def seconds(self, flow: str | None = None) -> float:
        run = self.child(flow) if flow else self.service.client.read_flow_run(self.run.id)
        return run.total_run_time.total_seconds()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive(*write_many_cases(tmp_path_factory.mktemp("archive"), CASES))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with temporary_stack(OMP_NUM_THREADS="1") as stack:
        if stack.places.cluster is None:
            pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql): no long run on it")
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
    """All stages through the deployment, watched until the run has ended and the server has caught up."""
    parameters = {**archive.parameters, "root": str(root), "cubes": CUBES, "pretraining": PRETRAINING}
    run = service.start("ssl-pretraining", parameters)
    was_there = prepared_files(root)

    def behind() -> int:
        """Cases that are prepared, but whose tasks the server does not know as completed yet."""
        return max(0, prepared_files(root) - was_there - completed_tasks(service, run))

    watch = Watch(groups_of(service), {"behind": behind})
    watch.until(lambda: has_ended(service, run), PATIENCE_S)
    watch.until(lambda: behind() == 0, PATIENCE_S)
    return Soak(service, run, watch)


def groups_of(service: Service) -> dict[str, Any]:
    """The processes whose memory is watched."""
    stack = service.stack

    def runs(worker: str) -> list[int]:
        return [process.pid for process in service.processes_of(worker)]

    return {
        "server": lambda: family(stack.pid("server")),
        "PostgreSQL": lambda: family(stack.pid("postgres")),
        "cpu worker": lambda: [stack.pid("cpu-worker")],
        "run": lambda: runs("cpu-worker"),
        "gpu worker": lambda: [stack.pid("gpu-worker")],
        "training": lambda: runs("gpu-worker"),
    }


def has_ended(service: Service, run: FlowRun) -> bool:
    state = service.client.read_flow_run(run.id).state
    return bool(state and state.is_final())


def prepared_files(root: Path) -> int:
    """Cases of which all files are published: the mask is the last of them."""
    return sum(1 for file in (root / "SSL/data").glob(f"subset*/*{MASK_SUFFIX}") if "_000" not in file.name[-12:])


def completed_tasks(service: Service, run: FlowRun) -> int:
    children = service.children(run, "prepare-data")
    return service.count_tasks(children[0], "prepare-", ["COMPLETED"]) if children else 0


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every prepared file, file of cubes and record."""
    files = [path for folder in ("data", "generated_cubes") for path in (root / "SSL" / folder).rglob("*.*")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.is_file()}


def test_no_task_is_lost(first: Soak, archive: Archive, ledger: Ledger) -> None:
    with ledger.tried(RUN, "a task lost, doubled or left open", tries=CASES):
        assert first.service.state(first.run)[0] == "Completed", first.service.state(first.run)
        tasks = first.service.all_tasks(first.child("prepare-data"), "prepare-")
        assert Counter(name for name, _ in tasks) == Counter(f"prepare-{case_id}" for case_id in archive.ids())
        assert Counter(state for _, state in tasks) == {"COMPLETED": CASES}
        rows = json.loads(str(first.service.artifacts(first.child("prepare-data"))["cases"].data))
        assert [row["case"] for row in rows] == archive.ids()
        assert {row["state"] for row in rows} == {"prepared"}
        summary = str(first.service.artifacts(first.run)["summary"].data)
        assert f"{CASES} prepared, 0 up to date, 0 left out" in summary
        assert f"cubes:    {2 * CASES} " in summary


def test_no_queue_grows(first: Soak, ledger: Ledger) -> None:
    behind = first.watch.read["behind"]
    ledger.measured(RUN, "the server behind the run", f"{max(behind)} tasks at most, {behind[-1]} at the end")
    busy = [float(value) for value in behind if value]
    early, middle, late = thirds(busy) if busy else (0.0, 0.0, 0.0)
    assert late <= 1.5 * max(early, middle) + 100, behind


def test_memory_stays_flat(first: Soak, ledger: Ledger) -> None:
    for group, used in first.watch.memory_mb.items():
        ledger.measured(RUN, f"memory of the {group}", told(used))
    for group, used in first.watch.memory_mb.items():
        _, middle, late = thirds(used)
        assert late <= middle * (1 + GROWS_BY) + GROWS_MB, f"{group}: {told(used)}"


def test_the_time_it_took(first: Soak, archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    stages = {flow: first.seconds(flow) for flow in ("prepare-data", "generate-cubes", "pretrain")}
    told = ", ".join(f"{flow} {seconds:.0f} s" for flow, seconds in stages.items())
    ledger.measured(RUN, "time", f"{first.seconds():.0f} s: {told}")


def test_nothing_is_done_again(second: tuple[Soak, dict[str, tuple[int, int]]], root: Path, ledger: Ledger) -> None:
    again, before = second
    with ledger.tried(RUN, "a second run with nothing new"):
        assert again.service.state(again.run)[0] == "Completed", again.service.state(again.run)
        assert f"0 prepared, {CASES} up to date" in str(again.service.artifacts(again.run)["summary"].data)
        assert again.service.all_tasks(again.child("prepare-data"), "prepare-") == []
        assert files_of(root) == before
    stages = ", ".join(f"{flow} {again.seconds(flow):.0f} s" for flow in ("prepare-data", "generate-cubes", "pretrain"))
    ledger.measured(RUN, "time of a second run with nothing new", f"{again.seconds():.0f} s: {stages}")


def test_nothing_is_left_open(second: tuple[Soak, dict[str, tuple[int, int]]]) -> None:
    service = second[0].service
    assert service.count_open() == 0
    for log in (service.stack.folder / "logs").iterdir():
        assert not HARM.search(log.read_text(errors="replace")), log
    assert not list((service.stack.folder / "prefect").glob("dlq/*"))
