"""Random parameters of local shuffling: the channels, their windows, and the order of each window's cells."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of the windows.

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
        target_P: the channel to overwrite, counted through all cubes (cube * C + channel), int64; none twice, but for
            N * C, which is none.
        source_P: the channel that its values come from, counted likewise, int64.
        order_P: the key of its windows' permutations, int64.
        size_PAW: size of each window along the axes x, y, z in voxels, int64.
        start_PAW: first voxel of each window along the axes x, y, z, int64.
        bounds: what the windows are at most, known without a look at what was drawn.
    """

    target_P: Tensor
    source_P: Tensor
    order_P: Tensor
    size_PAW: Tensor
    start_PAW: Tensor
    bounds: Bounds

    def split(self, channels: int) -> Iterator["Shuffling"]:
        """Yield parts of at most this many shuffled channels."""
        for first in range(0, len(self.target_P), channels):
            part = slice(first, first + channels)
            yield Shuffling(
                self.target_P[part],
                self.source_P[part],
                self.order_P[part],
                self.size_PAW[part],
                self.start_PAW[part],
                self.bounds,
            )


def choose_channels(keys_N: Tensor, channels: int, config: ShufflingConfig) -> Tensor:
    """Draw which channels are shuffled, counted through all cubes (cube * C + channel): int64, ascending."""
    return happens(keys_N, Stream.SHUFFLING, (channels,), config.probability).flatten().nonzero()[:, 0]


def pad_channels(chosen_P: Tensor, count: int, config: ShufflingConfig) -> Tensor | None:
    """As many numbers for nearly every batch, whatever was drawn: filled up with one that is no channel.

    Args:
        chosen_P: from `choose_channels`.
        count: number of channels of all cubes.

    Returns:
        None where more are shuffled than in 99.9 % of all batches (0.03 % of 24 cubes).
    """
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
        chosen_P: from `pad_channels`, on the device; None draws the channels here.

    Returns:
        The shuffling of these N cubes, on that device.
    """
    channels, *size = shape_CXYZ
    device = device or keys_N.device
    target_P = choose_channels(keys_N, channels, config) if chosen_P is None else chosen_P
    channel = torch.arange(channels, device=keys_N.device)
    keys_NC = derive_keys(derive_keys(keys_N, Stream.SHUFFLED_CHANNEL)[:, None], channel)
    source_P = target_P if chosen_P is None else target_P.clamp(max=keys_NC.numel() - 1)
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
        bounds=window_bounds(size, config),
    )


def window_bounds(size: Sequence[int], config: ShufflingConfig) -> Bounds:
    """Upper bounds of a channel's windows: a channel has more cells with a probability below 2^-100.

    By Bernstein's inequality for a sum of independent volumes, each a product of uniform sizes.

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


def number_bits(windows: int) -> int:
    """What the numbers of all windows, and of one rest for each channel, leave free of 31 bits."""
    return 31 - (MOST_AT_ONCE * (windows + 1) - 1).bit_length()
