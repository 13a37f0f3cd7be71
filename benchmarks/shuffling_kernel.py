"""Local shuffling as one GPU kernel in Triton, to be measured against the sorted list that the library has.

Each window is a program: it draws its cells' numbers, counts how many are smaller, which is where a cell's value goes,
and leaves there its window and where the value comes from, if no later window is there already. Nothing is sorted, and
there are no fillers. On an H100 it takes a third of the list's time, which is 3 % of a step (docs/performance.md).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zssmnet.corruption.random import Stream, derive_keys
from zssmnet.corruption.windows import Shuffling, number_bits

MOST_CELLS = 256
"""Of a window, each of which is compared with each."""


def apply_by_kernel(cubes_NCXYZ: Tensor, shuffling: Shuffling) -> Tensor:
    """Shuffle the chosen channels as `apply_shuffling` does, to the last bit.

    Args:
        cubes_NCXYZ: uncorrupted cubes (cube, channel, x, y, z), any dtype.
        shuffling: what to shuffle in these N cubes, on their device, with bounds.

    Raises:
        ValueError: no bounds, or windows of more than `MOST_CELLS` cells.
    """
    n, channels, *size = cubes_NCXYZ.shape
    voxels, windows = math.prod(size), shuffling.size_PAW.shape[2]
    if not shuffling.bounds or math.prod(shuffling.bounds.largest) > MOST_CELLS:
        raise ValueError(f"windows must be bounded, by at most {MOST_CELLS} cells, not by {shuffling.bounds}")
    source = cubes_NCXYZ.reshape(n * channels, voxels)
    shuffled = source.clone()
    if p := len(shuffling.target_P):
        volume_PW = shuffling.size_PAW.prod(dim=1)
        first_PW = volume_PW.cumsum(dim=1) - volume_PW
        seed_P = derive_keys(shuffling.order_P, Stream.WINDOW_ORDER)
        last_PV = torch.zeros(p, voxels, dtype=torch.int64, device=source.device)
        KERNEL[(p * windows,)](
            last_PV,
            shuffling.size_PAW.contiguous(),
            shuffling.start_PAW.contiguous(),
            first_PW,
            seed_P,
            windows,
            voxels,
            size[1],
            size[2],
            32 - number_bits(windows),
            CELLS=triton.next_power_of_2(math.prod(shuffling.bounds.largest)),
            num_warps=1,
        )
        moved = source.index_select(0, shuffling.source_P).gather(1, last_PV & 0xFFFFFFFF)
        shuffled[shuffling.target_P] = torch.where(last_PV > 0, moved, source.index_select(0, shuffling.target_P))
    return shuffled.reshape(cubes_NCXYZ.shape)


def _shuffle_window(
    last_PV,
    size_PAW,
    start_PAW,
    first_PW,
    seed_P,
    windows,
    voxels,
    size_y,
    size_z,
    dropped_bits,
    CELLS: tl.constexpr,
) -> None:
    """Leave (window + 1) * 2^32 + the voxel of the value in each voxel of one window, if that is more."""
    channel, window = tl.program_id(0) // windows, tl.program_id(0) % windows
    x_of = channel * 3 * windows + window
    y_of, z_of = x_of + windows, x_of + 2 * windows
    length_y, length_z = tl.load(size_PAW + y_of).to(tl.int32), tl.load(size_PAW + z_of).to(tl.int32)
    layer = length_y * length_z
    cells = tl.load(size_PAW + x_of).to(tl.int32) * layer
    x, y, z = tl.load(start_PAW + x_of), tl.load(start_PAW + y_of), tl.load(start_PAW + z_of)
    corner = (x * size_y + y) * size_z + z

    cell = tl.arange(0, CELLS)
    seed = tl.load(seed_P + channel)
    bits = (tl.load(first_PW + tl.program_id(0)) + cell + seed).to(tl.uint32)
    bits ^= bits >> 16
    bits *= 0x85EBCA6B
    bits ^= bits >> 15
    bits *= 0xC2B2AE35
    bits ^= (seed >> 32).to(tl.uint32)
    bits ^= bits >> 16
    bits *= 0x21F0AAAD
    bits ^= bits >> 15
    number = tl.where(cell < cells, (bits >> dropped_bits).to(tl.int32), 0x7FFFFFFF)
    is_before = (number[None, :] < number[:, None]) | (
        (number[None, :] == number[:, None]) & (cell[None, :] < cell[:, None])
    )
    rank = tl.sum(is_before.to(tl.int32), axis=1)

    origin = corner + (cell // layer * size_y + cell // length_z % length_y) * size_z + cell % length_z
    place = corner + (rank // layer * size_y + rank // length_z % length_y) * size_z + rank % length_z
    moved = (window + 1).to(tl.int64) * 0x100000000 + origin
    tl.atomic_max(last_PV + channel * voxels + place, moved, mask=cell < cells, sem="relaxed")


KERNEL: Any = triton.jit(_shuffle_window)
