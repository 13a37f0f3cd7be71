"""The masked recipe: blocks of the images are hidden, and the network fills them in; zones stay whole.

Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, arXiv 2111.06377, on voxels.
"""

import math

import torch
from torch import Tensor

from zssmnet.config import MaskingConfig
from zssmnet.corruption.random import Stream, happens, uniform

HIDDEN = -1.0
"""The value of a hidden voxel: images lie in 0..1, so that it cannot be mistaken for tissue or background."""


def block_counts(size: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Number of blocks along the axes x, y, z; the last of an axis is cut off at the cube's border."""
    return tuple(math.ceil(voxels / step) for voxels, step in zip(size, block, strict=True))


def sample_masking(keys_N: Tensor, shape_CXYZ: tuple[int, ...], config: MaskingConfig) -> Tensor:
    """Draw which blocks are hidden: in every image the same number of them, and at least one.

    Args:
        keys_N: the cubes' keys, int64.
        shape_CXYZ: shape of the images of one cube (channel, x, y, z).
        config: share and size of the blocks, and whether all images hide the same ones.

    Returns:
        Whether each block of C images is hidden: bool, (N, C, B), blocks in C order of their x, y, z places; on the
        device of the keys.
    """
    channels, *size = shape_CXYZ
    blocks = math.prod(block_counts(tuple(size), config.block))
    drawn_NCB = uniform(keys_N, Stream.MASKING, (channels, blocks))
    jointly_N11 = happens(keys_N, Stream.MASKING_JOINTLY, (1, 1), float(config.jointly))
    drawn_NCB = torch.where(jointly_N11, drawn_NCB[:, :1], drawn_NCB)
    rank_NCB = drawn_NCB.argsort(dim=-1).argsort(dim=-1)
    count = max(1, round(config.ratio * blocks))
    return rank_NCB < count


def find_hidden(hidden_NCB: Tensor, size: tuple[int, ...], block: tuple[int, ...]) -> Tensor:
    """Mask of the hidden voxels: bool, (N, C, X, Y, Z).

    Args:
        hidden_NCB: the hidden blocks of N cubes, from `sample_masking`.
        size: size of the cubes x, y, z in voxels.
        block: size of a block x, y, z in voxels.
    """
    hidden = hidden_NCB.reshape(*hidden_NCB.shape[:2], *block_counts(size, block))
    for axis, (voxels, step) in enumerate(zip(size, block, strict=True), start=2):
        place = torch.arange(voxels, device=hidden.device) // step
        hidden = hidden.index_select(axis, place)
    return hidden


def was_hidden(images_NCXYZ: Tensor) -> Tensor:
    """Mask of the hidden voxels of masked images, in any order of the axes: bool, of the same shape."""
    return images_NCXYZ == HIDDEN
