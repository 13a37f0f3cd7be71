"""Step 1: flips, the same for the corrupted cube and its target.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

import torch
from torch import Tensor

from zssmnet.config import FlipConfig
from zssmnet.corruption.random import Stream, happens, integers, until_first_failure


def sample_flip(keys_N: Tensor, config: FlipConfig) -> Tensor:
    """Draw along which of the axes x, y, z each cube is flipped: bool, (N, 3).

    Each flip happens with `config.probability` until the first one that does not, each along any axis. Two along one
    axis cancel, and flips along different axes commute: only parity counts.
    """
    happens_NF = until_first_failure(happens(keys_N, Stream.FLIP, (config.most,), config.probability))
    axis_NF = integers(keys_N, Stream.FLIP_AXIS, (config.most,), 0, 2)
    return torch.stack([(happens_NF & (axis_NF == axis)).sum(dim=1) % 2 == 1 for axis in range(3)], dim=1)


def apply_flip(cubes_NCXYZ: Tensor, flipped_NA: Tensor) -> Tensor:
    """Flip all channels of each cube alike.

    Args:
        cubes_NCXYZ: cubes (cube, channel, x, y, z), any dtype.
        flipped_NA: along which axes these N cubes are flipped, bool.

    Returns:
        The flipped cubes, a new tensor of the same shape and dtype.
    """
    n, channels, *size = cubes_NCXYZ.shape
    voxel_N = torch.zeros(n, *[1] * len(size), dtype=torch.int64, device=cubes_NCXYZ.device)
    for axis, length in enumerate(size):
        place = torch.arange(length, device=cubes_NCXYZ.device)
        place_NL = torch.where(flipped_NA[:, axis, None], length - 1 - place, place)
        shape = [n] + [length if other == axis else 1 for other in range(len(size))]
        voxel_N = voxel_N * length + place_NL.reshape(shape)
    # One look-up of whole cubes costs less than a pass for each axis.
    voxel_NCV = voxel_N.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return cubes_NCXYZ.flatten(2).gather(2, voxel_NCV).reshape(cubes_NCXYZ.shape)
