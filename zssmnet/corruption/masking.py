"""The masked recipe: blocks of the images are hidden, and the network fills them in; zones stay whole.

Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022, arXiv 2111.06377, on voxels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zssmnet.config import MaskingConfig
from zssmnet.corruption.random import Stream, happens, uniform

HIDDEN = -1.0
"""The value of a hidden voxel: images lie in 0..1, so that it cannot be mistaken for tissue or background."""


def sample_masking(keys_N: Tensor, shape_CXYZ: tuple[int, ...], config: MaskingConfig) -> Tensor:
    """Draw which blocks are hidden: in every image the same number of them, and at least one.

    Args:
        keys_N: the cubes' keys, int64.
        shape_CXYZ: shape of the images of one cube (channel, x, y, z).
        config: share and size of the blocks, and whether all images hide the same ones.

    Returns:
        Whether each block of C images is hidden: bool, (N, C, X, Y, Z) in blocks, of which the last along an axis is
        cut off at the cube's border; on the device of the keys.
    """
    channels, *size = shape_CXYZ
    counts = [math.ceil(voxels / step) for voxels, step in zip(size, config.block, strict=True)]
    blocks = math.prod(counts)
    drawn_NCB = uniform(keys_N, Stream.MASKING, (channels, blocks))
    jointly_N11 = happens(keys_N, Stream.MASKING_JOINTLY, (1, 1), float(config.jointly))
    drawn_NCB = torch.where(jointly_N11, drawn_NCB[:, :1], drawn_NCB)
    rank_NCB = drawn_NCB.argsort(dim=-1).argsort(dim=-1)
    return (rank_NCB < max(1, round(config.ratio * blocks))).reshape(len(keys_N), channels, *counts)


def find_hidden(hidden: Tensor, size: Sequence[int], block: tuple[int, ...]) -> Tensor:
    """Mask of the hidden voxels: bool, (N, C, X, Y, Z).

    Args:
        hidden: the hidden blocks of N cubes, from `sample_masking`.
        size: size of the cubes x, y, z in voxels.
        block: size of a block x, y, z in voxels.
    """
    for axis, (voxels, step) in enumerate(zip(size, block, strict=True), start=2):
        hidden = hidden.index_select(axis, torch.arange(voxels, device=hidden.device) // step)
    return hidden


def was_hidden(images_NCXYZ: Tensor) -> Tensor:
    """Mask of the hidden voxels of masked images, in any order of the axes: bool, of the same shape."""
    return images_NCXYZ == HIDDEN
