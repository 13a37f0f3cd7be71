"""Flow: do weights help? Fine-tuning from them and from scratch on a few labelled cases, compared."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import with_parameter_help
from flows.states import ended
from tasks.folders import check_valid_everywhere
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.runner import flow_runner
from zssmnet.config import PICAI_PATIENT, ImagesPath, MaskPath, PatientPattern, ProbeConfig
from zssmnet.probe.contenders import files_of
from zssmnet.stages.probe import ProbeSummary, probe_weights


@flow(name="probe", flow_run_name=named_after("output_path"))
@with_parameter_help
@ends_cancelled
def probe(
    images_path: ImagesPath,
    zonal_mask_path: MaskPath,
    weights: Annotated[
        list[str],
        Field(
            min_length=1,
            description="Files of weights, local or s3://bucket/key, or local folders of packages; trainings of one "
            "recipe, separated by commas, are one arm",
        ),
    ],
    output_path: Annotated[str, Field(description="Folder for the result, its table and picture, and the trials")],
    labels_path: Annotated[
        str | None, Field(description="Folder or s3://bucket/prefix of lesions, CASE.nii.gz; for the task lesions")
    ] = None,
    patient_pattern: PatientPattern = PICAI_PATIENT,
    config: Annotated[ProbeConfig, Field(description="Task, preset, numbers of cases and seeds")] = ProbeConfig(),
) -> ProbeSummary:
    """Compare weights with scratch on held-out cases; an interrupted run continues after its last whole trial."""
    files = [file for one in weights for file in files_of(one)]
    check_valid_everywhere(images_path, zonal_mask_path, output_path, labels_path, *files)
    with flow_runner() as runner:
        places = images_path, zonal_mask_path, weights, output_path, labels_path
        done = probe_weights(*places, patient_pattern, config, runner)
    return ended(done, "Completed", done.verdict)
