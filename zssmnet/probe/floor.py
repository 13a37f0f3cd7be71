"""The floor, which needs no network: ridge regression on smoothed inputs, and the rule that DWI less ADC is high."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zssmnet.probe.labels import LabelledCase

RIDGE, RULE = "ridge", "DWI - ADC"
SMOOTHING = (0.0, 1.0, 2.0, 4.0)
"""Standard deviations within the slice, in voxels, of the inputs that the ridge regression takes."""
_PENALTY = 1e-3
_PER_CLASS = 4000


def ridge_probabilities(
    labelled: Sequence[LabelledCase], test: Sequence[LabelledCase], classes: int, seed: int
) -> list[Tensor]:
    """Scores (K, Z, Y, X) of each test case by a ridge regression of the classes on smoothed images and zones."""
    rng = np.random.default_rng([seed, 2])
    rows, truths = [], []
    for case in labelled:
        features, label = _features(case), case.label_ZYX.flatten().numpy()
        for number in range(classes):
            (at,) = np.nonzero(label == number)
            chosen = rng.permutation(at)[:_PER_CLASS]
            rows.append(features[chosen])
            truths.append(np.eye(classes)[label[chosen]])
    x, y = np.concatenate(rows), np.concatenate(truths)
    gram = x.T @ x + _PENALTY * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ y)
    return [torch.from_numpy((_features(case) @ weights).T.reshape(classes, *case.label_ZYX.shape)) for case in test]


def rule_probabilities(test: Sequence[LabelledCase]) -> list[Tensor]:
    """Scores (2, Z, Y, X) of each test case: DWI - ADC within the gland."""
    scores = [case.gland_ZYX * (1 + case.input_CZYX[2] - case.input_CZYX[1]) / 2 for case in test]
    return [torch.stack([1 - score, score]) for score in scores]


def _features(case: LabelledCase) -> np.ndarray:
    """(voxels, features), float64: a constant, the zones, and the images at several scales."""
    channels = case.input_CZYX.double().numpy()
    smooth = [gaussian_filter(image, (0, s, s)) if s else image for image in channels[:3] for s in SMOOTHING]
    return np.stack([np.ones_like(channels[0]), *channels[3:], *smooth]).reshape(4 + len(smooth), -1).T
