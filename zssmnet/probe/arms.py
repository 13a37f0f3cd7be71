"""What competes: weights, the same values permuted, and scratch; each arm of a seed has the same new heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from zssmnet.config import NetworkConfig
from zssmnet.corruption import LAYOUT
from zssmnet.handoff.load import load_body
from zssmnet.handoff.weights import HEADS, Weights
from zssmnet.mnet import MNet

Kind = Literal["weights", "permuted", "scratch", "again"]
SCRATCH, AGAIN = "scratch", "scratch again"
_INITIAL, _AGAIN, _PERMUTATION = 500, 10_500, 900


@dataclass(frozen=True)
class Arm:
    """One of those that compete.

    Attributes:
        name: in tables.
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
    """The network with which an arm begins, of six input channels.

    Raises:
        CheckpointError: the weights do not fit.
    """
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
