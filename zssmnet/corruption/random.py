"""Randomness without state: every draw is a pure function of a key, a stream and a counter.

A cube owns one 64-bit key, and each decision about it has a `Stream` of its own. Draw number i of a stream is a
hash of (key, stream, i), so that a cube is corrupted alike in every batch and on every device, and nothing has
to be drawn in order. All is batched integer arithmetic; integers wrap around, and as torch's `>>` repeats the
sign, the bits that it brings in are masked away.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (counters); Steele et al., "Fast
splittable pseudorandom number generators", OOPSLA 2014 (keys).
"""

import math
from enum import IntEnum
from functools import cache
from typing import Any

import torch
from torch import Tensor


class Stream(IntEnum):
    """Purpose of a draw: draws of different streams are independent."""

    FLIP = 0
    FLIP_AXIS = 1
    SHUFFLING = 2
    SHUFFLED_CHANNEL = 3
    WINDOW_SIZE = 4
    WINDOW_START = 5
    WINDOW_ORDER = 6
    INTENSITY = 7
    INTENSITY_RISES = 8
    INTENSITY_POINTS = 9
    PAINTING = 10
    PAINTING_OUTER = 11
    BOX = 12
    BOX_SIZE = 13
    BOX_START = 14
    NOISE = 15
    MASKING = 16
    MASKING_JOINTLY = 17
    BLANK_ZONES = 18


def _signed(pattern: int, bits: int) -> int:
    """The signed integer with this pattern of bits."""
    return pattern - (1 << bits) if pattern >> (bits - 1) else pattern


_GOLDEN = _signed(0x9E3779B97F4A7C15, 64)  # 2^64 / golden ratio: far apart for neighbouring numbers
_MIX64 = ((30, _signed(0xBF58476D1CE4E5B9, 64)), (27, _signed(0x94D049BB133111EB, 64)), (31, 1))
_MIX32_FIRST = ((16, _signed(0x85EBCA6B, 32)), (15, _signed(0xC2B2AE35, 32)))
_MIX32_LAST = ((16, _signed(0x21F0AAAD, 32)), (15, 1))


def _mix_(bits: Tensor, rounds: tuple[tuple[int, int], ...]) -> Tensor:
    """Spread every bit over all others, in place: x ^= x >>> shift, x *= factor, round after round."""
    width = bits.element_size() * 8
    shifted = torch.empty_like(bits)
    for shift, factor in rounds:
        torch.bitwise_right_shift(bits, shift, out=shifted).bitwise_and_((1 << (width - shift)) - 1)
        bits.bitwise_xor_(shifted)
        if factor != 1:
            bits.mul_(factor)
    return bits


@cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A tensor of plain numbers, copied to a device once: a graph of kernels cannot copy from the host."""
    with torch.inference_mode(False):
        return torch.tensor(values).to(device, non_blocking=True)


def sample_keys(n: int, generator: torch.Generator) -> Tensor:
    """Draw one key for each of n cubes; drawing 8 gives the same keys as drawing 4 and then 4.

    Args:
        n: number of cubes.
        generator: a CPU generator, the only source of randomness; it moves on.

    Returns:
        Keys (n,), int64, on the CPU, uniform over all 64-bit numbers.
    """
    return torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)


def derive_keys(keys: Tensor, number: int | Tensor) -> Tensor:
    """New keys, one for each key and number (splitmix64's output number `number` from state `key`).

    Args:
        keys: int64, any shape.
        number: a number, or int64 numbers that broadcast with `keys`.

    Returns:
        Keys, int64, of the broadcast shape.
    """
    return _mix_(keys + (torch.as_tensor(number) + 1) * _GOLDEN, _MIX64)


def random_bits(keys: Tensor, stream: Stream, shape: tuple[int, ...]) -> Tensor:
    """32 random bits for each key and place.

    Args:
        keys: int64, shape (...).
        stream: what the draws are for.
        shape: how many draws each key makes; draw number i stands at place i in C order.

    Returns:
        int32, shape (..., *shape), uniform over all 32-bit patterns.
    """
    seeds = derive_keys(keys, stream).unsqueeze(-1)
    counter = torch.arange(math.prod(shape), dtype=torch.int32, device=keys.device)
    # The key's one half decides where in the sequence of hashes to begin, the other which sequence it is.
    bits = _mix_(counter + seeds.to(torch.int32), _MIX32_FIRST)
    bits = _mix_(bits.bitwise_xor_((seeds >> 32).to(torch.int32)), _MIX32_LAST)
    return bits.reshape(*keys.shape, *shape)


def uniform(keys: Tensor, stream: Stream, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1): float32, shape (*keys.shape, *shape), multiples of 2^-24."""
    bits = random_bits(keys, stream, shape)
    return bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def integers(keys: Tensor, stream: Stream, shape: tuple[int, ...], low: int | Tensor, high: int | Tensor) -> Tensor:
    """Uniform integers from low to high, both ends included.

    Args:
        keys: int64, shape (...).
        stream: what the draws are for.
        shape: how many draws each key makes.
        low: smallest value, or values that broadcast with (..., *shape).
        high: largest value likewise, at most 2^31 - 1 above low.

    Returns:
        int64, shape (..., *shape). Each value's probability is exact to 2^-32.
    """
    bits = random_bits(keys, stream, shape).to(torch.int64).bitwise_and_(0xFFFFFFFF)
    return bits.mul_(high - low + 1).bitwise_right_shift_(32).add_(low)


def happens(keys: Tensor, stream: Stream, shape: tuple[int, ...], probability: float) -> Tensor:
    """True with this probability: bool, shape (*keys.shape, *shape)."""
    return uniform(keys, stream, shape) < probability


def until_first_failure(hits: Tensor) -> Tensor:
    """The row of leading hits, up to the first failure, along the last axis: bool, of the same shape."""
    return hits.cumprod(dim=-1).to(torch.bool)
