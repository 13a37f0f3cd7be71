"""Step 2: local shuffling. The values within thousands of small windows change places.

Window after window, the values that the *uncorrupted* channel has there, permuted, overwrite the window in the
corrupted channel; where windows overlap the last one wins. As a loop over 10,000 windows this is nearly all of
the published program's time. Here all windows are handled together, in one of two ways with equal results: as one
sorted list of cells, which suits a GPU and is the reference, and size by size, which is faster on a CPU.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

import math

from torch import Tensor

from zssmnet.corruption.sorted_list import shuffle_as_list
from zssmnet.corruption.sorted_rows import shuffle_by_size
from zssmnet.corruption.windows import Shuffling


def apply_shuffling(cubes_NCXYZ: Tensor, shuffling: Shuffling) -> Tensor:
    """Shuffle the chosen channels; all values are taken from `cubes_NCXYZ` as it is.

    Args:
        cubes_NCXYZ: uncorrupted cubes (cube, channel, x, y, z), any dtype.
        shuffling: what to shuffle in these N cubes, on their device. With bounds it is done as on a GPU.

    Returns:
        The shuffled cubes, a new tensor of the same shape and dtype.
    """
    n, channels, *size = cubes_NCXYZ.shape
    source = cubes_NCXYZ.reshape(n * channels, math.prod(size))
    shuffled = source.clone()
    if shuffling.bounds and len(shuffling.target_P):
        shuffle_as_list(shuffled, source, shuffling, size, shuffling.bounds)
    elif len(shuffling.target_P):
        shuffle_by_size(shuffled, source, shuffling, size)
    return shuffled.reshape(cubes_NCXYZ.shape)
