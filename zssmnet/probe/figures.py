"""Figures of one case, and of all test cases: average precision, AUROC, Dice, surface distance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.finetuning.overlap import dice, surface_distance_mm
from zssmnet.handoff.detection import lesion_candidates
from zssmnet.probe.labels import LabelledCase

Array = npt.NDArray[Any]
CaseFigures = Mapping[str, float | None]
ENDPOINTS = {"lesions": "ap", "zones": "dice"}
"""The one figure of a case by which the arms are judged, named before anything is trained."""
ENDPOINT_NAMES = {
    "lesions": "average precision over a case's voxels, mean over the test cases with a lesion",
    "zones": "Dice, mean of peripheral zone and rest of the gland, mean over the test cases",
}


def case_figures(task: str, probabilities_KZYX: Any, case: LabelledCase, spacing_mm: Sequence[float]) -> CaseFigures:
    """The figures of one test case; None where a figure needs what the case has not."""
    probabilities, label = np.asarray(probabilities_KZYX), case.label_ZYX.numpy()
    if task == "lesions":
        score, truth = probabilities[1], label == 1
        found = score > 0.5
        return {
            "ap": average_precision(score, truth) if truth.any() else None,
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


def picai_figures(
    probabilities_KZYX: Sequence[Any],
    cases: Sequence[LabelledCase],
) -> dict[str, float | None] | None:
    """The PI-CAI challenge's figures of all test cases, by picai_eval; None where it is not installed.

    Returns:
        ``ap``: average precision over lesions, whose candidates are extracted as PI-CAI does; ``auroc``: of cases; None
        where there are not both kinds.
    """
    try:
        import report_guided_annotation  # noqa: F401  (which lesion_candidates takes)
        from picai_eval import evaluate
    except ModuleNotFoundError:
        return None
    scores = [np.clip(np.asarray(one[1], np.float64), 0, 1) for one in probabilities_KZYX]
    found = [lesion_candidates(score) for score in scores]
    metrics = evaluate(found, [case.label_ZYX.numpy() == 1 for case in cases], num_parallel_calls=1)
    has_lesion = [bool((case.label_ZYX == 1).any()) for case in cases]
    return {
        "ap": float(metrics.AP) if any(has_lesion) else None,
        "auroc": float(metrics.auroc) if any(has_lesion) and not all(has_lesion) else None,
    }


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
