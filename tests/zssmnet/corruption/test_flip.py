"""Flips: their own inverse, alike for all channels, as often as described."""

import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate
from zssmnet.config import FlipConfig
from zssmnet.corruption.flip import Flip, apply_flip, sample_flip

KEYS_N = torch.arange(20_000)


def cubes(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 4, 6, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_flip_is_the_textbook_flip_and_its_own_inverse(axis: int, dtype: torch.dtype) -> None:
    cubes_NCXYZ = cubes(2, dtype)
    before = cubes_NCXYZ.clone()
    flip = Flip(torch.tensor([[True], [False]]), torch.full((2, 1), axis))
    flipped = apply_flip(cubes_NCXYZ, flip)
    assert torch.equal(flipped[0], cubes_NCXYZ[0].flip(axis + 1))
    assert torch.equal(flipped[1], cubes_NCXYZ[1])
    assert torch.equal(apply_flip(flipped, flip), before)
    assert torch.equal(cubes_NCXYZ, before)
    assert flipped.dtype == dtype


def test_flips_follow_one_another() -> None:
    flip = Flip(
        torch.tensor([[True] * 3, [True] * 3, [True, True, False]]), torch.tensor([[0, 2, 1], [1, 0, 1], [2, 2, 0]])
    )
    cubes_NCXYZ = cubes(3)
    flipped = apply_flip(cubes_NCXYZ, flip)
    assert torch.equal(flipped[0], cubes_NCXYZ[0].flip(1, 2, 3))
    assert torch.equal(flipped[1], cubes_NCXYZ[1].flip(1))
    assert torch.equal(flipped[2], cubes_NCXYZ[2])


def test_a_batch_is_flipped_as_its_cubes_one_by_one() -> None:
    cubes_NCXYZ, flip = cubes(16), sample_flip(torch.arange(16), FlipConfig())
    together = apply_flip(cubes_NCXYZ, flip)
    for i in range(16):
        alone = apply_flip(cubes_NCXYZ[i : i + 1], Flip(flip.happens_NF[i : i + 1], flip.axis_NF[i : i + 1]))
        assert torch.equal(together[i : i + 1], alone)


def test_rates() -> None:
    flip = sample_flip(KEYS_N, FlipConfig())
    count_N = flip.happens_NF.sum(1)
    for count, probability in enumerate((0.6, 0.4 * 0.6, 0.4**2 * 0.6, 0.4**3)):
        assert_rate(count_N == count, probability)
    assert_even(flip.axis_NF.flatten().bincount())
    assert_even((flip.axis_NF[:, 0] * 3 + flip.axis_NF[:, 1]).bincount())


def test_no_flip_at_all() -> None:
    assert not sample_flip(KEYS_N, FlipConfig(probability=0)).happens_NF.any()
    cubes_NCXYZ = cubes(2)
    assert torch.equal(apply_flip(cubes_NCXYZ, sample_flip(KEYS_N[:2], FlipConfig(most=0))), cubes_NCXYZ)
