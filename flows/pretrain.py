"""Flow: from cubes to published weights, in this process or in a work pool elsewhere."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import with_parameter_help
from tasks.hand_off import HandOff, hand_over
from tasks.locking import alone_in
from tasks.pictures import show_training
from tasks.pretraining import TrainingOutcome, train
from tasks.progress import shown_in_run
from tasks.provenance import show_model
from zssmnet.config import PretrainConfig
from zssmnet.storage.layout import reports_beside

PretrainSettings = Annotated[PretrainConfig, Field(description="Network, corruption and training recipe")]
HandOffChoice = Annotated[HandOff, Field(description="Where pre-training runs")]


@flow(name="pretrain", flow_run_name="pretrain {output_path}")
@with_parameter_help
def pretrain(
    cubes_path: Annotated[str, Field(description="Folder of the cubes, SSL/generated_cubes of a working root")],
    output_path: Annotated[str, Field(description="Folder for the weights, SSL/pretrained_weights of a working root")],
    config: PretrainSettings = PretrainConfig(),
    reports_path: Annotated[
        str | None, Field(description="Folder for pictures; none: reports beside the weights")
    ] = None,
    challenge: Annotated[
        bool,
        Field(
            description="Start from the published model, and publish only what is better on the same validation cubes"
        ),
    ] = False,
) -> TrainingOutcome:
    """Train MNet to restore corrupted cubes; an interrupted run continues from its last checkpoint."""
    with alone_in(), shown_in_run():  # training holds its own folder, and that of the weights when it publishes
        outcome = train(cubes_path, output_path, config, challenge)
    show_training(cubes_path, output_path, reports_path or reports_beside(output_path))
    show_model(output_path)
    return outcome


def pretrain_where_told(
    cubes_path: str,
    output_path: str,
    config: PretrainConfig,
    reports_path: str,
    hand_off: HandOff,
    challenge: bool = False,
) -> TrainingOutcome:
    """Pre-train in this process, or hand it over to a deployment: the same flow either way."""
    if hand_off.deployment is None:
        return pretrain(cubes_path, output_path, config, reports_path, challenge)
    return hand_over(cubes_path, output_path, config, reports_path, challenge, hand_off)
