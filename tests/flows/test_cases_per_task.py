"""Tasks that prepare several cases: each case is named, counted and left out as if it had a task of its own."""

import copy
import logging
import threading
from pathlib import Path

import pytest
from prefect import flow

from flows.of_stages import prepare_data
from tasks.progress import RunProgress
from tasks.runner import MOST_TASKS, FlowRunner, Parts, run_parts
from tests.runs import runs_over, sections_of, tasks_of, until
from tests.zssmnet.examinations import Archive
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import Case
from zssmnet.errors import CaseError, InputError
from zssmnet.stages.prepare import NO_LIMITS, CaseToPrepare, _refuse_faults, prepare_part

IDS = [f"{10001 + number}_{1000001 + number}" for number in range(5)]
BAD = IDS[1]
CASE = CaseToPrepare(Case("a", "nnunet", ("t", "a", "d"), "m"), 0, "images", "masks", "output", PreparationConfig())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Five cases, of which the second is damaged."""
    archive = Archive(tmp_path / "archive")
    for number, case_id in enumerate(IDS):
        archive.add(case_id, seed=number)
    archive.image_path(1, BAD).write_bytes(b"no image")
    return archive


def parts_of(archive: Archive, output: Path) -> list[CaseToPrepare]:
    where = archive.images.uri, archive.masks.uri, str(output)
    return [CaseToPrepare(archive.case(case_id), 0, *where, PreparationConfig()) for case_id in IDS]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("subset*/*.nii.gz")}


def test_each_case_is_named_and_left_out_alone(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture, prefect_api: str
) -> None:
    outputs = [tmp_path / f"{number} each" for number in (1, 3)]
    for output, each in zip(outputs, (1, 3), strict=True):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="zssmnet"):
            done = prepare_data(archive.images.uri, archive.masks.uri, str(output), cases_per_task=each)
        assert (done.prepared, set(done.left_out)) == (4, {BAD})
        lines = caplog.text.splitlines()
        for case_id in IDS:
            word = "is left out" if case_id == BAD else "prepared for subset"
            assert len([line for line in lines if case_id in line and word in line]) == 1
    one, several = (runs_over(output)["prepare-data"] for output in outputs)
    assert files(outputs[0]) == files(outputs[1])
    assert sections_of(one)["Cases"].partition("\n\n")[2] == sections_of(several)["Cases"].partition("\n\n")[2]
    until(lambda: tasks_of(several) == {f"prepare-{IDS[0]} and 2 more", f"prepare-{IDS[3]} and 1 more"})


def test_a_task_that_is_done_again_does_only_what_is_not_done(archive: Archive, tmp_path: Path) -> None:
    parts = parts_of(archive, tmp_path / "data")[:3]
    run_parts.fn(prepare_part, Parts(parts[:1]))
    first, bad, last = run_parts.fn(prepare_part, Parts(parts))
    assert isinstance(bad, CaseError) and bad.case_id == BAD
    assert not isinstance(first, CaseError) and not isinstance(last, CaseError)
    assert [(record.case_id, is_new) for record, is_new in (first, last)] == [(IDS[0], False), (IDS[2], True)]


def test_no_case_is_begun_after_the_end_of_the_flow(archive: Archive, tmp_path: Path) -> None:
    ended, output = threading.Event(), tmp_path / "data"
    parts = Parts(parts_of(archive, output)[:1], ended)
    ended.set()
    assert run_parts.fn(prepare_part, parts) == []
    assert not output.exists()
    assert len(run_parts.fn(prepare_part, copy.copy(parts))) == 1  # as pickled, for another machine


def identity(item: CaseToPrepare) -> CaseToPrepare:
    return item


class Submitted(list[int]):
    """In place of a task: the sizes of what is submitted, done at once."""

    def with_options(self, **_: object) -> "Submitted":
        return self

    def submit(self, function: object, parts: Parts) -> None:
        self.append(len(parts.items))


@pytest.mark.parametrize(
    ("count", "each", "tasks"),
    [
        (0, None, 0),
        (2, None, 2),
        (MOST_TASKS, None, MOST_TASKS),
        (MOST_TASKS + 1, None, 1001),
        (15_000, None, 1875),
        (7, 3, 3),
        (MOST_TASKS + 1, 1, MOST_TASKS + 1),
    ],
)
def test_a_large_archive_takes_no_more_than_so_many_tasks(
    count: int, each: int | None, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Submitted()
    monkeypatch.setattr("tasks.runner.run_parts", submitted)
    monkeypatch.setattr("tasks.runner.as_completed", lambda futures: iter(()))
    progress = RunProgress.__new__(RunProgress)
    assert list(FlowRunner(progress, cases_per_task=each).map(identity, [CASE] * count)) == []
    assert (len(submitted), sum(submitted)) == (tasks, count)
    assert all(size == (each or submitted[0]) for size in submitted[:-1])


def test_results_come_one_by_one_and_the_flow_waits_for_no_more_than_it_took(prefect_api: str) -> None:
    @flow
    def first_of_many() -> CaseToPrepare:
        with RunProgress() as progress:
            results = FlowRunner(progress, cases_per_task=2).map(identity, [CASE] * 5)
            first = next(results)
            results.close()
        return first

    assert first_of_many() == CASE


def test_a_line_on_many_cases_that_cannot_be_used_is_not_long() -> None:
    faults = [CaseError(f"{number}_{number}", "file", "missing") for number in range(10_000)]
    with pytest.raises(InputError) as caught:
        _refuse_faults(faults, 0, NO_LIMITS)
    assert str(caught.value).startswith("none of 10000 cases can be used: 0_0 (file: missing); 1_1 (file: missing); ")
    assert str(caught.value).endswith("; and 9500 more")
