"""Task on cubes: one subset's file."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field

from tasks.folders import check_visible
from tasks.progress import display, is_shown
from zssmnet.config import CubesConfig
from zssmnet.data.archive import shortened
from zssmnet.preparation.cubes import cut_subset, remove_other_sets
from zssmnet.storage import open_storage

log = logging.getLogger("zssmnet.tasks")
STAGE = "cubes"


class SubsetOutcome(BaseModel):
    """What became of one subset.

    Attributes:
        shown: cases that the task itself has shown to be done: none on another machine, which shows nothing.
    """

    subset: int
    cases: int
    cubes: int
    file: str
    is_new: bool
    shown: int = Field(default=0, exclude=True)


@task(task_run_name="cubes-subset-{subset}", cache_policy=NO_CACHE, persist_result=False)
def cut_cubes(subset: int, data_path: str, output_path: str, config: CubesConfig) -> SubsetOutcome:
    """Cut the cubes of one subset."""
    data, output = open_storage(data_path), open_storage(output_path)
    check_visible(data)
    shown = display()
    record, is_new = cut_subset(subset, data, output, config, lambda case: shown.advance(STAGE))
    return SubsetOutcome(
        subset=subset,
        cases=len(record.cases),
        cubes=len(record.cases) * config.cubes_per_case,
        file=output.where(record.outputs[0].key),
        is_new=is_new,
        shown=len(record.cases) if is_new and is_shown() else 0,
    )


@task(task_run_name="tidy-cubes", cache_policy=NO_CACHE, persist_result=False)
def tidy_cubes(output_path: str, config: CubesConfig) -> list[str]:
    """Remove cubes that earlier runs made in another number or size, and what killed workers left half-written."""
    output = open_storage(output_path)
    removed = remove_other_sets(output, config)
    if removed:
        log.warning("%d files of cubes of another number or size are removed: %s", len(removed), shortened(removed))
    output.sweep()
    return removed
