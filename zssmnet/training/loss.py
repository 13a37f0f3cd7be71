"""The pre-training loss: restore the uncorrupted images of a corrupted cube.

All tensors have the axes (cube, channel, z, y, x).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zssmnet.config import CorruptionConfig, NetworkConfig
from zssmnet.corruption import IMAGE_CHANNELS, ZONE_CHANNELS, corrupt, was_hidden
from zssmnet.mnet import MNet


@dataclass(frozen=True)
class Restored:
    """Corrupted images, what the network restores, and the target: T2W, ADC, DWI in 0..1, (N, 3, Z, Y, X).

    A voxel that the recipe `masked` hides is -1 in the corrupted images.
    """

    corrupted: Tensor
    restored: Tensor
    target: Tensor

    def first(self, count: int) -> "Restored":
        """The first cubes of them."""
        return Restored(self.corrupted[:count], self.restored[:count], self.target[:count])

    def squared_error_of_hidden(self) -> Tensor:
        """Mean squared error over each cube's hidden voxels, averaged over the cubes."""
        hidden = was_hidden(self.corrupted)
        errors = ((self.restored - self.target).square() * hidden).flatten(1).sum(dim=1)
        return (errors / hidden.flatten(1).sum(dim=1)).mean()


def restoring_network(config: NetworkConfig) -> MNet:
    """A new network that takes the corrupted images and the zones, and gives the images."""
    return MNet(IMAGE_CHANNELS + ZONE_CHANNELS, IMAGE_CHANNELS, config.channels, config.merge)


def restore(model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig) -> Restored:
    """Corrupt cubes, and let the network restore them."""
    corrupted, target = corrupt(cubes_NCZYX, keys, config)
    return Restored(corrupted[:, :IMAGE_CHANNELS], torch.sigmoid(model(corrupted)), target)


def loss_of(shown: Restored, config: CorruptionConfig) -> Tensor:
    """The loss: the mean squared error, in the recipe `masked` over the voxels that its settings choose."""
    if config.recipe == "masked" and config.masking.loss == "hidden":
        return shown.squared_error_of_hidden()
    return (shown.restored - shown.target).square().mean()


def restoration_loss(model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig) -> Tensor:
    """The loss of a batch; see `loss_of`."""
    return loss_of(restore(model, cubes_NCZYX, keys, config), config)
