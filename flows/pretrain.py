"""Flow: from cubes to published weights."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import PretrainSettings, with_parameter_help
from tasks.folders import check_valid_everywhere
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.runner import flow_runner
from zssmnet import stages
from zssmnet.config import MarginPercent
from zssmnet.stages.pretrain import PretrainingSummary


@flow(name="pretrain", flow_run_name=named_after("output_path"))
@with_parameter_help
@ends_cancelled
def pretrain(
    cubes_path: Annotated[str, Field(description="Folder of the cubes, SSL/generated_cubes of a working root")],
    output_path: Annotated[str, Field(description="Folder for the weights, SSL/pretrained_weights of a working root")],
    config: PretrainSettings = None,
    reports_path: Annotated[
        str | None, Field(description="Folder for pictures; none: reports beside the weights")
    ] = None,
    challenge: Annotated[
        bool,
        Field(
            description="Start from the published model, and publish only what is better on the same validation cubes"
        ),
    ] = False,
    margin_percent: MarginPercent = 0.0,
) -> PretrainingSummary:
    """Train MNet to restore corrupted cubes; an interrupted run continues from its last checkpoint."""
    check_valid_everywhere(cubes_path, output_path, reports_path)
    with flow_runner() as runner:
        return stages.pretrain.pretrain(
            cubes_path,
            output_path,
            config,
            challenge=challenge,
            margin_percent=margin_percent,
            reports_path=reports_path,
            runner=runner,
        )
