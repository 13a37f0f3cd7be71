"""The arms of a comparison: weights, the same values permuted, and scratch; all arms of a seed have the same heads."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

import torch

from zssmnet.config import PROBE_SCALES, IntensityScaling, NetworkConfig, ProbeConfig
from zssmnet.corruption import LAYOUT
from zssmnet.errors import CheckpointError, ConfigError
from zssmnet.handoff.load import load_body
from zssmnet.handoff.weights import HEADS, Weights, read_weights
from zssmnet.mnet import MNet
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import sha256_of

SCRATCH, AGAIN, MANY, POSITIVE = "scratch", "scratch again", "scratch, many labels", "positive control"
_INITIAL, _AGAIN, _PERMUTATION = 500, 10_500, 900


@dataclass(frozen=True)
class Arm:
    """One of the compared arms.

    Attributes:
        kind: ``weights`` as they are; ``permuted``: their values permuted within each tensor, which keeps the scale and
            loses the structure; ``scratch``; ``again``: scratch from another initial seed, for the control.
        weights: of the first two kinds: one file for all seeds, or one training for each.
    """

    name: str
    kind: Literal["weights", "permuted", "scratch", "again"]
    weights: tuple[Weights, ...] = ()

    @property
    def records(self) -> list[PretrainedModel]:
        """The records of the weights that have one."""
        return [one.record for one in self.weights if one.record]

    @cached_property
    def sha256(self) -> tuple[str, ...]:
        """Of each file."""
        return tuple(sha256_of(one.path) for one in self.weights)


def all_arms(weights: Sequence[Arm]) -> list[Arm]:
    """All arms that are tuned: scratch and its control, then each arm of weights and the same permuted."""
    arms = [Arm(SCRATCH, "scratch"), Arm(AGAIN, "again")]
    for arm in weights:
        arms += [arm, replace(arm, name=permuted_name(arm.name), kind="permuted")]
    return arms


def permuted_name(name: str) -> str:
    """Name of the arm with the permuted values of these weights."""
    return f"{name}, permuted"


def files_of(addresses: str) -> list[str]:
    """The addresses of an arm's files, which are separated by commas."""
    return [one for one in addresses.split(",") if one]


def read_arm(addresses: str | os.PathLike[str], force: bool = False) -> Arm:
    """Read the weights of an arm.

    Args:
        addresses: files or packages, local or in S3, separated by commas.
        force: also take weights with explained variance <= 0.

    Raises:
        CheckpointError: a file that cannot be used, or weights with explained variance <= 0.
        ConfigError: no file is named.
    """
    if not (files := files_of(os.fspath(addresses))):
        raise ConfigError(f"weights {addresses!r} name no file; give --weights F, or F,G,... for one arm of several")
    weights = tuple(read_weights(file) for file in files)
    for one in weights:
        explained = one.record.metrics.get("explained_variance") if one.record else None
        if explained is not None and explained <= 0 and not force:
            raise CheckpointError(
                f"{one.address}: its explained variance is {explained:.1%}: it restores no better than one constant "
                "for each channel, and cannot be expected to help; train it longer, or probe it all the same with "
                "--force"
            )
    return Arm(_name(weights), "weights", weights)


def _name(weights: Sequence[Weights]) -> str:
    """Recipe and run by the record; without one, the file's name."""
    first, more = weights[0], len(weights) - 1
    if first.record is None:
        stem = PurePosixPath(first.address).stem
        return f"{stem} and {more} more" if more else stem
    corruption = first.record.parameters.corruption
    recipe = corruption.recipe + (" with zones" if corruption.zone_task.share else "")
    return f"{recipe}, {more + 1} trainings" if more else f"{recipe} {first.record.run_id}"


def with_preset(config: ProbeConfig, arms: Sequence[Arm]) -> ProbeConfig:
    """The settings with the preset that has the spacing of all weights, unless one is asked for; or ConfigError."""
    if config.preset:
        return config
    first, *others = (weights for arm in arms if arm.name != POSITIVE for weights in arm.weights)
    found = {one.spacing_mm: one.address for one in (*reversed(others), first)}
    if len(found) > 1:
        known = " and ".join(f"{address} at {spacing or 'an unknown one'}" for spacing, address in found.items())
        raise ConfigError(f"weights were trained at several spacings in mm: {known}; probe them apart, or --preset")
    (spacing,) = found
    for name, scale in PROBE_SCALES.items():
        if spacing and all(math.isclose(*both, rel_tol=0.02) for both in zip(scale.spacing_mm, spacing, strict=True)):
            return config.model_copy(update={"preset": name})
    known = f"were trained at {spacing} mm, which no preset has" if spacing else "have no record of their spacing"
    raise ConfigError(f"{first.address}: these weights {known}; choose one with --preset: {', '.join(PROBE_SCALES)}")


def network_of(arms: Sequence[Arm]) -> NetworkConfig:
    """The network of all weights; CheckpointError if they are of several, or have not six input channels."""
    first, *others = (weights for arm in arms for weights in arm.weights)
    for other in (first, *others):
        if (other.channels, other.merge, other.in_channels) != (first.channels, first.merge, 6):
            raise CheckpointError(
                f"{other.address}: {other.in_channels} input channels, channels {other.channels}, merge "
                f"{other.merge!r}, but {first.address} has {first.in_channels}, {first.channels} and {first.merge!r}; "
                "probe weights of one network with six input channels at a time"
            )
    return NetworkConfig(channels=first.channels, merge=first.merge)


def scaling_of(arms: Sequence[Arm]) -> IntensityScaling:
    """How T2W and DWI were scaled for all weights, `maximum` by default; CheckpointError if in several ways."""
    known = ((one.intensity_scaling, one.address) for arm in arms for one in arm.weights)
    found = {scaling: address for scaling, address in known if scaling}
    if len(found) > 1:
        ways = ", ".join(f"{address}: {scaling}" for scaling, address in found.items())
        raise CheckpointError(f"weights were trained with several scalings of intensities ({ways}); probe them apart")
    return next(iter(found), "maximum")


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
