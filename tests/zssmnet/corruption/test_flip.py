"""Flips: their own inverse, alike for all channels, as often as described."""

import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate
from zssmnet.config import FlipConfig
from zssmnet.corruption.flip import apply_flip, sample_flip
from zssmnet.corruption.random import Stream, happens, integers, until_first_failure

KEYS_N = torch.arange(20_000)


def cubes(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 4, 6, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_flip_is_the_textbook_flip_and_its_own_inverse(axis: int, dtype: torch.dtype) -> None:
    cubes_NCXYZ = cubes(2, dtype)
    before = cubes_NCXYZ.clone()
    flipped_NA = torch.zeros(2, 3, dtype=torch.bool)
    flipped_NA[0, axis] = True
    flipped = apply_flip(cubes_NCXYZ, flipped_NA)
    assert torch.equal(flipped[0], cubes_NCXYZ[0].flip(axis + 1))
    assert torch.equal(flipped[1], cubes_NCXYZ[1])
    assert torch.equal(apply_flip(flipped, flipped_NA), before)
    assert torch.equal(cubes_NCXYZ, before)
    assert flipped.dtype == dtype


def test_flips_follow_one_another() -> None:
    """Cubes are flipped along one axis after the other, as often as drawn: 0 to 3 times."""
    happens_NF = until_first_failure(happens(KEYS_N[:200], Stream.FLIP, (3,), 0.4))
    axis_NF = integers(KEYS_N[:200], Stream.FLIP_AXIS, (3,), 0, 2)
    cubes_NCXYZ = cubes(200)
    flipped = apply_flip(cubes_NCXYZ, sample_flip(KEYS_N[:200], FlipConfig()))
    assert set(happens_NF.sum(1).tolist()) == {0, 1, 2, 3}
    for cube, found, axes in zip(cubes_NCXYZ, flipped, axis_NF.masked_fill(~happens_NF, -1).tolist(), strict=True):
        for axis in axes:
            cube = cube.flip(axis + 1) if axis >= 0 else cube
        assert torch.equal(found, cube)


def test_a_batch_is_flipped_as_its_cubes_one_by_one() -> None:
    cubes_NCXYZ, flipped_NA = cubes(16), sample_flip(torch.arange(16), FlipConfig())
    together = apply_flip(cubes_NCXYZ, flipped_NA)
    for i in range(16):
        alone = apply_flip(cubes_NCXYZ[i : i + 1], flipped_NA[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_rates() -> None:
    flipped_NA = sample_flip(KEYS_N, FlipConfig())
    # 0 to 3 flips, each along any axis: two along one axis cancel.
    once, twice, thrice = 0.4 * 0.6, 0.4**2 * 0.6, 0.4**3
    count_N = flipped_NA.sum(1)
    assert_rate(count_N == 0, 0.6 + twice / 3)
    assert_rate(count_N == 1, once + thrice * 7 / 9)
    assert_rate(count_N == 2, twice * 2 / 3)
    assert_rate(count_N == 3, thrice * 2 / 9)
    assert_even(flipped_NA[count_N == 1].sum(0))
    assert_even(flipped_NA[count_N == 2].sum(0))


def test_no_flip_at_all() -> None:
    assert not sample_flip(KEYS_N, FlipConfig(probability=0)).any()
    cubes_NCXYZ = cubes(2)
    assert torch.equal(apply_flip(cubes_NCXYZ, sample_flip(KEYS_N[:2], FlipConfig(most=0))), cubes_NCXYZ)
