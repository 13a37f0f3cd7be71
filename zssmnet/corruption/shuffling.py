"""Step 2: local shuffling. The values within thousands of small windows change places.

Window after window, the values that the *uncorrupted* channel has there, permuted, overwrite the window in the
corrupted channel; where windows overlap the last one wins. As a loop over 10,000 windows this is nearly all of
the published program's time. Here the cells of all windows are one list: each voxel finds its last window by a maximum
over the cells that lie in it, and sorting the list by (window, random number) permutes every window at once. How long
the list is does not depend on what was drawn: fillers end it.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from zssmnet.config import ShufflingConfig
from zssmnet.corruption.random import Stream, constant, derive_keys, happens, integers, random_bits

MOST_AT_ONCE = 16
"""Shuffled channels handled at once, which bounds the memory: about 10 MB each. Their windows' numbers must fit into 31
bits together with the random numbers: shorter keys are sorted faster.
"""
_UNSEEN = 100 * math.log(2)  # minus the logarithm of 2^-100, the probability that a channel exceeds its bound


class Shuffling(NamedTuple):
    """P shuffled channels among the C channels of N cubes, and their W windows.

    Attributes:
        target_P: the channel to overwrite, counted through all cubes (cube * C + channel), int64; none twice, but for
            N * C, which is none.
        source_P: the channel that its values come from, counted likewise, int64.
        order_P: the key of its windows' permutations, int64.
        size_PAW: size of each window along the axes x, y, z in voxels, int64.
        start_PAW: first voxel of each window along the axes x, y, z, int64.
        most_cells: cells of a channel's windows at most, known without a look at what was drawn.
    """

    target_P: Tensor
    source_P: Tensor
    order_P: Tensor
    size_PAW: Tensor
    start_PAW: Tensor
    most_cells: int


def choose_channels(keys_N: Tensor, channels: int, config: ShufflingConfig) -> Tensor:
    """Draw which channels are shuffled, counted through all cubes (cube * C + channel): int64, ascending."""
    return happens(keys_N, Stream.SHUFFLING, (channels,), config.probability).flatten().nonzero()[:, 0]


def choose_padded(keys_N: Tensor, channels: int, config: ShufflingConfig) -> Tensor | None:
    """The same, filled up with a number that is no channel: equally long for nearly every batch, whatever was drawn.

    Returns:
        None where more are shuffled than in 99.9 % of all batches (0.03 % of 24 cubes).
    """
    chosen_P, count = choose_channels(keys_N, channels, config), len(keys_N) * channels
    mean = count * config.probability
    usual = mean + 3.1 * math.sqrt(mean * (1 - config.probability))
    length = min(count, math.ceil(usual / MOST_AT_ONCE) * MOST_AT_ONCE)
    return pad(chosen_P, (0, length - len(chosen_P)), value=count) if len(chosen_P) <= length else None


def sample_shuffling(
    keys_N: Tensor,
    shape_CXYZ: tuple[int, ...],
    config: ShufflingConfig,
    *,
    from_first_channel: bool,
    device: torch.device | None = None,
    chosen_P: Tensor | None = None,
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
        chosen_P: from `choose_padded`, on the device; None draws the channels here.

    Returns:
        The shuffling of these N cubes, on that device.
    """
    channels, *size = shape_CXYZ
    device = device or keys_N.device
    target_P = choose_channels(keys_N, channels, config) if chosen_P is None else chosen_P
    channel = torch.arange(channels, device=keys_N.device)
    keys_NC = derive_keys(derive_keys(keys_N, Stream.SHUFFLED_CHANNEL)[:, None], channel)
    source_P = target_P.clamp(max=keys_NC.numel() - 1)
    keys_P = keys_NC.flatten()[source_P].to(device, non_blocking=True)
    target_P, source_P = (one.to(device, non_blocking=True) for one in (target_P, source_P))

    size_A1 = constant(tuple(size), device)[:, None]
    largest_A1 = (size_A1 // config.largest_divisor).clamp(min=1)
    draws = (len(size), config.windows)
    size_PAW = integers(keys_P, Stream.WINDOW_SIZE, draws, 1, largest_A1)
    return Shuffling(
        target_P=target_P,
        source_P=source_P - source_P % channels if from_first_channel else source_P,
        order_P=keys_P,
        size_PAW=size_PAW,
        start_PAW=integers(keys_P, Stream.WINDOW_START, draws, 0, size_A1 - size_PAW),
        most_cells=bound_cells(size, config),
    )


def bound_cells(size: Sequence[int], config: ShufflingConfig) -> int:
    """Upper bound of the cells of a channel's windows, exceeded with a probability below 2^-100.

    By Bernstein's inequality for a sum of independent volumes, each a product of uniform sizes.

    Args:
        size: size of a cube x, y, z in voxels.
        config: number of windows and their largest size.
    """
    largest = [max(1, n // config.largest_divisor) for n in size]
    mean = math.prod((n + 1) / 2 for n in largest)
    variance = math.prod((n + 1) * (2 * n + 1) / 6 for n in largest) - mean**2
    linear = (math.prod(largest) - mean) * _UNSEEN / 3
    excess = linear + math.sqrt(linear**2 + 2 * config.windows * variance * _UNSEEN)
    return min(config.windows * math.prod(largest), math.ceil(config.windows * mean + excess))


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
    *drawn, most_cells = shuffling
    for first in range(0, len(shuffling.target_P), MOST_AT_ONCE):
        some = Shuffling._make((*(one[first : first + MOST_AT_ONCE] for one in drawn), most_cells))
        shuffled[some.target_P] = _move(source, some, *list_cells(some, size))
    return shuffled[:-1].reshape(cubes_NCXYZ.shape)


def list_cells(shuffling: Shuffling, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """List the cells of all windows, window after window and equally many (K) for each channel.

    Each channel gets one window more, the rest, whose cells fill its list up. They count for no voxel, and are spread
    over all voxels: a GPU changes one number once at a time.

    Args:
        shuffling: P shuffled channels.
        size: size of a cube x, y, z in voxels.

    Returns:
        The window and the voxel of each cell, both counted through all channels, and its number, -1 for a filler:
        (P * K,), int64.
    """
    (_, y_PW, z_PW), start_PW = shuffling.size_PAW.unbind(dim=1), shuffling.start_PAW.unbind(dim=1)
    p, k, voxels = len(y_PW), shuffling.most_cells, math.prod(size)
    cell = torch.arange(p * k, device=y_PW.device)
    place_K, channel_P1 = cell[:k], cell[:p, None] * voxels

    volume_PW = shuffling.size_PAW.prod(dim=1)
    filled_P1 = volume_PW.sum(dim=1, keepdim=True)
    volume = torch.cat((volume_PW, k - filled_P1), dim=1).flatten()
    window = torch.repeat_interleave(volume, output_size=p * k)

    # Cell (x * size y + y) * size z + z of a window lies (x * Y + y) * Z + z voxels after its corner: more by what each
    # line and each plane before it has outside the window. Division is fastest in int32.
    corner_PW = (start_PW[0] * size[1] + start_PW[1]) * size[2] + start_PW[2] + channel_P1
    first, corner = volume.cumsum(0) - volume, pad(corner_PW, (0, 1)).flatten()
    sizes = (pad(one, (0, 1), value=1).flatten().to(torch.int32) for one in (y_PW, z_PW))
    size_y, size_z = (one.index_select(0, window) for one in sizes)
    number = (cell - first.index_select(0, window)).to(torch.int32)
    outside = number // size_z * (size[2] - size_z) + number // (size_y * size_z) * (size[1] - size_y) * size[2]
    voxel = corner.index_select(0, window) + number + outside
    is_filler_PK = place_K >= filled_P1
    voxel_PK = torch.where(is_filler_PK, place_K % voxels + channel_P1, voxel.reshape(p, k))
    return window, voxel_PK.flatten(), cell.masked_fill(is_filler_PK.flatten(), -1)


def _move(source: Tensor, shuffling: Shuffling, window: Tensor, voxel: Tensor, cell: Tensor) -> Tensor:
    """The shuffled channels (P, voxels), from the list of cells: each voxel takes the value that its last cell gets."""
    p, windows = len(shuffling.order_P), shuffling.size_PAW.shape[2]
    last_cell = torch.full((p * source.shape[1],), -1, device=cell.device).scatter_reduce_(0, voxel, cell, "amax")

    number = draw_cell_numbers(shuffling.order_P, windows, shuffling.most_cells).flatten()
    key = window.to(torch.int32).mul_(1 << number_bits(windows)).add_(number)
    # The list stands in the order of its windows: sorting moves a cell within its window only.
    origin = _stable_order(key).index_select(0, last_cell.clamp(min=0))
    values = source.index_select(0, shuffling.source_P).flatten()
    moved = values.index_select(0, voxel.index_select(0, origin))
    kept_P = shuffling.target_P.clamp(max=len(source) - 1)
    covered_PV = (last_cell >= 0).reshape(p, -1)
    return torch.where(covered_PV, moved.reshape(p, -1), source.index_select(0, kept_P))


def draw_cell_numbers(order_P: Tensor, windows: int, cells: int) -> Tensor:
    """A random number for each cell: the order of a window's numbers is its permutation.

    Two cells have equal numbers, and then keep their order, once in 8,192 (with 10,000 windows).

    Args:
        order_P: keys of the permutations, int64.
        windows: number of windows of a channel.
        cells: number of cells of a channel, counted window after window, within a window in C order of (x, y, z).

    Returns:
        Numbers (P, cells), int32, not negative, of `number_bits(windows)` bits.
    """
    bits = number_bits(windows)
    return (random_bits(order_P, Stream.WINDOW_ORDER, (cells,)) >> (32 - bits)).bitwise_and_((1 << bits) - 1)


def _stable_order(key: Tensor) -> Tensor:
    """Where each value stood before they are sorted: int64. On a CPU, NumPy sorts values with places in a third."""
    if key.device.type != "cpu":
        return key.sort(stable=True).indices
    keyed = (key.to(torch.int64) << 32).bitwise_or_(torch.arange(len(key)))
    keyed.numpy().sort()
    return keyed.bitwise_and_(0xFFFFFFFF)


def number_bits(windows: int) -> int:
    """What the numbers of all windows, and of one rest for each channel, leave free of 31 bits."""
    return 31 - (MOST_AT_ONCE * (windows + 1) - 1).bit_length()
