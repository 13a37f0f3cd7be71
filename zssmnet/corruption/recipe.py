"""The pretext task: corrupted cubes in, the uncorrupted images as the target.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zssmnet.config import CorruptionConfig
from zssmnet.corruption.flip import apply_flip, sample_flip
from zssmnet.corruption.intensity import apply_intensity, sample_intensity
from zssmnet.corruption.painting import apply_painting, sample_painting
from zssmnet.corruption.shuffling import apply_shuffling, sample_shuffling

IMAGES = 3  # channels T2W, ADC, DWI; the mask follows
ZONES = 3  # mask values 0 background, 1 peripheral zone, 2 rest of the gland


@dataclass(frozen=True)
class Corrupted:
    """What the network gets and what it is to restore.

    Attributes:
        input_NCXYZ: (N, 6, X, Y, Z), float32: the corrupted T2W, ADC and DWI, then background, peripheral zone and
            rest of the gland as zeros and ones. A voxel without a zone has three zeros.
        target_NCXYZ: (N, 3, X, Y, Z), float32: T2W, ADC and DWI, flipped like the input and otherwise uncorrupted.
    """

    input_NCXYZ: Tensor
    target_NCXYZ: Tensor


def corrupt(cubes_NCXYZ: Tensor, keys_N: Tensor, config: CorruptionConfig) -> Corrupted:
    """Corrupt cubes, each as its key says, whatever the batch or the device.

    The steps: flip, local shuffling, intensity map of the images, painting, mask to zones. By recipe:

    - `reference`, as the published program: every channel, the mask included, is shuffled with values of T2W. A
      corrupted mask voxel has a zone only if its value happens to be exactly 0, 1 or 2; most lose theirs.
    - `per-channel`: each channel is shuffled with its own values. A shuffled mask voxel has the zone that moved
      there, a painted one none.

    Args:
        cubes_NCXYZ: cubes (N, 4, X, Y, Z), channels T2W, ADC, DWI in 0..1 and the mask (0, 1, 2), any float type;
            not changed.
        keys_N: one key a cube, int64, from `sample_keys`; on any device. With keys on the CPU the host never waits
            for the cubes' device.
        config: the pretext task.

    Returns:
        Input and target, on the device of the cubes.

    Raises:
        ValueError: cubes or keys of another shape or type.
    """
    _check(cubes_NCXYZ, keys_N)
    shape_CXYZ, device = tuple(cubes_NCXYZ.shape[1:]), cubes_NCXYZ.device
    from_t2w = config.recipe == "reference"
    shuffling = sample_shuffling(keys_N, shape_CXYZ, config.shuffling, from_first_channel=from_t2w, device=device)
    keys_N = keys_N.to(device, non_blocking=True)

    flipped = apply_flip(cubes_NCXYZ, sample_flip(keys_N, config.flip)).float()
    corrupted = apply_shuffling(flipped, shuffling)
    intensity = sample_intensity(keys_N, config.intensity)
    corrupted[:, :IMAGES] = apply_intensity(corrupted[:, :IMAGES], intensity, config.intensity.table_size)
    corrupted, painted = apply_painting(corrupted, sample_painting(keys_N, shape_CXYZ, config.painting))

    zones = mask_to_zones(corrupted[:, IMAGES])
    if not from_t2w:
        zones &= ~painted[:, IMAGES:]  # noise may happen to be exactly 0, which is no background
    return Corrupted(torch.cat((corrupted[:, :IMAGES], zones), dim=1), flipped[:, :IMAGES])


def mask_to_zones(mask_NXYZ: Tensor) -> Tensor:
    """Where the mask is exactly 0, 1 and 2: bool, (N, 3, X, Y, Z)."""
    return torch.stack([mask_NXYZ == zone for zone in range(ZONES)], dim=1)


def _check(cubes_NCXYZ: Tensor, keys_N: Tensor) -> None:
    shape = tuple(cubes_NCXYZ.shape)
    if len(shape) != 5 or shape[1] != IMAGES + 1 or 0 in shape[2:]:
        raise ValueError(f"cubes must be (N, 4, X, Y, Z) with channels T2W, ADC, DWI, mask, not {shape}")
    if not cubes_NCXYZ.is_floating_point():
        raise ValueError(f"cubes must be of a float type, not {cubes_NCXYZ.dtype}")
    if keys_N.shape != shape[:1] or keys_N.dtype != torch.int64:
        raise ValueError(
            f"{shape[0]} cubes need as many int64 keys, not {tuple(keys_N.shape)} of {keys_N.dtype}; "
            "draw them with sample_keys"
        )
