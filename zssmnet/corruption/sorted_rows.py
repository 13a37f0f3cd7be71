"""Local shuffling on a CPU: the windows of one size are the rows of a table, and each row is sorted.

NumPy sorts many short rows ten times faster than one long list is sorted. What a cell gets is one number, its window
followed by the voxel that the value comes from: of all cells that lie in a voxel, the largest number wins.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zssmnet.corruption.random import Stream, hash_on_cpu, seed_halves
from zssmnet.corruption.windows import MOST_AT_ONCE, Shuffling, number_bits

Ints = npt.NDArray[Any]


def shuffle_by_size(shuffled: Tensor, source: Tensor, shuffling: Shuffling, size: list[int]) -> None:
    """Overwrite the channels that are shuffled, as `shuffle_as_list` does.

    Args:
        shuffled: channels (N * C, voxels), on the CPU; changed in place.
        source: the uncorrupted channels likewise.
        shuffling: P shuffled channels, at least one.
        size: size of a cube x, y, z in voxels.
    """
    voxel_bits = (source.shape[1] - 1).bit_length()
    for some in shuffling.split(MOST_AT_ONCE):
        last_PV = _find_last(some, size, voxel_bits)
        for target, origin, last in zip(some.target_P.tolist(), some.source_P.tolist(), last_PV, strict=True):
            moved = source[origin].index_select(0, last & ((1 << voxel_bits) - 1))
            torch.where(last > 0, moved, source[target], out=shuffled[target])


def _find_last(shuffling: Shuffling, size: list[int], voxel_bits: int) -> Tensor:
    """What the last window on a voxel moves there: (window + 1) * 2^voxel_bits + the voxel of the value; (P, voxels).

    0 where no window is; int32 where all numbers fit, else int64.
    """
    size_PAW, start_PAW = shuffling.size_PAW.numpy(), shuffling.start_PAW.numpy()
    (p, _, windows), voxels = size_PAW.shape, math.prod(size)
    bits, largest_offset = number_bits(windows), int(_offsets(size_PAW.max(axis=(0, 2)), size)[-1])
    most_bits = max(bits + largest_offset.bit_length(), windows.bit_length() + voxel_bits)
    unsigned, signed = (np.uint32, np.int32) if most_bits < 32 else (np.uint64, np.int64)

    volume_PW = size_PAW.prod(axis=1)
    lower_P, upper_P = seed_halves(shuffling.order_P, Stream.WINDOW_ORDER)
    draw_PW = (volume_PW.cumsum(axis=1) - volume_PW).astype(np.uint32) + lower_P[:, None]
    corner_PW = (start_PAW[:, 0] * size[1] + start_PAW[:, 1]) * size[2] + start_PAW[:, 2]
    window_PW = ((np.arange(1, windows + 1) << voxel_bits) + corner_PW).astype(unsigned)
    draw, window, corner = draw_PW.ravel(), window_PW.ravel(), corner_PW.ravel()

    last = torch.from_numpy(np.zeros(p * voxels, signed))
    for size_A, row in _group_by_size(size_PAW):
        offset_K, channel = _offsets(size_A, size), row // windows
        moved_RK = _permute(offset_K.astype(unsigned), draw[row], upper_P[channel], bits)
        moved_RK += _widen(window[row], len(offset_K))
        voxel_RK = _widen(corner[row] + channel * voxels, len(offset_K))
        voxel_RK += offset_K
        moved, voxel = torch.from_numpy(moved_RK.view(signed).ravel()), torch.from_numpy(voxel_RK.ravel())
        last.scatter_reduce_(0, voxel, moved, "amax")
    return last.reshape(p, voxels)


def _permute(offset_K: Ints, draw_R: Ints, upper_R: Ints, bits: int) -> Ints:
    """The offsets of a window's cells in the order of the cells' random numbers, for each window: (R, K).

    Args:
        offset_K: offsets in C order; unsigned, so wide that a random number fits before an offset.
        draw_R, upper_R: of the random number of a window's first cell, see `hash_on_cpu`.
        bits: of a random number, the highest ones.
    """
    cells, offset_bits = len(offset_K), int(offset_K[-1]).bit_length()
    draw_RK = _widen(draw_R, cells)
    draw_RK += np.arange(cells, dtype=np.uint32)
    key_RK = hash_on_cpu(draw_RK, _widen(upper_R, cells))
    key_RK >>= np.uint32(32 - bits)
    key_RK = key_RK.astype(offset_K.dtype, copy=False)
    key_RK <<= offset_K.dtype.type(offset_bits)
    key_RK |= offset_K  # equal numbers keep their order
    key_RK.sort(axis=1)
    key_RK &= offset_K.dtype.type((1 << offset_bits) - 1)
    return key_RK


def _group_by_size(size_PAW: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield each size x, y, z that windows have, and its windows, counted through all channels."""
    largest = tuple(size_PAW.max(axis=(0, 2)).tolist())
    kinds = math.prod(largest)
    x, y, z = (size_PAW[:, a] - 1 for a in range(3))
    # NumPy sorts numbers of 16 bits by counting.
    kind = ((x * largest[1] + y) * largest[2] + z).astype(np.min_scalar_type(kinds)).ravel()
    row, end_K = kind.argsort(kind="stable"), np.bincount(kind, minlength=kinds).cumsum()
    for number, some in enumerate(np.split(row, end_K[:-1])):
        if len(some):
            yield np.array(np.unravel_index(number, largest)) + 1, some


def _offsets(size_A: Ints, size: list[int]) -> Ints:
    """How many voxels each cell of a window, in C order, lies behind the window's first voxel."""
    x, y, z = np.ogrid[: size_A[0], : size_A[1], : size_A[2]]
    offset: Ints = ((x * size[1] + y) * size[2] + z).ravel()
    return offset


def _widen(of_R: Ints, count: int) -> Ints:
    """The value of each row for all its cells, (R, count): rows are too short to be broadcast along."""
    return np.repeat(of_R, count).reshape(-1, count)
