"""The pretext task for the network: restore the uncorrupted images of a corrupted cube.

All tensors have the axes (cube, channel, z, y, x).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zssmnet.config import CorruptionConfig
from zssmnet.corruption import corrupt


@dataclass(frozen=True)
class Restored:
    """The network's input, prediction and target: T2W, ADC, DWI in 0..1, axes (cube, channel, z, y, x)."""

    corrupted: Tensor
    restored: Tensor
    target: Tensor


def restored_pair(
    model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig
) -> tuple[Tensor, Tensor]:
    """What the network makes of corrupted cubes, and what they were: both (N, 3, Z, Y, X)."""
    corrupted, target = corrupt(cubes_NCZYX, keys, config)
    return torch.sigmoid(model(corrupted)), target


def restoration_loss(model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig) -> Tensor:
    """Mean squared error between the restored and the uncorrupted images."""
    restored, target = restored_pair(model, cubes_NCZYX, keys, config)
    return functional.mse_loss(restored, target)


@torch.no_grad()
def restored_examples(model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig) -> Restored:
    """Corrupt cubes and let the network restore them, for pictures."""
    corrupted, target = corrupt(cubes_NCZYX, keys, config)
    return Restored(corrupted[:, :3], torch.sigmoid(model(corrupted)), target)
