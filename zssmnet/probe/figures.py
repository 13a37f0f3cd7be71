"""Figures of one case, and of all test cases: average precision, AUROC, Dice, surface distance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.finetuning.overlap import dice, surface_distance_mm
from zssmnet.probe.labels import LabelledCase

Array = npt.NDArray[Any]
CaseFigures = Mapping[str, float | None]
ENDPOINTS = {"lesions": "ap", "zones": "dice"}
"""The one figure of a case by which the arms are judged, named before anything is trained."""
ENDPOINT_NAMES = {
    "lesions": "average precision over the voxels of a case with a lesion and of its share of the cases without, "
    "together; mean over the test cases with a lesion",
    "zones": "Dice, mean of peripheral zone and rest of the gland, mean over the test cases",
}


def without_lesion(cases: Sequence[LabelledCase]) -> dict[int, list[int]]:
    """Which cases without a lesion are judged with which case with one, by number: an equal share for each.

    So an arm loses that lights up healthy glands, and cases remain units that vary independently.
    """
    having = [number for number, case in enumerate(cases) if case.label_ZYX.any()]
    healthy = [number for number in range(len(cases)) if number not in having]
    return {
        number: healthy[place :: len(having)] or healthy[place % len(healthy) :][:1] if healthy else []
        for place, number in enumerate(having)
    }


def case_figures(
    task: str,
    probabilities_KZYX: Any,
    case: LabelledCase,
    spacing_mm: Sequence[float],
    healthy_KZYX: Sequence[Any] = (),
) -> CaseFigures:
    """The figures of one test case; None where a figure needs what the case has not.

    Args:
        healthy_KZYX: probabilities of the cases without a lesion that are judged with it, see `without_lesion`.
    """
    probabilities, label = np.asarray(probabilities_KZYX), case.label_ZYX.numpy()
    if task == "lesions":
        score, truth = probabilities[1], label == 1
        found = score > 0.5
        return {
            "ap": _with_healthy(score, truth, healthy_KZYX) if truth.any() else None,
            "dice": dice(found, truth) if truth.any() else None,
            "score": float(score.max()),
            "has_lesion": float(truth.any()),
        }
    chosen = probabilities.argmax(axis=0)
    zones = [zone for zone in (1, 2) if (label == zone).any()]
    distances = [surface_distance_mm(chosen == zone, label == zone, spacing_mm) for zone in zones]
    known = [one for one in distances if one is not None]
    return {
        "dice": float(np.mean([dice(chosen == zone, label == zone) for zone in zones])) if zones else None,
        "surface_mm": float(np.mean(known)) if known else None,
    }


def _with_healthy(score: Array, truth: Array, healthy_KZYX: Sequence[Any]) -> float:
    scores = [score.ravel(), *(np.asarray(one)[1].ravel() for one in healthy_KZYX)]
    padded = np.zeros(sum(map(len, scores)), bool)
    padded[: truth.size] = truth.ravel()
    return average_precision(np.concatenate(scores), padded)


def average_precision(score: Array, truth: Array) -> float:
    """Area under the precision-recall curve over voxels; ties count at their end."""
    order = np.argsort(-score, axis=None, kind="stable")
    hits, sorted_score = truth.ravel()[order], score.ravel()[order]
    ends = np.append(np.nonzero(np.diff(sorted_score))[0], len(hits) - 1)
    found = np.cumsum(hits)[ends]
    precision = found / (ends + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / hits.sum())


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Probability that a case with a lesion scores above one without; None if there are not both."""
    with_lesion = np.array([one for one, is_so in zip(scores, positive, strict=True) if is_so])
    without = np.array([one for one, is_so in zip(scores, positive, strict=True) if not is_so])
    if not len(with_lesion) or not len(without):
        return None
    above = with_lesion[:, None] - without[None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())
