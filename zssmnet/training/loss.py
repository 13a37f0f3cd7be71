"""The pretext task for the network: restore the uncorrupted images of a corrupted cube.

Cubes have the axes (cube, channel, x, y, z) on disk and in corruption; the network sees (z, y, x).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zssmnet.config import CorruptionConfig
from zssmnet.corruption import corrupt

LAYOUT = torch.channels_last_3d
"""Channels last: 2 to 9 times faster on a CPU than channels first, and what tensor cores want."""


@dataclass(frozen=True)
class Restored:
    """What went in, what came out and what was wanted: T2W, ADC, DWI in 0..1, axes (cube, channel, z, y, x)."""

    corrupted: Tensor
    restored: Tensor
    target: Tensor


def corrupted_pair(cubes_NCXYZ: Tensor, keys: Tensor, config: CorruptionConfig) -> tuple[Tensor, Tensor]:
    """Input (N, 6, Z, Y, X) and target (N, 3, Z, Y, X) of the network."""
    pair = corrupt(cubes_NCXYZ, keys, config)
    return network_axes(pair.input_NCXYZ), network_axes(pair.target_NCXYZ)


def restored_pair(
    model: nn.Module, cubes_NCXYZ: Tensor, keys: Tensor, config: CorruptionConfig
) -> tuple[Tensor, Tensor]:
    """What the network makes of corrupted cubes, and what they were: both (N, 3, Z, Y, X)."""
    corrupted, target = corrupted_pair(cubes_NCXYZ, keys, config)
    return torch.sigmoid(model(corrupted)), target


def restoration_loss(model: nn.Module, cubes_NCXYZ: Tensor, keys: Tensor, config: CorruptionConfig) -> Tensor:
    """Mean squared error between the restored and the uncorrupted images."""
    restored, target = restored_pair(model, cubes_NCXYZ, keys, config)
    return functional.mse_loss(restored, target)


@torch.no_grad()
def restore(model: nn.Module, cubes_NCXYZ: Tensor, keys: Tensor, config: CorruptionConfig) -> Restored:
    """Corrupt cubes and let the network restore them, for pictures."""
    corrupted, target = corrupted_pair(cubes_NCXYZ, keys, config)
    return Restored(corrupted[:, :3], torch.sigmoid(model(corrupted)), target)


def network_axes(volume_NCXYZ: Tensor) -> Tensor:
    """(N, C, X, Y, Z) to the network's (N, C, Z, Y, X), in the memory layout that its convolutions like."""
    return volume_NCXYZ.permute(0, 1, 4, 3, 2).contiguous(memory_format=LAYOUT)
