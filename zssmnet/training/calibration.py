"""What is measured on the training cubes before a training: for the head, and for the loss.

A head whose first prediction is far from each channel's mean may saturate, and never learn. A channel of small variance
hardly counts in a squared error.
"""

import torch
from torch import Tensor

from zssmnet.config import PretrainConfig
from zssmnet.corruption import IMAGE_CHANNELS, corrupt, sample_keys
from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CubesError
from zssmnet.mnet import MNet
from zssmnet.training.dataset import CubeSet

CUBES = 16
"""So many, spread over all, show how large the features and the images are."""
MEASURED_CUBES = 1000
"""So many, spread over all, show the images' variances to a few percent."""


@torch.no_grad()
def calibrate_head(model: MNet, cubes: CubeSet, config: PretrainConfig) -> None:
    """Shift the first head's weights so that its mean logit is the logit of each channel's mean intensity.

    The head has no bias, so its weights move by the least amount, along the features' mean.
    """
    chosen = cubes.spread(CUBES)
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
    wanted = torch.cat((torch.logit(mean[:IMAGE_CHANNELS], eps=0.01), mean[IMAGE_CHANNELS:].clamp(min=0.01).log()))
    shift = wanted - logit
    weight = head.get_parameter("weight")
    weight.add_(torch.outer(shift, feature / feature.square().sum()).view_as(weight))


def measure_channel_weights(cubes: CubeSet) -> tuple[float, float, float]:
    """Weights of T2W, ADC and DWI in the loss: the inverse of each one's variance.

    They are scaled so that the best constants have the same loss as without weights, and learning rates keep their
    meaning.

    Raises:
        CubesError: an image is constant in all cubes.
    """
    chosen = cubes.spread(MEASURED_CUBES)
    images = (cubes.batch(one)[:, :IMAGE_CHANNELS].double() for one in torch.split(chosen, 1))
    moments = torch.stack([torch.stack([one.mean((0, 2, 3, 4)), one.square().mean((0, 2, 3, 4))]) for one in images])
    mean, mean_square = moments.mean(dim=0)
    variance = mean_square - mean.square()
    for name, one in zip(CHANNELS, variance.tolist(), strict=False):
        if one < 1e-12:
            raise CubesError(f"{name} is constant in all training cubes: choose loss_weighting = 'equal', or mend them")
    t2w, adc, dwi = (variance.mean() / variance).tolist()
    return t2w, adc, dwi


def _channel_means(volume_NCZYX: Tensor) -> Tensor:
    return volume_NCZYX.double().mean(dim=(0, 2, 3, 4)).float()
