"""The pretext task: flip, shuffle, map and paint cubes, or hide parts of them, for the network to restore.

>>> import torch
>>> from zssmnet.config import CorruptionConfig
>>> cubes_NCZYX = torch.rand(2, 4, 8, 16, 16)
>>> keys_N = sample_keys(2, torch.Generator().manual_seed(0))
>>> corrupted = corrupt(cubes_NCZYX, keys_N, CorruptionConfig())
>>> corrupted.input_NCZYX.shape, corrupted.target_NCZYX.shape
(torch.Size([2, 6, 8, 16, 16]), torch.Size([2, 3, 8, 16, 16]))
"""

from zssmnet.corruption.masking import was_hidden
from zssmnet.corruption.random import sample_keys
from zssmnet.corruption.recipe import (
    IMAGE_CHANNELS,
    LAYOUT,
    ZONE_CHANNELS,
    Corrupted,
    Corruption,
    channels_to_shuffle,
    corrupt,
    swap_x_and_z,
)

__all__ = [
    "IMAGE_CHANNELS",
    "LAYOUT",
    "ZONE_CHANNELS",
    "Corrupted",
    "Corruption",
    "channels_to_shuffle",
    "corrupt",
    "sample_keys",
    "swap_x_and_z",
    "was_hidden",
]
