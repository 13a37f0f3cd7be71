"""Local shuffling: permutations of the uncorrupted values, the last window wins, as often as described."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate, assert_uncorrelated
from zssmnet.config import ShufflingConfig
from zssmnet.corruption.shuffling import (
    Shuffling,
    apply_shuffling,
    bound_cells,
    draw_cell_numbers,
    list_cells,
    sample_shuffling,
)

SHAPE = (4, 64, 64, 16)
ALWAYS = ShufflingConfig(probability=1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def windows(size: list[list[int]], start: list[list[int]], *, key: int = 0, source: int = 0) -> Shuffling:
    """A shuffling of channel 0 with these windows (x, y, z)."""
    return Shuffling(
        target_P=torch.tensor([0]),
        source_P=torch.tensor([source]),
        order_P=torch.tensor([key]),
        size_PAW=torch.tensor(size).T[None],
        start_PAW=torch.tensor(start).T[None],
        most_cells=sum(map(math.prod, size)),
    )


def shuffle_window_by_window(cubes_NCXYZ: Tensor, shuffling: Shuffling) -> np.ndarray:
    """Step 2 as the method describes it, one window after the other, on numpy."""
    channels = cubes_NCXYZ.flatten(0, 1).numpy()
    shuffled = channels.copy()
    count = shuffling.size_PAW.shape[2]
    cells_P = shuffling.size_PAW.prod(1).sum(1)
    numbers_PK = draw_cell_numbers(shuffling.order_P, count, int(cells_P.max())).numpy()
    for p in range(len(shuffling.target_P)):
        source, target = channels[int(shuffling.source_P[p])], shuffled[int(shuffling.target_P[p])]
        sizes, starts, cell = shuffling.size_PAW[p].T.tolist(), shuffling.start_PAW[p].T.tolist(), 0
        for size, start in zip(sizes, starts, strict=True):
            window = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
            values = source[window].flatten()
            order = numbers_PK[p, cell : cell + values.size].argsort(kind="stable")
            target[window] = values[order].reshape(size)
            cell += values.size
    return shuffled.reshape(cubes_NCXYZ.shape)


@pytest.mark.parametrize(
    ("size", "start"), [((5, 4, 3), (1, 2, 0)), ((8, 8, 4), (0, 0, 0)), ((1, 8, 1), (7, 0, 3)), ((1, 1, 1), (2, 2, 2))]
)
def test_a_window_holds_a_permutation_of_what_was_there(size: tuple[int, ...], start: tuple[int, ...]) -> None:
    cubes = noise(1, 1, 8, 8, 4)
    before = cubes.clone()
    shuffled = apply_shuffling(cubes, windows([list(size)], [list(start)]))
    assert torch.equal(cubes, before)
    window = (0, 0, *(slice(s, s + n) for s, n in zip(start, size, strict=True)))
    assert torch.equal(shuffled[window].flatten().sort().values, cubes[window].flatten().sort().values)
    if cubes[window].numel() > 1:
        assert not torch.equal(shuffled[window], cubes[window])
    shuffled[window] = cubes[window]
    assert torch.equal(shuffled, cubes)


def test_every_permutation_is_equally_likely() -> None:
    # 3 voxels a window, side by side along each axis in turn: 6 orders.
    places = [[x, y, 3 * z] for x in range(30) for y in range(30) for z in range(10)]
    cubes = torch.arange(3.0).repeat(1, 1, 30, 30, 10)
    shuffled = apply_shuffling(cubes, windows([[1, 1, 3]] * len(places), places)).reshape(-1, 3)
    order = (shuffled @ torch.tensor([9.0, 3.0, 1.0])).long().unique(return_counts=True)
    assert len(order[1]) == 6
    assert_even(order[1])


def test_the_last_window_wins() -> None:
    # The second window lies across the first: where they meet, it shows values of its own place only.
    cubes = torch.arange(64.0).reshape(1, 1, 8, 8, 1)
    shuffled = apply_shuffling(cubes, windows([[4, 4, 1], [2, 8, 1]], [[0, 0, 0], [2, 0, 0]]))
    assert torch.equal(shuffled[0, 0, 2:4].flatten().sort().values, cubes[0, 0, 2:4].flatten())
    under = shuffled[0, 0, :2, :4].flatten()
    assert torch.isin(under, cubes[0, 0, :4, :4]).all()
    assert len(under.unique()) == 8


def test_ten_thousand_windows_are_as_a_loop_over_them() -> None:
    shuffling = sample_shuffling(torch.tensor([3]), (1, *SHAPE[1:]), ALWAYS, from_first_channel=False)
    cubes = noise(1, 1, *SHAPE[1:])
    assert shuffling.size_PAW.shape == (1, 3, 10_000)
    assert np.array_equal(apply_shuffling(cubes, shuffling).numpy(), shuffle_window_by_window(cubes, shuffling))


@pytest.mark.parametrize("from_first_channel", [True, False])
def test_many_channels_are_as_a_loop_over_them(from_first_channel: bool) -> None:
    config = ShufflingConfig(probability=0.7, windows=60, largest_divisor=3)
    shape = (4, 13, 9, 6)
    shuffling = sample_shuffling(torch.arange(9), shape, config, from_first_channel=from_first_channel)
    assert len(shuffling.target_P) > 17  # several parts
    cubes = noise(9, *shape)
    assert np.array_equal(apply_shuffling(cubes, shuffling).numpy(), shuffle_window_by_window(cubes, shuffling))


@pytest.mark.parametrize("from_first_channel", [True, False])
@pytest.mark.parametrize(
    ("shape", "windows", "divisor"),
    [
        ((4, 7, 5, 3), 40, 1),
        ((2, 17, 1, 5), 300, 2),
        ((1, 5, 31, 11), 1, 4),
        ((3, 1, 1, 2), 9, 1),
        ((1, 64, 64, 64), 3, 2),
        ((1, 20, 30, 30), 16_384, 10),
    ],
)
def test_odd_sizes_are_as_a_loop_over_the_windows(
    shape: tuple[int, ...], windows: int, divisor: int, from_first_channel: bool
) -> None:
    config = ShufflingConfig(probability=0.9, windows=windows, largest_divisor=divisor)
    cubes = noise(3, *shape)
    for seed in range(1 if windows > 1000 else 5):
        keys = torch.arange(3) + 3 * seed
        shuffling = sample_shuffling(keys, shape, config, from_first_channel=from_first_channel)
        assert np.array_equal(apply_shuffling(cubes, shuffling).numpy(), shuffle_window_by_window(cubes, shuffling))


def test_equal_numbers_keep_their_order() -> None:
    """One window over all 65,536 voxels, whose numbers are 8,192 different ones; nothing lies over it."""
    shape = (1, *SHAPE[1:])
    shuffling = sample_shuffling(torch.tensor([3]), shape, ALWAYS, from_first_channel=False)
    size_PAW, start_PAW = shuffling.size_PAW.clone(), shuffling.start_PAW.clone()
    size_PAW[:, :, -1], start_PAW[:, :, -1] = torch.tensor(SHAPE[1:]), 0
    most_cells = int(size_PAW.prod(dim=1).sum())
    shuffling = shuffling._replace(size_PAW=size_PAW, start_PAW=start_PAW, most_cells=most_cells)
    cubes = torch.arange(65_536.0).reshape(1, *shape)
    shuffled = apply_shuffling(cubes, shuffling)
    assert np.array_equal(shuffled.numpy(), shuffle_window_by_window(cubes, shuffling))
    assert torch.equal(shuffled.flatten().sort().values, cubes.flatten())


def test_any_number_of_threads() -> None:
    cubes = noise(4, *SHAPE)
    shuffling = sample_shuffling(torch.arange(4), SHAPE, ShufflingConfig(), from_first_channel=True)
    alone = apply_shuffling(cubes, shuffling)
    torch.set_num_threads(3)
    assert torch.equal(apply_shuffling(cubes, shuffling), alone)


def test_fillers_are_spread_and_count_for_no_voxel() -> None:
    """A GPU changes one number once at a time: no voxel may be named much more often than by windows alone."""
    size = SHAPE[1:]
    shuffling = sample_shuffling(torch.arange(3), SHAPE, ALWAYS, from_first_channel=True)
    count = len(shuffling.target_P)
    window, voxel, cell = list_cells(shuffling, size)
    assert len(cell) == count * bound_cells(size, ALWAYS)
    is_filler = window % (ALWAYS.windows + 1) == ALWAYS.windows
    assert is_filler.sum() > 5000 * count
    assert torch.equal(cell == -1, is_filler)
    assert voxel[is_filler].bincount().max() == 1
    assert torch.equal(voxel // math.prod(size), window // (ALWAYS.windows + 1))


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 13, 9, 6)])
def test_more_fillers_than_voxels(shape: tuple[int, ...]) -> None:
    config = ShufflingConfig(windows=5, largest_divisor=2)
    cubes, shuffling = noise(3, *shape), sample_shuffling(torch.arange(3), shape, config, from_first_channel=True)
    filled_up = shuffling._replace(most_cells=shuffling.most_cells + 5000)
    assert torch.equal(apply_shuffling(cubes, filled_up), apply_shuffling(cubes, shuffling))


def test_values_come_from_the_source_and_uncovered_voxels_stay() -> None:
    cubes = noise(2, 4, 6, 6, 2)
    config = ShufflingConfig(probability=1, windows=4, largest_divisor=2)
    shuffling = sample_shuffling(torch.arange(2), (4, 6, 6, 2), config, from_first_channel=True)
    assert torch.equal(shuffling.source_P, torch.tensor([0, 0, 0, 0, 4, 4, 4, 4]))
    shuffled = apply_shuffling(cubes, shuffling)
    for n in range(2):
        for c in range(4):
            changed = shuffled[n, c] != cubes[n, c]
            assert changed.any() and not changed.all()
            assert torch.isin(shuffled[n, c][changed], cubes[n, 0]).all()


def test_most_voxels_of_noise_change() -> None:
    shuffling = sample_shuffling(torch.arange(2), SHAPE, ALWAYS, from_first_channel=False)
    cubes = noise(2, *SHAPE)
    changed = (apply_shuffling(cubes, shuffling) != cubes).double().flatten(2).mean(2)
    assert ((changed - 0.755).abs() < 0.015).all()  # a cube's own share varies by 0.003


def test_window_sizes_and_starts_reach_both_ends() -> None:
    shuffling = sample_shuffling(torch.arange(2), SHAPE, ALWAYS, from_first_channel=False)
    for axis, (length, largest) in enumerate(((64, 6), (64, 6), (16, 1))):
        size, start = shuffling.size_PAW[:, axis], shuffling.start_PAW[:, axis]
        assert (size.min(), size.max()) == (1, largest)
        if largest > 1:
            assert_even((size.flatten() - 1).bincount())
        for n in range(1, largest + 1):
            counts = start[size == n].bincount()
            assert len(counts) == length - n + 1
            assert_even(counts)


def test_small_cubes_have_windows_of_one_voxel_at_least() -> None:
    shuffling = sample_shuffling(torch.arange(2), (4, 16, 9, 1), ALWAYS, from_first_channel=False)
    assert (shuffling.size_PAW == 1).all()
    cubes = noise(2, 4, 16, 9, 1)
    assert torch.equal(apply_shuffling(cubes, shuffling), cubes)


def test_windows_of_two_channels_are_independent() -> None:
    shuffling = sample_shuffling(torch.arange(1), SHAPE, ALWAYS, from_first_channel=True)
    for first in range(4):
        for second in range(first):
            for axis in range(3):
                assert_uncorrelated(shuffling.start_PAW[first, axis], shuffling.start_PAW[second, axis])


def test_windows_of_one_channel_are_independent() -> None:
    shuffling = sample_shuffling(torch.arange(4), SHAPE, ALWAYS, from_first_channel=True)
    x, y, z = shuffling.start_PAW.unbind(1)
    for first, second in ((x, y), (x, z), (y, z), (x, shuffling.size_PAW[:, 1])):
        assert_uncorrelated(first, second)
    for start in (x, y, z):
        assert_uncorrelated(start[:, 1:], start[:, :-1])


def test_rate() -> None:
    config = ShufflingConfig(windows=1)
    shuffling = sample_shuffling(torch.arange(20_000), SHAPE, config, from_first_channel=False)
    shuffled_NC = torch.zeros(80_000).index_fill(0, shuffling.target_P, 1).reshape(20_000, 4)
    for c in range(4):
        assert_rate(shuffled_NC[:, c], 0.5)
        assert_uncorrelated(shuffled_NC[:, c], shuffled_NC[:, c - 1])


def test_nothing_to_shuffle() -> None:
    shuffling = sample_shuffling(torch.arange(2), SHAPE, ShufflingConfig(probability=0), from_first_channel=True)
    cubes = noise(2, *SHAPE)
    shuffled = apply_shuffling(cubes, shuffling)
    assert torch.equal(shuffled, cubes)
    assert shuffled.data_ptr() != cubes.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_dtypes(dtype: torch.dtype) -> None:
    cubes = 200 * noise(1, 4, 16, 16, 4)
    shuffling = sample_shuffling(
        torch.arange(1), (4, 16, 16, 4), ShufflingConfig(largest_divisor=4), from_first_channel=False
    )
    shuffled = apply_shuffling(cubes.to(dtype), shuffling)
    assert shuffled.dtype == dtype
    assert torch.equal(shuffled, apply_shuffling(cubes, shuffling).to(dtype))
