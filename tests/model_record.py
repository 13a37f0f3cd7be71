"""A record of a model that nobody trained, for tests of what is done with records."""

from zssmnet.config import PretrainConfig
from zssmnet.data.splits import SUBSETS
from zssmnet.registry.lineage import CaseData
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage.records import Input
from zssmnet.training.checkpoint import EpochResult


def model_record(run_id: str, data: tuple[CaseData, ...] = ()) -> PretrainedModel:
    """What a training of one epoch tells, but for its output."""
    return PretrainedModel(
        method=1,
        inputs=tuple(Input(name=f"{subset}.npy", size=0, version="", sha256="") for subset in SUBSETS),
        outputs=(),
        run_id=run_id,
        parameters=PretrainConfig(),
        versions={},
        best_epoch=1,
        best_validation_loss=0.5,
        history=(EpochResult(1, 0.5, 0.5, 0.1),),
        data=data,
    )
