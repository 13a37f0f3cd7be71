"""Champion and challenger of a retraining, compared by the probe instead of by their validation losses."""

from dataclasses import replace
from pathlib import Path

from zssmnet.config import ProbeConfig, ProbeJudge
from zssmnet.handoff.weights import read_weights
from zssmnet.probe.contenders import Contender
from zssmnet.probe.labels import read_labelled_cases
from zssmnet.probe.run import probe
from zssmnet.registry.challenge import Gain, Trained
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage, open_storage

CHAMPION, CHALLENGER = "champion", "challenger"


def compare_models(champion: Trained, challenger: Trained, output: Storage, how: ProbeJudge) -> Gain:
    """The endpoint of the challenger less that of the champion, over seeds and test cases.

    Cases that either was trained with are not tested: what remains are those of the validation subset.

    Args:
        champion, challenger: record and file of each.
        output: for the probe's trials and result.
        how: labelled cases and settings.

    Raises:
        InputError: too few labelled cases.
        ArchiveError: none that can be used.
    """
    config = how.probe or ProbeConfig(task="lesions" if how.labels_path else "zones")
    labels = open_storage(how.labels_path) if how.labels_path and config.task == "lesions" else None
    cases = read_labelled_cases(
        open_storage(how.images_path), open_storage(how.zonal_mask_path), labels, config, how.patient_pattern
    )
    both = [_contender(CHALLENGER, *challenger), _contender(CHAMPION, *champion)]
    result = probe(cases, both, output, config, how.patient_pattern)
    (found,) = (one for one in result.comparisons if (one.first, one.second) == (CHALLENGER, CHAMPION))
    return Gain(mean=found.difference.mean, low=found.difference.low, high=found.difference.high)


def _contender(name: str, record: PretrainedModel, file: Path) -> Contender:
    return Contender(name, (replace(read_weights(file), merge=record.parameters.network.merge),), (record,))
