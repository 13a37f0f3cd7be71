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

    Attributes:
        zone_errors: with the co-task, (N,): mean cross-entropy of each cube's zones; 0 where they are not segmented.
    """

    corrupted: Tensor
    restored: Tensor
    target: Tensor
    zone_errors: Tensor | None = None

    def first(self, count: int | None) -> "Restored":
        """The first cubes of them; None: all."""
        zone_errors = None if self.zone_errors is None else self.zone_errors[:count]
        return Restored(self.corrupted[:count], self.restored[:count], self.target[:count], zone_errors)

    def squared_errors(self, hidden_alone: bool) -> Tensor:
        """Mean squared error of each cube and image, (N, 3), over all voxels or over the hidden ones."""
        squares = (self.restored - self.target).square()
        if not hidden_alone:
            return squares.mean(dim=(2, 3, 4))
        hidden = was_hidden(self.corrupted)
        return (squares * hidden).sum(dim=(2, 3, 4)) / hidden.sum(dim=(2, 3, 4))


def restoring_network(config: NetworkConfig, zones: bool = False, seed: int = 0) -> MNet:
    """A new network that takes the corrupted images and the zones, and gives the images; and the zones, if asked.

    Its weights are drawn on the CPU, from the seed alone; PyTorch's own generator is left as it was.
    """
    outputs = IMAGE_CHANNELS + ZONE_CHANNELS * zones
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MNet(IMAGE_CHANNELS + ZONE_CHANNELS, outputs, config.channels, config.merge)


def restore(
    model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig, shuffled_P: Tensor | None = None
) -> Restored:
    """Corrupt cubes (see `corrupt`), and let the network restore them.

    The network may lie on another device than the cubes, on which all else is computed, partly in float64.
    """
    corrupted, target = corrupt(cubes_NCZYX, keys, config, shuffled_P)
    device = next(model.parameters(), corrupted).device
    logits, zone_errors = model(corrupted.to(device)).to(corrupted.device), None
    if target.shape[1] > IMAGE_CHANNELS:
        log_shares = torch.log_softmax(logits[:, IMAGE_CHANNELS:], dim=1)
        zone_errors = -(target[:, IMAGE_CHANNELS:] * log_shares).sum(dim=1).mean(dim=(1, 2, 3))
    images, restored, target = (one[:, :IMAGE_CHANNELS] for one in (corrupted, logits, target))
    return Restored(images, torch.sigmoid(restored), target, zone_errors)


def loss_of(shown: Restored, config: CorruptionConfig, channel_weights: Tensor | None = None) -> Tensor:
    """The loss: the mean squared error, in the recipe `masked` over the voxels that its settings choose.

    Args:
        channel_weights: of T2W, ADC and DWI, (3,); None: all 1.

    Returns:
        A scalar; with the co-task the zones' cross-entropy is added, by its weight.
    """
    errors = shown.squared_errors(config.recipe == "masked" and config.masking.loss == "hidden")
    loss = (errors if channel_weights is None else errors * channel_weights).mean()
    if shown.zone_errors is None:
        return loss
    return loss + config.zone_task.weight / config.zone_task.share * shown.zone_errors.mean()


def restoration_loss(model: nn.Module, cubes_NCZYX: Tensor, keys: Tensor, config: CorruptionConfig) -> Tensor:
    """The loss of a batch; see `loss_of`."""
    return loss_of(restore(model, cubes_NCZYX, keys, config), config)
