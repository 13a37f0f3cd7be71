"""The border between the two axis orders: files of cubes are (x, y, z), networks take (z, y, x).

The corruption is defined in x, y, z (draw number i of a cube belongs to voxel i in that order), and its steps compute
so. `corrupt` turns what comes in and what goes out; everything above it is in (cube, channel, z, y, x).
"""

import torch
from torch import Tensor

LAYOUT = torch.channels_last_3d
"""Memory layout of what networks take: 2 to 9 times faster on a CPU than channels first, and best for tensor cores."""


def swap_x_and_z(volume: Tensor) -> Tensor:
    """Turn (..., x, y, z) into (..., z, y, x), or back: a view, nothing is copied."""
    return volume.transpose(-3, -1)
