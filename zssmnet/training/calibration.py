"""A head whose first prediction is each channel's mean: what begins far from it may saturate, and never learn."""

import torch
from torch import Tensor

from zssmnet.config import PretrainConfig
from zssmnet.corruption import corrupt, sample_keys
from zssmnet.mnet import MNet
from zssmnet.training.dataset import CubeSet

CUBES = 16
"""So many, spread over all, show how large the features and the images are."""


@torch.no_grad()
def calibrate_head(model: MNet, cubes: CubeSet, config: PretrainConfig) -> None:
    """Shift the first head's weights so that its mean logit is the logit of each channel's mean intensity.

    The head has no bias, so its weights move by the least amount, along the features' mean.
    """
    chosen = torch.linspace(0, len(cubes) - 1, min(CUBES, len(cubes))).round().long()
    keys = sample_keys(len(chosen), torch.Generator().manual_seed(config.training.seed))
    features, logits, means = [], [], []
    head = model.outputs[0]
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(_channel_means(inputs[0])))
    try:
        for some, key in zip(torch.split(chosen, 1), torch.split(keys, 1), strict=True):
            corrupted, target = corrupt(cubes.batch(some), key, config.corruption)
            logits.append(_channel_means(model(corrupted)))
            means.append(_channel_means(target))
    finally:
        hook.remove()
    feature, logit, mean = (torch.stack(found).mean(dim=0) for found in (features, logits, means))
    shift = torch.logit(mean, eps=0.01) - logit
    weight = head.get_parameter("weight")
    weight.add_(torch.outer(shift, feature / feature.square().sum()).view_as(weight))


def _channel_means(volume_NCZYX: Tensor) -> Tensor:
    return volume_NCZYX.double().mean(dim=(0, 2, 3, 4)).float()
