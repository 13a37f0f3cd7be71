"""What competes: weights, the same values permuted, and scratch; each arm of a seed has the same new heads.

The floor is what needs no network: ridge regression on smoothed inputs, and the rule that DWI is bright where ADC is
dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zssmnet.config import NetworkConfig
from zssmnet.corruption import LAYOUT
from zssmnet.handoff.load import load_body
from zssmnet.handoff.weights import HEADS, Weights
from zssmnet.mnet import MNet
from zssmnet.probe.labels import LabelledCase

Kind = Literal["weights", "permuted", "scratch", "again"]
SCRATCH, AGAIN = "scratch", "scratch again"
_INITIAL, _AGAIN, _PERMUTATION = 500, 10_500, 900


@dataclass(frozen=True)
class Arm:
    """One of those that compete.

    Attributes:
        kind: ``weights`` as they are; ``permuted``: their values permuted within each tensor, which keeps the scale and
            loses the structure; ``scratch``; ``again``: scratch from another initial seed, for the control.
        weights: of the first two kinds: one file, or one of each pre-training seed, which the seeds take in turn.
    """

    name: str
    kind: Kind
    weights: tuple[Weights, ...] = ()


def arms_of(weights: Mapping[str, tuple[Weights, ...]]) -> list[Arm]:
    """All arms with a network: scratch and its control, then weights and the same permuted."""
    arms = [Arm(SCRATCH, "scratch"), Arm(AGAIN, "again")]
    for name, one in weights.items():
        arms += [Arm(name, "weights", one), Arm(permuted_name(name), "permuted", one)]
    return arms


def permuted_name(name: str) -> str:
    """Name of the arm with the permuted values of these weights."""
    return f"{name}, permuted"


def build_network(arm: Arm, seed: int, classes: int, network: NetworkConfig, device: torch.device) -> MNet:
    """The network with which an arm begins, of six input channels; CheckpointError if the weights do not fit."""
    initial = seed + (_AGAIN if arm.kind == "again" else _INITIAL)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(initial)
        model = MNet(6, classes, network.channels, network.merge)
    if arm.weights:
        load_body(model, arm.weights[seed % len(arm.weights)])
    if arm.kind == "permuted":
        _permute(model, torch.Generator().manual_seed(seed + _PERMUTATION))
    return model.to(memory_format=LAYOUT).to(device)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def _permute(model: MNet, generator: torch.Generator) -> None:
    for name, weight in model.named_parameters():
        if not name.startswith(HEADS):
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].view_as(weight))


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
    """Scores (2, Z, Y, X) of each test case: DWI - ADC within the gland, which no network has seen."""
    return [_rule(case) for case in test]


def _rule(case: LabelledCase) -> Tensor:
    score = torch.where(case.gland_ZYX, (1 + case.input_CZYX[2] - case.input_CZYX[1]) / 2, torch.tensor(0.0))
    return torch.stack([1 - score, score])


def _features(case: LabelledCase) -> np.ndarray:
    """(voxels, features), float64: a constant, the zones, and the images at several scales."""
    channels = case.input_CZYX.double().numpy()
    smooth = [gaussian_filter(image, (0, s, s)) if s else image for image in channels[:3] for s in SMOOTHING]
    return np.stack([np.ones_like(channels[0]), *channels[3:], *smooth]).reshape(4 + len(smooth), -1).T
