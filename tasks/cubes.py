"""Task on cubes: one subset's file."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.progress import display
from zssmnet.archive import shortened
from zssmnet.config import CubesConfig
from zssmnet.cubes import generate_cubes, remove_other_sets
from zssmnet.storage import open_storage

log = logging.getLogger("zssmnet.tasks")
STAGE = "cubes"


class SubsetOutcome(BaseModel):
    """What became of one subset."""

    subset: int
    cases: int
    cubes: int
    file: str
    is_new: bool


@task(task_run_name="cubes-subset-{subset}", cache_policy=NO_CACHE, persist_result=False)
def cut_cubes(subset: int, data_path: str, output_path: str, config: CubesConfig) -> SubsetOutcome:
    """Cut the cubes of one subset."""
    output = open_storage(output_path)
    shown = display()
    record, is_new = generate_cubes(subset, open_storage(data_path), output, config, lambda case: shown.advance(STAGE))
    return SubsetOutcome(
        subset=subset,
        cases=len(record.cases),
        cubes=len(record.cases) * config.cubes_per_case,
        file=output.where(record.outputs[0].key),
        is_new=is_new,
    )


@task(task_run_name="tidy-cubes", cache_policy=NO_CACHE, persist_result=False)
def tidy_cubes(output_path: str, config: CubesConfig) -> list[str]:
    """Remove sets of cubes that earlier runs made with another number or size of cubes."""
    removed = remove_other_sets(open_storage(output_path), config)
    if removed:
        log.warning("%d files of cubes of another number or size are removed: %s", len(removed), shortened(removed))
    return removed
