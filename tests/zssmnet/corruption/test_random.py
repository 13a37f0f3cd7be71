"""The stateless generator: exact, even, independent."""

import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate, assert_uncorrelated
from zssmnet.corruption.random import (
    Stream,
    derive_keys,
    happens,
    integers,
    random_bits,
    sample_keys,
    uniform,
    until_first_failure,
)

NEIGHBOURS_N = torch.arange(2000)  # the least random keys there are


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits_one_by_one(key: int, stream: int, number: int) -> int:
    """One draw in Python's unbounded integers."""
    state = (key + (stream + 1) * 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    state ^= state >> 31
    bits = (number + state) % 2**32
    bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
    bits = (bits ^ bits >> 15) * 0xC2B2AE35 % 2**32
    bits ^= state >> 32
    bits = (bits ^ bits >> 16) * 0x21F0AAAD % 2**32
    return bits ^ bits >> 15


def test_keys_splitting_law() -> None:
    one, two = generator(), generator()
    assert torch.equal(sample_keys(8, one), torch.cat((sample_keys(4, two), sample_keys(4, two))))
    assert torch.equal(one.get_state(), two.get_state())


def test_keys_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    keys = sample_keys(1000, generator(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(keys, sample_keys(1000, generator(5)))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(keys, sample_keys(1000, generator(6)))
    assert len(keys.unique()) == 1000
    assert keys.dtype == torch.int64
    assert keys.max() > 2**62 and keys.min() < -(2**62)


def test_splitmix64_is_what_its_authors_published() -> None:
    # First outputs of splitmix64 from seed 1234567, the usual check value.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    drawn = derive_keys(torch.tensor(1234567), torch.arange(4))
    assert [number % 2**64 for number in drawn.tolist()] == expected


@pytest.mark.parametrize("stream", [Stream.FLIP, Stream.NOISE])
def test_bits_are_those_of_exact_arithmetic(stream: Stream) -> None:
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
    drawn = random_bits(keys, stream, (3, 7))
    expected = [[bits_one_by_one(key % 2**64, stream, i) for i in range(21)] for key in keys.tolist()]
    assert torch.equal(drawn.long() % 2**32, torch.tensor(expected).reshape(6, 3, 7))


def test_draws_depend_on_key_and_place_only() -> None:
    keys = sample_keys(6, generator())
    whole = random_bits(keys, Stream.NOISE, (4, 5))
    assert torch.equal(whole[2:4], random_bits(keys[2:4], Stream.NOISE, (4, 5)))
    assert torch.equal(whole.flatten(1)[:, :7], random_bits(keys, Stream.NOISE, (7,)))
    assert torch.equal(whole.reshape(2, 3, 4, 5), random_bits(keys.reshape(2, 3), Stream.NOISE, (4, 5)))


def test_every_bit_is_fair() -> None:
    bits = random_bits(NEIGHBOURS_N, Stream.NOISE, (100,))
    for place in range(32):
        assert_rate(bits >> place & 1, 0.5)


@pytest.mark.parametrize("stream", list(Stream))
def test_uniform_is_even_over_keys_and_places(stream: Stream) -> None:
    drawn = uniform(NEIGHBOURS_N, stream, (100,))
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0 and drawn.max() < 1
    assert torch.equal(drawn * 2**24, (drawn * 2**24).floor())
    assert_even((drawn * 256).long().flatten().bincount(minlength=256))
    assert_even((drawn[:, 0] * 32).long().bincount(minlength=32))
    pairs = (drawn[:, :-1] * 16).long() * 16 + (drawn[:, 1:] * 16).long()
    assert_even(pairs[:, ::2].flatten().bincount(minlength=256))


def test_streams_are_independent() -> None:
    draws = [uniform(NEIGHBOURS_N, stream, (20,)) for stream in Stream]
    for i, first in enumerate(draws):
        for second in draws[:i]:
            assert_uncorrelated(first, second)


def test_neighbouring_keys_and_places_are_independent() -> None:
    drawn = uniform(NEIGHBOURS_N, Stream.NOISE, (200,))
    for lag in (1, 2, 3, 16, 64):
        assert_uncorrelated(drawn[lag:], drawn[:-lag])
        assert_uncorrelated(drawn[:, lag:], drawn[:, :-lag])
    assert_uncorrelated(drawn[1:, 1:], drawn[:-1, :-1])


def test_derived_keys_are_independent() -> None:
    keys = derive_keys(derive_keys(NEIGHBOURS_N, Stream.SHUFFLED_CHANNEL)[:, None], torch.arange(4))
    assert len(keys.unique()) == keys.numel()
    drawn = uniform(keys, Stream.WINDOW_SIZE, (20,))
    for first in range(4):
        for second in range(first):
            assert_uncorrelated(drawn[:, first], drawn[:, second])


@pytest.mark.parametrize(("low", "high"), [(0, 2), (1, 6), (3, 3), (-5, 58)])
def test_integers_are_even_and_reach_both_ends(low: int, high: int) -> None:
    drawn = integers(NEIGHBOURS_N, Stream.BOX_SIZE, (50,), low, high)
    assert drawn.dtype == torch.int64
    counts = (drawn.flatten() - low).bincount()
    assert len(counts) == high - low + 1
    assert counts.min() > 0
    if high > low:
        assert_even(counts)


def test_integers_of_a_wide_range_are_exact() -> None:
    keys = sample_keys(50, generator())
    drawn = integers(keys, Stream.BOX_SIZE, (), -7, 2**31 - 8)
    expected = [(bits_one_by_one(key % 2**64, Stream.BOX_SIZE, 0) * 2**31 >> 32) - 7 for key in keys.tolist()]
    assert drawn.tolist() == expected


def test_integers_take_bounds_for_each_draw() -> None:
    low: Tensor = torch.tensor([0, 10, 20])
    drawn = integers(NEIGHBOURS_N, Stream.BOX_SIZE, (3,), low, low + torch.tensor([0, 1, 2]))
    assert torch.equal(drawn.amin(0), low)
    assert torch.equal(drawn.amax(0), torch.tensor([0, 11, 22]))


def test_chance() -> None:
    assert not happens(NEIGHBOURS_N, Stream.FLIP, (50,), 0.0).any()
    assert happens(NEIGHBOURS_N, Stream.FLIP, (50,), 1.0).all()
    assert_rate(happens(NEIGHBOURS_N, Stream.FLIP, (50,), 0.3), 0.3)


def test_a_row_ends_at_the_first_miss() -> None:
    hits = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    assert until_first_failure(hits).sum(1).tolist() == [3, 2, 1, 0]
