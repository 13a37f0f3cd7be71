"""Painting: noise within boxes or around them, and nowhere else, as often as described."""

import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate, assert_uncorrelated
from zssmnet.config import PaintingConfig
from zssmnet.corruption.painting import Painting, apply_painting, box_limits, find_painted, sample_painting

SHAPE = (4, 64, 64, 16)
KEYS_N = torch.arange(5000)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def paint_box_by_box(painting: Painting, size: tuple[int, ...]) -> Tensor:
    """Which voxels become noise, one box after the other."""
    n, c, boxes = painting.exists_NCB.shape
    painted = torch.zeros(n, c, *size, dtype=torch.bool)
    for i in range(n):
        for j in range(c):
            if not painting.happens_NC[i, j]:
                continue
            painted[i, j] = bool(painting.outer_NC[i, j])
            for b in range(boxes):
                if painting.exists_NCB[i, j, b]:
                    start, length = painting.start_NCBA[i, j, b].tolist(), painting.size_NCBA[i, j, b].tolist()
                    box = tuple(slice(s, s + m) for s, m in zip(start, length, strict=True))
                    painted[i, j][box] = not painting.outer_NC[i, j]
    return painted


@pytest.mark.parametrize("size", [(64, 64, 16), (16, 16, 8), (20, 7, 5)])
def test_painted_voxels_are_those_of_the_boxes(size: tuple[int, ...]) -> None:
    painting = sample_painting(KEYS_N[:40], (4, *size), PaintingConfig())
    assert painting.happens_NC.any() and not painting.happens_NC.all()
    assert torch.equal(find_painted(painting, size), paint_box_by_box(painting, size))


@pytest.mark.parametrize("outer", [True, False])
def test_nothing_changes_but_what_is_painted(outer: bool) -> None:
    config = PaintingConfig(probability=1, outer_probability=float(outer), box_probability=1)
    painting = sample_painting(KEYS_N[:8], SHAPE, config)
    cubes = noise(8, *SHAPE) - 2
    before = cubes.clone()
    changed, painted = apply_painting(cubes, painting)
    assert torch.equal(cubes, before)
    assert torch.equal(changed[~painted], cubes[~painted])
    assert (changed[painted] >= 0).all() and (changed[painted] < 1).all()
    share = painted.double().mean().item()
    assert 0.6 < share < 0.9 if outer else 0.02 < share < 0.2
    assert painted[..., :3, :, :].all() if outer else not painted[..., :3, :, :].any()  # the border


def test_in_painting_without_a_box_changes_nothing_and_out_painting_keeps_one_box() -> None:
    for outer in (False, True):
        config = PaintingConfig(probability=1, outer_probability=float(outer), box_probability=0)
        painting = sample_painting(KEYS_N[:20], SHAPE, config)
        assert (painting.exists_NCB.sum(-1) == int(outer)).all()
        kept = ~find_painted(painting, SHAPE[1:])
        expected = painting.size_NCBA[:, :, 0].prod(-1) if outer else torch.tensor(64 * 64 * 16)
        assert (kept.flatten(2).sum(-1) == expected).all()


def test_noise_is_uniform_and_each_voxels_own() -> None:
    config = PaintingConfig(probability=1, outer_probability=1)
    painting = sample_painting(KEYS_N[:2], SHAPE, config)
    painted_cubes, painted = apply_painting(torch.full((2, *SHAPE), -1.0), painting)
    assert_even((painted_cubes[painted] * 256).long().bincount(minlength=256))
    full = apply_painting(
        torch.zeros(2, *SHAPE), Painting(**{**vars(painting), "exists_NCB": painting.exists_NCB & False})
    )[0]
    assert_uncorrelated(full[0], full[1])
    assert_uncorrelated(full[:, 0], full[:, 1])
    for dim in (2, 3, 4):
        assert_uncorrelated(full.narrow(dim, 0, 15), full.narrow(dim, 1, 15))


def test_limits_are_the_methods() -> None:
    assert box_limits((64, 64, 16), 3, outer=False) == [(10, 21, 3), (10, 21, 3), (2, 5, 3)]
    assert box_limits((64, 64, 16), 3, outer=True) == [(28, 37, 3), (28, 37, 3), (7, 10, 3)]


@pytest.mark.parametrize("outer", [True, False])
def test_boxes_reach_both_ends_of_their_range(outer: bool) -> None:
    config = PaintingConfig(outer_probability=float(outer))
    painting = sample_painting(KEYS_N, SHAPE, config)
    for axis, (smallest, largest, border) in enumerate(box_limits(SHAPE[1:], 3, outer=outer)):
        n = SHAPE[1 + axis]
        size, start = painting.size_NCBA[..., axis], painting.start_NCBA[..., axis]
        counts = size.flatten().bincount()
        assert counts[:smallest].sum() == 0 and len(counts) == largest + 1
        assert_even(counts[smallest:])
        for length in range(smallest, largest + 1):
            starts = start[size == length].bincount()
            assert starts[:border].sum() == 0 and len(starts) == n - length - border + 1
            if len(starts) > border + 1:
                assert_even(starts[border:])


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("border", [0, 3, 100])
def test_boxes_of_small_cubes_lie_within_them(border: int, outer: bool) -> None:
    config = PaintingConfig(outer_probability=float(outer), border=border)
    for n in range(1, 40):
        painting = sample_painting(KEYS_N[:50], (4, n, n, n), config)
        assert (painting.size_NCBA >= 1).all()
        assert (painting.start_NCBA >= 0).all()
        assert (painting.start_NCBA + painting.size_NCBA <= n).all()


def test_rates() -> None:
    painting = sample_painting(KEYS_N, SHAPE, PaintingConfig())
    for c in range(4):
        assert_rate(painting.happens_NC[:, c], 0.9)
        assert_rate(painting.outer_NC[:, c], 0.8)
        assert_uncorrelated(painting.happens_NC[:, c], painting.happens_NC[:, c - 1])
        assert_uncorrelated(painting.outer_NC[:, c], painting.outer_NC[:, c - 1])
    assert_uncorrelated(painting.happens_NC, painting.outer_NC)


def test_numbers_of_boxes() -> None:
    # A small chance fills all counts; the first box of out-painting is certain.
    painting = sample_painting(KEYS_N, SHAPE, PaintingConfig(box_probability=0.7))
    count_NC = painting.exists_NCB.sum(-1)
    for outer in (False, True):
        counts = count_NC[painting.outer_NC == outer] - int(outer)
        most = 5 - int(outer)
        for count in range(most):
            assert_rate(counts == count, 0.7**count * 0.3)
        assert_rate(counts == most, 0.7**most)
    existing = sample_painting(KEYS_N, SHAPE, PaintingConfig(outer_probability=0)).exists_NCB
    assert_rate(existing[..., 0], 0.95)
    assert_rate(existing.all(-1), 0.95**5)


def test_half_precision() -> None:
    painting = sample_painting(KEYS_N[:2], SHAPE, PaintingConfig())
    cubes = noise(2, *SHAPE)
    assert torch.equal(apply_painting(cubes.half(), painting)[0], apply_painting(cubes, painting)[0].half())
