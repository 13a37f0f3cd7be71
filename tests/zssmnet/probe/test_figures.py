import numpy as np
import pytest
import torch

from zssmnet.probe.figures import (
    auroc,
    average_precision,
    case_figures,
    dice,
    surface_distance_mm,
    without_lesion,
)
from zssmnet.probe.labels import LabelledCase


def test_average_precision_worked_out_by_hand() -> None:
    truth = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([4.0, 1, 3, 2]), truth) == 1
    assert average_precision(np.full(4, 0.5), truth) == pytest.approx(0.5)  # ties: the share of what is to be found


def test_auroc_worked_out_by_hand() -> None:
    assert auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auroc([0.9, 0.5], [True, True]) is None


def test_dice_and_surface_distance_of_shifted_boxes() -> None:
    first, second = np.zeros((2, 6, 12, 12), bool)
    first[1:5, 2:8, 2:8], second[1:5, 2:8, 4:10] = True, True
    assert dice(first, second) == pytest.approx(2 / 3)
    assert surface_distance_mm(first, first, (1, 1, 3)) == 0
    found = surface_distance_mm(first, second, (0.5, 1, 3))
    assert found is not None and 0 < found < 1
    assert surface_distance_mm(first, np.zeros_like(first), (1, 1, 1)) is None


def test_a_perfect_answer_has_perfect_figures() -> None:
    label = torch.zeros(2, 8, 8, dtype=torch.long)
    label[:, 2:4, 2:6], label[:, 4:6, 2:6] = 1, 2
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 0).double()
    case = LabelledCase("a_1", torch.zeros(6, 2, 8, 8), label, label > 0)
    assert case_figures("zones", one_hot, case, (1, 1, 3)) == {"dice": 1, "surface_mm": 0}
    lesion = LabelledCase("a_1", torch.zeros(6, 2, 8, 8), (label == 1).long(), label > 0)
    scores = torch.stack([1 - one_hot[1], one_hot[1]])
    assert case_figures("lesions", scores, lesion, (1, 1, 3)) == {"ap": 1, "dice": 1, "score": 1, "has_lesion": 1}
    half = torch.where(scores[1] > 0, 0.45, 0.0)
    assert case_figures("lesions", torch.stack([1 - half, half]), lesion, (1, 1, 3))["dice"] == 0
    one_zone = one_hot.clone()
    one_zone[2] = 0
    assert case_figures("zones", one_zone, case, (1, 1, 3))["dice"] == 0.5
    none = LabelledCase("a_1", torch.zeros(6, 2, 8, 8), torch.zeros_like(label), label > 0)
    assert case_figures("lesions", scores, none, (1, 1, 3))["ap"] is None


def test_an_arm_that_lights_up_healthy_glands_loses() -> None:
    """Two arms find a lesion alike; one of them is as sure where there is none."""
    label = torch.zeros(2, 8, 8, dtype=torch.long)
    label[:, 2:4, 2:6] = 1
    cases = [LabelledCase(f"{n}_1", torch.zeros(6, 2, 8, 8), label * (n == 1), label > 0) for n in range(3)]
    assert without_lesion(cases) == {1: [0, 2]}
    score = torch.stack([1 - 0.8 * label, 0.8 * label])
    calm, sure = (case_figures("lesions", score, cases[1], (1, 1, 3), [0 * score, one]) for one in (0 * score, score))
    assert (calm["ap"], sure["ap"]) == (1, 0.5)


def test_cases_without_a_lesion_are_shared_out() -> None:
    def of(*has: int) -> dict[int, list[int]]:
        label = torch.ones(1, 2, 2, dtype=torch.long)
        return without_lesion([LabelledCase("", torch.zeros(0), label * one, label > 0) for one in has])

    assert of(1, 0, 1, 0, 0) == {0: [1, 4], 2: [3]}
    assert of(1, 1, 0) == {0: [2], 1: [2]}
    assert of(1, 1) == {0: [], 1: []}
