"""Flow: from prepared cases to cubes, a task a subset."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import CubesSettings, with_parameter_help
from tasks.folders import check_valid_everywhere
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.runner import flow_runner, task_runner
from zssmnet import stages
from zssmnet.stages.cubes import CubesSummary


@flow(name="generate-cubes", flow_run_name=named_after("output_path"), task_runner=task_runner())
@with_parameter_help
@ends_cancelled
def generate_cubes(
    data_path: Annotated[str, Field(description="Folder of the prepared cases, SSL/data of a working root")],
    output_path: Annotated[str, Field(description="Folder for the cubes, SSL/generated_cubes of a working root")],
    subsets: Annotated[list[int] | None, Field(description="Subsets to cut, of 0 to 5; none: all six")] = None,
    config: CubesSettings = None,
    reports_path: Annotated[
        str | None, Field(description="Folder for pictures; none: reports beside the cubes")
    ] = None,
) -> CubesSummary:
    """Cut random cubes of 64 x 64 x 16 voxels from every prepared case, one file a subset."""
    check_valid_everywhere(data_path, output_path, reports_path)
    with flow_runner() as runner:
        return stages.cubes.generate_cubes(
            data_path, output_path, config, subsets=subsets, reports_path=reports_path, runner=runner
        )
