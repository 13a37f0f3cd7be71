"""Task on cubes: one subset's file."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.progress import display
from zssmnet.config import CubesConfig
from zssmnet.cubes import generate_cubes
from zssmnet.storage import open_storage

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
