"""Step 1: flips, the same for the corrupted cube and its target.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zssmnet.config import FlipConfig
from zssmnet.corruption.random import Stream, happens, integers, until_first_failure


@dataclass(frozen=True)
class Flip:
    """The flips of N cubes, F at most.

    Attributes:
        happens_NF: whether the cube is flipped a first, second, ... time, bool.
        axis_NF: along which axis, 0 = x, 1 = y, 2 = z, int64.
    """

    happens_NF: Tensor
    axis_NF: Tensor


def sample_flip(keys_N: Tensor, config: FlipConfig) -> Flip:
    """Draw the flips: each with `config.probability` until the first one that does not happen, each along any axis."""
    most = (config.most,)
    return Flip(
        happens_NF=until_first_failure(happens(keys_N, Stream.FLIP, most, config.probability)),
        axis_NF=integers(keys_N, Stream.FLIP_AXIS, most, 0, 2),
    )


def apply_flip(cubes_NCXYZ: Tensor, flip: Flip) -> Tensor:
    """Flip all channels of each cube alike.

    Args:
        cubes_NCXYZ: cubes (cube, channel, x, y, z), any dtype.
        flip: the flips of these N cubes.

    Returns:
        The flipped cubes, a new tensor of the same shape and dtype.
    """
    n, channels, *size = cubes_NCXYZ.shape
    voxel_N = torch.zeros(n, *[1] * len(size), dtype=torch.int64, device=cubes_NCXYZ.device)
    for axis, length in enumerate(size):
        # Two flips along one axis cancel, and flips along different axes commute: only parity counts.
        flipped_N = (flip.happens_NF & (flip.axis_NF == axis)).sum(dim=1) % 2 == 1
        place = torch.arange(length, device=cubes_NCXYZ.device)
        place_NL = torch.where(flipped_N[:, None], length - 1 - place, place)
        shape = [n] + [length if other == axis else 1 for other in range(len(size))]
        voxel_N = voxel_N * length + place_NL.reshape(shape)
    # One look-up of whole cubes costs less than a pass for each axis.
    voxel_NCV = voxel_N.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return cubes_NCXYZ.flatten(2).gather(2, voxel_NCV).reshape(cubes_NCXYZ.shape)
