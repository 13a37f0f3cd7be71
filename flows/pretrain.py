"""Flow: from cubes to published weights, in this process or in a work pool elsewhere."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, cast

from prefect import flow
from pydantic import Field

from flows.parameter_help import with_parameter_help
from tasks.folders import alone_in, check_valid_everywhere
from tasks.hand_off import HandOff, hand_over
from tasks.pictures import show_training
from tasks.pretraining import TrainingOutcome, train
from tasks.progress import shown_in_run
from tasks.provenance import show_model
from tasks.run_control import controlled, ends_cancelled
from tasks.run_names import named_after
from zssmnet.config import MarginPercent, PretrainConfig, ProbeJudge
from zssmnet.storage.layout import reports_beside

PretrainSettings = Annotated[
    PretrainConfig | None, Field(description="Network, corruption and training recipe; none: the defaults")
]
HandOffChoice = Annotated[HandOff, Field(description="Where pre-training runs")]


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
    by_probe: Annotated[
        ProbeJudge | None, Field(description="Judge a challenge by the probe; none: by the validation losses")
    ] = None,
) -> TrainingOutcome:
    """Train MNet to restore corrupted cubes; an interrupted run continues from its last checkpoint."""
    check_valid_everywhere(cubes_path, output_path, reports_path)
    with (
        alone_in(),
        shown_in_run(),
        controlled(),
    ):  # training locks its own folder, and that of the weights when it publishes
        outcome = train(cubes_path, output_path, config or PretrainConfig(), challenge, margin_percent, by_probe)
    show_training(cubes_path, output_path, reports_path or reports_beside(output_path))
    show_model(output_path)
    return outcome


Pretrain = Callable[[str, str, PretrainConfig, str, bool, float, ProbeJudge | None], TrainingOutcome]


def choose_pretrain(hand_off: HandOff) -> Pretrain:
    """The flow `pretrain` in this process, or what hands it over to a deployment."""
    return cast(Pretrain, partial(hand_over, hand_off=hand_off) if hand_off.deployment else pretrain)
