"""Step 2: local shuffling. The values within thousands of small windows change places.

Window after window, the values that the *uncorrupted* channel has there, permuted, overwrite the window in the
corrupted channel; where windows overlap the last one wins. As a loop over 10,000 windows this is nearly all of
the published program's time. Here all windows are handled together: their cells are laid out in one list, each
voxel finds its last window by a maximum over the cells that cover it, and sorting the list by (window, random
number) permutes every window at once.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from zssmnet.config import ShufflingConfig
from zssmnet.corruption.random import Stream, derive_keys, happens, integers, random_bits

# Shuffled channels handled at once, which bounds the memory: about 10 MB each. Few suit a processor's cache, more
# spare a GPU's launches. Their windows' numbers must fit into 31 bits together with the random numbers: a CPU sorts
# such keys three times faster than longer ones.
_AT_ONCE_ON_CPU = 4
_MOST_AT_ONCE = 16


_UNSEEN = 100 * math.log(2)  # minus the logarithm of 2^-100, the probability that a channel exceeds its bound


@dataclass(frozen=True)
class Bounds:
    """What windows are at most.

    Attributes:
        cells: cells of all windows of a channel together.
        largest: size of a window x, y, z in voxels.
    """

    cells: int
    largest: tuple[int, ...]


@dataclass(frozen=True)
class Shuffling:
    """P shuffled channels among the C channels of N cubes, and their W windows.

    Attributes:
        target_P: the channel to overwrite, counted through all cubes (cube * C + channel), int64; none twice.
        source_P: the channel that its values come from, counted likewise, int64.
        order_P: the key of its windows' permutations, int64.
        size_PAW: size of each window along the axes x, y, z in voxels, int64.
        start_PAW: first voxel of each window along the axes x, y, z, int64.
        bounds: what the windows are at most, if that is known without asking the device.
    """

    target_P: Tensor
    source_P: Tensor
    order_P: Tensor
    size_PAW: Tensor
    start_PAW: Tensor
    bounds: Bounds | None = None

    def split(self, channels: int) -> Iterator["Shuffling"]:
        """Yield the same in parts of so many shuffled channels."""
        tensors = (self.target_P, self.source_P, self.order_P, self.size_PAW, self.start_PAW)
        for target_P, source_P, order_P, size_PAW, start_PAW in zip(
            *(torch.split(one, channels) for one in tensors), strict=True
        ):
            yield Shuffling(target_P, source_P, order_P, size_PAW, start_PAW, self.bounds)


def sample_shuffling(
    keys_N: Tensor,
    shape_CXYZ: tuple[int, ...],
    config: ShufflingConfig,
    *,
    from_first_channel: bool,
    device: torch.device | None = None,
) -> Shuffling:
    """Draw which channels are shuffled, and the windows of each.

    Args:
        keys_N: the cubes' keys, int64.
        shape_CXYZ: shape of one cube (channel, x, y, z).
        config: probability, number of windows and their largest size (never less than 1 voxel).
        from_first_channel: whether all channels take their values from channel 0, as in the published program,
            or each from itself.
        device: where the windows are drawn, by default that of the keys. With keys on the CPU and windows on a GPU
            the host does not wait: how many channels are shuffled is known here, and how large windows are is bounded.

    Returns:
        The shuffling of these N cubes, on that device.
    """
    channels, *size = shape_CXYZ
    device = device or keys_N.device
    target_P = happens(keys_N, Stream.SHUFFLING, (channels,), config.probability).flatten().nonzero()[:, 0]
    channel = torch.arange(channels, device=keys_N.device)
    keys_NC = derive_keys(derive_keys(keys_N, Stream.SHUFFLED_CHANNEL)[:, None], channel)
    keys_P = keys_NC.flatten()[target_P].to(device, non_blocking=True)
    target_P = target_P.to(device, non_blocking=True)

    size_A1 = torch.tensor(size)[:, None].to(device, non_blocking=True)
    largest_A1 = (size_A1 // config.largest_divisor).clamp(min=1)
    draws = (len(size), config.windows)
    size_PAW = integers(keys_P, Stream.WINDOW_SIZE, draws, 1, largest_A1)
    return Shuffling(
        target_P=target_P,
        source_P=target_P - target_P % channels if from_first_channel else target_P,
        order_P=keys_P,
        size_PAW=size_PAW,
        start_PAW=integers(keys_P, Stream.WINDOW_START, draws, 0, size_A1 - size_PAW),
        bounds=None if device.type == "cpu" else window_bounds(size, config),
    )


def window_bounds(size: Sequence[int], config: ShufflingConfig) -> Bounds:
    """What the windows of a channel are at most: a channel has more cells with a probability below 2^-100.

    By Bernstein's inequality for a sum of so many independent volumes, each a product of uniform sizes.

    Args:
        size: size of a cube x, y, z in voxels.
        config: number of windows and their largest size.
    """
    largest = tuple(max(1, n // config.largest_divisor) for n in size)
    mean = math.prod((n + 1) / 2 for n in largest)
    variance = math.prod((n + 1) * (2 * n + 1) / 6 for n in largest) - mean**2
    linear = (math.prod(largest) - mean) * _UNSEEN / 3
    excess = linear + math.sqrt(linear**2 + 2 * config.windows * variance * _UNSEEN)
    return Bounds(min(config.windows * math.prod(largest), math.ceil(config.windows * mean + excess)), largest)


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
    shuffled = source.clone()
    if len(shuffling.target_P):
        bounds = shuffling.bounds or _look_up_bounds(shuffling.size_PAW)
        at_once = _AT_ONCE_ON_CPU if source.device.type == "cpu" else _MOST_AT_ONCE
        offsets_YZK = _tabulate_offsets(bounds.largest, size, source.device)
        count = min(at_once, len(shuffling.target_P))
        cell_PK = torch.arange(count * bounds.cells, device=source.device).reshape(-1, bounds.cells)
        for some in shuffling.split(at_once):
            cell = cell_PK[: len(some.target_P)].flatten()
            window, voxel = _list_cells(some, size, offsets_YZK, cell)
            shuffled[some.target_P] = _move(source, some, window, voxel, cell)
    return shuffled.reshape(cubes_NCXYZ.shape)


def draw_cell_numbers(order_P: Tensor, windows: int, cells: int) -> Tensor:
    """A random number for each cell: the order of a window's numbers is its permutation.

    Two cells have equal numbers, and then keep their order, once in 8,192 (with 10,000 windows).

    Args:
        order_P: keys of the permutations, int64.
        windows: number of windows of a channel.
        cells: number of cells of a channel, counted window after window, within a window in C order of (x, y, z).

    Returns:
        Numbers (P, cells), int32, not negative.
    """
    bits = _number_bits(windows)
    return (random_bits(order_P, Stream.WINDOW_ORDER, (cells,)) >> (32 - bits)).bitwise_and_((1 << bits) - 1)


def _number_bits(windows: int) -> int:
    """What the numbers of all windows, and of one rest for each channel, leave free of 31 bits."""
    return 31 - (_MOST_AT_ONCE * (windows + 1) - 1).bit_length()


def _look_up_bounds(size_PAW: Tensor) -> Bounds:
    cells_P = size_PAW.prod(dim=1).sum(dim=1)
    cells, *largest = torch.cat((cells_P.amax()[None], size_PAW.amax(dim=(0, 2)))).tolist()
    return Bounds(cells, tuple(largest))


def _tabulate_offsets(largest: tuple[int, ...], size: list[int], device: torch.device) -> Tensor:
    """How many voxels cell k of a window lies behind the window's first voxel: (size y - 1, size z - 1, k), int64.

    A cell is number (x * size y + y) * size z + z of its window, and voxel (x * Y + y) * Z + z of its cube. One
    look-up costs half as much as these divisions do for every cell.
    """
    size_y = torch.arange(1, largest[1] + 1, device=device)[:, None, None]
    size_z = torch.arange(1, largest[2] + 1, device=device)[:, None]
    cell = torch.arange(math.prod(largest), device=device)
    x, line = cell // (size_y * size_z), cell // size_z
    return cell + line * (size[2] - size_z) + x * (size[1] - size_y) * size[2]


def _list_cells(shuffling: Shuffling, size: list[int], offsets_YZK: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """List the cells of all windows, window after window and equally many for each channel.

    Each channel gets one window more, the rest, whose cells fill its list up, and one voxel more, the bin, where
    they lie.

    Args:
        shuffling: P shuffled channels.
        size: size of a cube x, y, z in voxels.
        offsets_YZK: from `_tabulate_offsets`.
        cell: 0, 1, 2, ..., as many as there are to be cells, (P * K,).

    Returns:
        The window and the voxel of each cell, both counted through all channels: (P * K,), int64.
    """
    (_, y_PW, z_PW), start_PW = shuffling.size_PAW.unbind(dim=1), shuffling.start_PAW.unbind(dim=1)
    p, voxels = len(y_PW), math.prod(size)

    volume_PW = shuffling.size_PAW.prod(dim=1)
    volume = torch.cat((volume_PW, len(cell) // p - volume_PW.sum(dim=1, keepdim=True)), dim=1).flatten()
    window = torch.repeat_interleave(volume, output_size=len(cell))

    table = pad(offsets_YZK.flatten(), (0, 1))  # with a last entry for the rest's cells: 0
    entry_PW = ((y_PW - 1) * offsets_YZK.shape[1] + z_PW - 1) * offsets_YZK.shape[2]
    entry = pad(entry_PW, (0, 1), value=len(table) - 1).flatten() - (volume.cumsum(0) - volume)
    entry = entry.index_select(0, window).add_(cell).clamp_(max=len(table) - 1)

    corner_PW = (start_PW[0] * size[1] + start_PW[1]) * size[2] + start_PW[2]
    channel_P1 = torch.arange(p, device=cell.device)[:, None] * (voxels + 1)
    corner = (pad(corner_PW, (0, 1), value=voxels) + channel_P1).flatten()
    return window, table.index_select(0, entry).add_(corner.index_select(0, window))


def _move(source: Tensor, shuffling: Shuffling, window: Tensor, voxel: Tensor, cell: Tensor) -> Tensor:
    """The shuffled channels (P, voxels), from the list of cells: each voxel takes the value that its last cell gets."""
    p, windows = len(shuffling.order_P), shuffling.size_PAW.shape[2]
    last_cell = torch.full((p * (source.shape[1] + 1),), -1, device=cell.device)
    last_cell = last_cell.scatter_reduce_(0, voxel, cell, "amax").reshape(p, -1)[:, :-1].flatten()

    number = draw_cell_numbers(shuffling.order_P, windows, len(cell) // p).flatten()
    key = window.to(torch.int32).mul_(1 << _number_bits(windows)).add_(number)
    # The list stands in the order of its windows: sorting moves a cell within its window only.
    origin = key.sort(stable=True).indices.index_select(0, last_cell.clamp(min=0))
    values = pad(source.index_select(0, shuffling.source_P), (0, 1)).flatten()
    moved = values.index_select(0, voxel.index_select(0, origin))
    covered_PV = (last_cell >= 0).reshape(p, -1)
    return torch.where(covered_PV, moved.reshape(p, -1), source.index_select(0, shuffling.target_P))
