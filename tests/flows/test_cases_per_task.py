"""Tasks that prepare several cases: each case is named, counted and left out as if it had a task of its own."""

import logging
from contextvars import copy_context
from pathlib import Path

import pytest
from flows.prepare_data import MOST_TASKS, NO_LIMITS, _divided, _refuse_faults
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from tasks.cases import prepare

from tasks.run_control import ends_with_flow
from tests.reliability.command import zssmnet
from tests.runs import case_rows, runs_over
from tests.zssmnet.examinations import Archive
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import Case
from zssmnet.errors import CaseError, InputError

IDS = [f"{10001 + number}_{1000001 + number}" for number in range(5)]
BAD = IDS[1]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Five cases, of which the second is damaged."""
    archive = Archive(tmp_path / "archive")
    for number, case_id in enumerate(IDS):
        archive.add(case_id, seed=number)
    archive.image_path(1, BAD).write_bytes(b"no image")
    return archive


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("subset*/*.nii.gz")}


def test_each_case_is_named_and_left_out_alone(
    archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture, prefect_api: str
) -> None:
    outputs = [tmp_path / f"{number} each" for number in (1, 3)]
    common = ("prepare", "--images_path", archive.images.uri, "--zonal_mask_path", archive.masks.uri)
    for output, each in zip(outputs, "13", strict=True):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="zssmnet"):
            ended = zssmnet(*common, "--output_path", output, "--cases-per-task", each)
        assert ended.out.splitlines()[-1].startswith("4 cases prepared, 0 up to date, 1 left out")
        lines = caplog.text.splitlines()
        for case_id in IDS:
            word = "is left out" if case_id == BAD else "prepared for subset"
            assert len([line for line in lines if case_id in line and word in line]) == 1
    one, several = (runs_over(output)["prepare-data"] for output in outputs)
    assert files(outputs[0]) == files(outputs[1])
    assert case_rows(one) == case_rows(several)
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[several.id])))
    names = {task.name for task in found if task.name.startswith("prepare-")}
    assert names == {f"prepare-{IDS[0]} and 2 more", f"prepare-{IDS[3]} and 1 more"}


def test_a_task_that_is_done_again_does_only_what_is_not_done(archive: Archive, tmp_path: Path) -> None:
    cases = [archive.case(case_id) for case_id in IDS[:3]]
    where = archive.images.uri, archive.masks.uri, str(tmp_path / "data")
    prepare.fn(cases[:1], [0], *where, PreparationConfig())
    first, bad, last = prepare.fn(cases, [0, 0, 0], *where, PreparationConfig())
    assert isinstance(bad, CaseError) and bad.case_id == BAD
    assert not isinstance(first, CaseError) and not isinstance(last, CaseError)
    assert [(record.case_id, is_new) for record, is_new in (first, last)] == [(IDS[0], False), (IDS[2], True)]


def test_no_case_is_begun_after_the_end_of_the_flow(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ends_with_flow():
        of_a_task = copy_context()
        raise KeyboardInterrupt
    cases, output = [archive.case(case_id) for case_id in IDS], tmp_path / "data"
    where = archive.images.uri, archive.masks.uri, str(output)
    assert of_a_task.run(prepare.fn, cases, [0] * len(cases), *where, PreparationConfig()) == []
    assert not output.exists()


@pytest.mark.parametrize("count", [0, 1, MOST_TASKS, MOST_TASKS + 1, 15_000])
def test_a_large_archive_takes_no_more_than_so_many_tasks(count: int) -> None:
    cases = [Case(str(number), "nnunet", ("a", "b", "c"), "mask") for number in range(count)]
    parts = _divided(cases, None)
    assert [case for part in parts for case in part] == cases
    assert len(parts) <= MOST_TASKS
    assert (max(map(len, parts), default=1) == 1) == (count <= MOST_TASKS)
    assert len(_divided(cases, 1)) == count


def test_a_line_on_many_cases_that_cannot_be_used_is_not_long() -> None:
    faults = [CaseError(f"{number}_{number}", "file", "missing") for number in range(10_000)]
    with pytest.raises(InputError) as caught:
        _refuse_faults(faults, 0, NO_LIMITS)
    assert str(caught.value).startswith("none of 10000 cases can be used: 0_0 (file: missing); 1_1 (file: missing); ")
    assert str(caught.value).endswith("; and 9500 more")
