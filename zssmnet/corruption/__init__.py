"""The pretext task: flip, shuffle, map and paint cubes, for the network to restore.

>>> import torch
>>> from zssmnet.config import CorruptionConfig
>>> cubes_NCXYZ = torch.rand(2, 4, 16, 16, 8)
>>> keys_N = sample_keys(2, torch.Generator().manual_seed(0))
>>> corrupted = corrupt(cubes_NCXYZ, keys_N, CorruptionConfig())
>>> corrupted.input_NCXYZ.shape, corrupted.target_NCXYZ.shape
(torch.Size([2, 6, 16, 16, 8]), torch.Size([2, 3, 16, 16, 8]))
"""

from zssmnet.corruption.random import sample_keys
from zssmnet.corruption.recipe import Corrupted, corrupt

__all__ = ["Corrupted", "corrupt", "sample_keys"]
