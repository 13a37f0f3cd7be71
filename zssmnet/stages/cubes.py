"""Stage: from prepared cases to cubes, a part a subset."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from pydantic import BaseModel

from zssmnet.config import CubesConfig
from zssmnet.data.archive import shortened
from zssmnet.data.splits import SUBSETS
from zssmnet.preparation.cubes import check_prepared, cubes_key, cut_subset, remove_other_sets
from zssmnet.report.markdown import code
from zssmnet.runner import PlainRunner, Runner, Summary, current_progress
from zssmnet.storage import Address, open_storage
from zssmnet.storage.layout import reports_beside
from zssmnet.storage.lock import locked
from zssmnet.storage.sharing import check_outputs_visible, check_visible

log = logging.getLogger(__name__)

STAGE = "cubes"


class SubsetSummary(BaseModel):
    """Outcome of one subset.

    Attributes:
        file: address of its cubes.
        is_new: whether they were cut just now.
        shown: number of cases whose progress was shown when they were cut.
    """

    subset: int
    cases: int
    cubes: int
    file: str
    is_new: bool
    shown: int = 0


class CubesSummary(Summary):
    """Outcome of cutting cubes."""

    cubes_path: str
    subsets: list[SubsetSummary]

    @property
    def cubes(self) -> int:
        """Cubes in all subsets together."""
        return sum(one.cubes for one in self.subsets)


@dataclass(frozen=True)
class SubsetToCut:
    """A part of this stage: one subset, where its prepared cases are and where its cubes go."""

    subset: int
    data_path: str
    output_path: str
    config: CubesConfig

    def __str__(self) -> str:
        return f"cubes-subset-{self.subset}"


def generate_cubes(
    data_path: Address,
    output_path: Address,
    config: CubesConfig | None = None,
    *,
    subsets: Sequence[int] | None = None,
    reports_path: Address | None = None,
    runner: Runner | None = None,
) -> CubesSummary:
    """Cut random cubes from all prepared cases, a file a subset: ``bat_<N>_s_<X>x<Y>x<Z>_<subset>.npy``.

    Args:
        data_path: prepared cases, in folders ``subset0`` to ``subset5``.
        output_path: where the files of cubes go, axes (cube, channel, x, y, z).
        config: number a case, size (x, y, z) in voxels, dtype and seed; none: the published ones, as float16.
        subsets: which of 0 to 5; none: all.
        reports_path: folder for pictures of cases with their cubes; none: ``reports`` beside the cubes.
        runner: what runs the subsets; none: threads of this process.

    Raises:
        InputError: no prepared case there, or no such subset.
        CaseError: a prepared case is incomplete or unreadable.
        LockedError: another run cuts cubes there.
    """
    runner, config = runner or PlainRunner(), CubesConfig.of(config)
    data, output = open_storage(data_path), open_storage(output_path)
    prepared = check_prepared(data, SUBSETS if subsets is None else subsets)
    with locked(output):
        output.sweep()
        runner.progress.begin(STAGE, sum(prepared.values()), "cases")
        parts = [SubsetToCut(subset, data.uri, output.uri, config) for subset in prepared]
        done: list[SubsetSummary] = []
        with closing(runner.map(cut_part, parts)) as results:
            for one in results:
                done.append(one)
                runner.progress.advance(STAGE, one.cases - one.shown, earlier=not one.is_new)
        done.sort(key=lambda one: one.subset)
        check_outputs_visible(output, [cubes_key(config, one.subset) for one in done])
        removed = remove_other_sets(output, config) if subsets is None else []
        output.sweep()  # what killed runs left half-written
    other = f"{len(removed)} files of cubes of another number or size"
    if removed:
        log.warning("%s are removed: %s", other, shortened(removed))
    from zssmnet.report.gallery import publish_case_pictures  # imports PyTorch and matplotlib

    publish_case_pictures(data, output, open_storage(reports_path or reports_beside(output.uri)), [*prepared], config)
    summary = CubesSummary(cubes_path=output.uri, subsets=done)
    tidied = f". **{other} were removed**: {code(shortened(removed))}" if removed else ""
    runner.progress.show("Cubes", lambda: f"{summary.cubes} cubes in {code(output.uri)}{tidied}")
    new = sum(one.is_new for one in done)
    log.info("%d cubes in %d subsets, %d of them new or renewed", summary.cubes, len(done), new)
    return summary


def cut_part(part: SubsetToCut) -> SubsetSummary:
    """Cut the cubes of one subset."""
    data, output, progress = open_storage(part.data_path), open_storage(part.output_path), current_progress()
    check_visible(data)

    def on_case(case_id: str) -> None:
        if progress:
            progress.advance(STAGE)

    record, is_new = cut_subset(part.subset, data, output, part.config, on_case)
    cases = len(record.cases)
    return SubsetSummary(
        subset=part.subset,
        cases=cases,
        cubes=cases * part.config.cubes_per_case,
        file=output.where(record.outputs[0].key),
        is_new=is_new,
        shown=cases if is_new and progress else 0,
    )
