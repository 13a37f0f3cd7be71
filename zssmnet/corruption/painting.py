"""Step 4: painting. Boxes of noise (in-painting), or noise around boxes (out-painting).

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zssmnet.config import PaintingConfig
from zssmnet.corruption.random import Stream, constant, happens, integers, uniform, until_first_failure


@dataclass(frozen=True)
class Painting:
    """The painting of N cubes with C channels, in B boxes at most.

    Attributes:
        happens_NC: whether the channel is painted at all, bool.
        outer_NC: whether the noise lies around the boxes (else within them), bool.
        exists_NCB: which boxes there are, bool.
        size_NCBA: size of each box along the axes x, y, z in voxels, int64.
        start_NCBA: first voxel of each box along the axes x, y, z, int64.
        noise_N: keys of the noise, int64.
    """

    happens_NC: Tensor
    outer_NC: Tensor
    exists_NCB: Tensor
    size_NCBA: Tensor
    start_NCBA: Tensor
    noise_N: Tensor


def box_limits(size: tuple[int, ...], border: int, *, outer: bool) -> list[tuple[int, int, int]]:
    """For each axis the smallest and the largest size of a box, and its distance from the border, in voxels.

    With n voxels on an axis, in-painting fills boxes of n//6..n//3, out-painting keeps boxes of n - (3n//7..4n//7).
    On small cubes a box has at least 1 voxel, and where the largest box leaves no room for the border, the border
    becomes narrower.
    """
    limits = []
    for n in size:
        smallest, largest = (n - 4 * n // 7, n - 3 * n // 7) if outer else (max(1, n // 6), max(1, n // 3))
        limits.append((smallest, largest, min(border, (n - largest) // 2)))
    return limits


def sample_painting(keys_N: Tensor, shape_CXYZ: tuple[int, ...], config: PaintingConfig) -> Painting:
    """Draw which channels are painted, which way, and the boxes.

    Args:
        keys_N: the cubes' keys, int64.
        shape_CXYZ: shape of one cube (channel, x, y, z).
        config: probabilities, most boxes, distance from the border.

    Returns:
        The painting of these N cubes, on the device of the keys.
    """
    channels, *size = shape_CXYZ
    draws = (channels, config.most_boxes)
    outer_NC = happens(keys_N, Stream.PAINTING_OUTER, (channels,), config.outer_probability)
    hits_NCB = happens(keys_N, Stream.BOX, draws, config.box_probability)
    hits_NCB[..., 0] |= outer_NC  # out-painting keeps one box at least

    limits = tuple(tuple(box_limits(tuple(size), config.border, outer=outer)) for outer in (False, True))
    limits_KA3 = constant(limits, keys_N.device)
    smallest, largest, border = limits_KA3[outer_NC.to(torch.int64)].unsqueeze(2).unbind(dim=-1)
    size_NCBA = integers(keys_N, Stream.BOX_SIZE, (*draws, len(size)), smallest, largest)
    room = constant(tuple(size), keys_N.device) - size_NCBA
    return Painting(
        happens_NC=happens(keys_N, Stream.PAINTING, (channels,), config.probability),
        outer_NC=outer_NC,
        exists_NCB=until_first_failure(hits_NCB),
        size_NCBA=size_NCBA,
        start_NCBA=integers(keys_N, Stream.BOX_START, (*draws, len(size)), border, room - border),
        noise_N=keys_N,
    )


def find_painted(painting: Painting, size: tuple[int, ...]) -> Tensor:
    """Mask of the voxels that become noise.

    Args:
        painting: the painting of N cubes.
        size: size of the cubes x, y, z in voxels.

    Returns:
        bool, (N, C, X, Y, Z).
    """
    exists_NCB = painting.exists_NCB & painting.happens_NC[..., None]
    outer_NC = painting.outer_NC & painting.happens_NC
    # Box b is bit b of a byte: a voxel lies in the boxes whose bit is set for its x, its y and its z.
    bits_B = 1 << torch.arange(exists_NCB.shape[-1], dtype=torch.uint8, device=exists_NCB.device)
    boxes = []
    for axis, n in enumerate(size):
        place = torch.arange(n, device=exists_NCB.device)
        start, length = painting.start_NCBA[..., axis, None], painting.size_NCBA[..., axis, None]
        within_NCBn = (place >= start) & (place < start + length) & exists_NCB[..., None]
        boxes.append((within_NCBn * bits_B[:, None]).sum(dim=2, dtype=torch.uint8))
    x_NCX, y_NCY, z_NCZ = boxes
    yz_NCYZ = y_NCY[..., :, None] & z_NCZ[..., None, :]
    within_NCXYZ = (x_NCX[..., None, None] & yz_NCYZ[:, :, None]) != 0
    return within_NCXYZ != outer_NC[..., None, None, None]


def apply_painting(cubes_NCXYZ: Tensor, painting: Painting) -> tuple[Tensor, Tensor]:
    """Replace voxels by uniform noise in 0..1.

    Args:
        cubes_NCXYZ: cubes (cube, channel, x, y, z), any dtype.
        painting: the painting of these N cubes, on their device.

    Returns:
        The painted cubes, a new tensor of the same shape and dtype; and which voxels are noise, bool, likewise.
    """
    shape_CXYZ = tuple(cubes_NCXYZ.shape[1:])
    painted = find_painted(painting, shape_CXYZ[1:])
    noise = uniform(painting.noise_N, Stream.NOISE, shape_CXYZ).to(cubes_NCXYZ.dtype)
    return torch.where(painted, noise, cubes_NCXYZ), painted
