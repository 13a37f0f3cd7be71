"""Flow: from cubes to published weights."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.pictures import show_training
from tasks.pretraining import TrainingOutcome, train
from zssmnet.config import PretrainConfig
from zssmnet.layout import reports_beside


@flow(name="pretrain", flow_run_name="pretrain {output_path}", persist_result=False)
def pretrain(
    cubes_path: Annotated[str, Field(description="Folder of the cubes, SSL/generated_cubes of a working root")],
    output_path: Annotated[str, Field(description="Folder for the weights, SSL/pretrained_weights of a working root")],
    config: PretrainConfig = PretrainConfig(),
    reports_path: Annotated[
        str | None, Field(description="Folder for pictures; none: reports beside the weights")
    ] = None,
) -> TrainingOutcome:
    """Train MNet to restore corrupted cubes; an interrupted run continues from its last checkpoint."""
    outcome = train(cubes_path, output_path, config)
    show_training(cubes_path, output_path, reports_path or reports_beside(output_path))
    return outcome
