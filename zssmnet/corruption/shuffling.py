"""Step 2: local shuffling. The values within thousands of small windows change places.

Window after window, the values that the *uncorrupted* channel has there, permuted, overwrite the window in the
corrupted channel; where windows overlap the last one wins. As a loop over 10,000 windows this is nearly all of
the published program's time. Here the cells of all windows are one list: each voxel finds its last window by a maximum
over the cells that lie in it, and sorting the list by (window, random number) permutes every window at once. How long
the list is does not depend on what was drawn: fillers end it.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from zssmnet.corruption.windows import MOST_AT_ONCE, Shuffling, draw_cell_numbers, number_bits


def apply_shuffling(cubes_NCXYZ: Tensor, shuffling: Shuffling) -> Tensor:
    """Shuffle the chosen channels; all values are taken from `cubes_NCXYZ` as it is.

    Args:
        cubes_NCXYZ: uncorrupted cubes (cube, channel, x, y, z), any dtype.
        shuffling: what to shuffle in these N cubes, on their device.

    Returns:
        The shuffled cubes, a new tensor of the same shape and dtype.
    """
    n, channels, *size = cubes_NCXYZ.shape
    source = cubes_NCXYZ.reshape(n * channels, math.prod(size))
    shuffled = pad(source, (0, 0, 0, 1))  # a last row for the channel that is none
    offsets_YZK = tabulate_offsets(shuffling.bounds.largest, size, source.device)
    for some in shuffling.split(MOST_AT_ONCE):
        cell = torch.arange(len(some.target_P) * shuffling.bounds.cells, device=source.device)
        shuffled[some.target_P] = _move(source, some, *list_cells(some, size, offsets_YZK, cell))
    return shuffled[:-1].reshape(cubes_NCXYZ.shape)


def list_cells(
    shuffling: Shuffling, size: list[int], offsets_YZK: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """List the cells of all windows, window after window and equally many for each channel.

    Each channel gets one window more, the rest, whose cells fill its list up. They count for no voxel, and are spread
    over all voxels: a GPU changes one number once at a time.

    Args:
        shuffling: P shuffled channels.
        size: size of a cube x, y, z in voxels.
        offsets_YZK: from `tabulate_offsets`.
        cell: 0, 1, 2, ..., as many as there are to be cells, (P * K,).

    Returns:
        The window and the voxel of each cell, both counted through all channels, and its number, -1 for a filler:
        (P * K,), int64.
    """
    (_, y_PW, z_PW), start_PW = shuffling.size_PAW.unbind(dim=1), shuffling.start_PAW.unbind(dim=1)
    p, voxels = len(y_PW), math.prod(size)
    place_K = cell[: len(cell) // p]
    channel_P1 = torch.arange(p, device=cell.device)[:, None] * voxels

    volume_PW = shuffling.size_PAW.prod(dim=1)
    filled_P1 = volume_PW.sum(dim=1, keepdim=True)
    volume = torch.cat((volume_PW, len(place_K) - filled_P1), dim=1).flatten()
    window = torch.repeat_interleave(volume, output_size=len(cell))

    table = offsets_YZK.flatten()
    entry_PW = ((y_PW - 1) * offsets_YZK.shape[1] + z_PW - 1) * offsets_YZK.shape[2]
    entry = pad(entry_PW, (0, 1)).flatten() - (volume.cumsum(0) - volume)
    entry = entry.index_select(0, window).add_(cell).clamp_(max=len(table) - 1)  # any entry will do for a filler

    corner_PW = (start_PW[0] * size[1] + start_PW[1]) * size[2] + start_PW[2] + channel_P1
    voxel = table.index_select(0, entry).add_(pad(corner_PW, (0, 1)).flatten().index_select(0, window))
    is_filler_PK = place_K >= filled_P1
    voxel_PK = torch.where(is_filler_PK, place_K % voxels + channel_P1, voxel.reshape(p, -1))
    return window, voxel_PK.flatten(), cell.masked_fill(is_filler_PK.flatten(), -1)


def tabulate_offsets(largest: tuple[int, ...], size: list[int], device: torch.device) -> Tensor:
    """Offset in voxels of cell k from its window's first voxel: (size y - 1, size z - 1, k), int64.

    A cell is number (x * size y + y) * size z + z of its window, and voxel (x * Y + y) * Z + z of its cube. One
    look-up costs half as much as these divisions do for every cell.
    """
    size_y = torch.arange(1, largest[1] + 1, device=device)[:, None, None]
    size_z = torch.arange(1, largest[2] + 1, device=device)[:, None]
    cell = torch.arange(math.prod(largest), device=device)
    x, line = cell // (size_y * size_z), cell // size_z
    return cell + line * (size[2] - size_z) + x * (size[1] - size_y) * size[2]


def _move(source: Tensor, shuffling: Shuffling, window: Tensor, voxel: Tensor, cell: Tensor) -> Tensor:
    """The shuffled channels (P, voxels), from the list of cells: each voxel takes the value that its last cell gets."""
    p, windows = len(shuffling.order_P), shuffling.size_PAW.shape[2]
    last_cell = torch.full((p * source.shape[1],), -1, device=cell.device).scatter_reduce_(0, voxel, cell, "amax")

    number = draw_cell_numbers(shuffling.order_P, windows, len(cell) // p).flatten()
    key = window.to(torch.int32).mul_(1 << number_bits(windows)).add_(number)
    # The list stands in the order of its windows: sorting moves a cell within its window only.
    origin = key.sort(stable=True).indices.index_select(0, last_cell.clamp(min=0))
    values = source.index_select(0, shuffling.source_P).flatten()
    moved = values.index_select(0, voxel.index_select(0, origin))
    kept_P = shuffling.target_P.clamp(max=len(source) - 1)
    covered_PV = (last_cell >= 0).reshape(p, -1)
    return torch.where(covered_PV, moved.reshape(p, -1), source.index_select(0, kept_P))
