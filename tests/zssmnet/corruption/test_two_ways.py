"""Local shuffling size by size, as on a CPU, equals that of one sorted list, as on a GPU, to the last bit."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from zssmnet.config import ShufflingConfig
from zssmnet.corruption.random import sample_keys
from zssmnet.corruption.shuffling import apply_shuffling
from zssmnet.corruption.sorted_list import list_cells, tabulate_offsets
from zssmnet.corruption.windows import Bounds, Shuffling, sample_shuffling, window_bounds

Shape = tuple[int, int, int, int]
REAL = (4, 64, 64, 16)


def as_list(shuffling: Shuffling, fillers: int = 0) -> Shuffling:
    """The same, to be done as on a GPU, with at least so many fillers a channel."""
    cells_P = shuffling.size_PAW.prod(dim=1).sum(dim=1)
    largest = shuffling.size_PAW.amax(dim=(0, 2)).tolist()
    return dataclasses.replace(shuffling, bounds=Bounds(int(cells_P.max()) + fillers, tuple(largest)))


def assert_equal_ways(cubes: Tensor, shuffling: Shuffling) -> None:
    found, expected = apply_shuffling(cubes, shuffling), apply_shuffling(cubes, as_list(shuffling))
    assert found.dtype == cubes.dtype
    assert torch.equal(found, expected)
    assert not torch.equal(found, cubes)


def draw(shape: Shape, config: ShufflingConfig, seed: int, cubes: int = 3, *, from_first: bool = True) -> Shuffling:
    keys = sample_keys(cubes, torch.Generator().manual_seed(seed))
    return sample_shuffling(keys, shape, config, from_first_channel=from_first)


def noise(cubes: int, shape: Shape) -> Tensor:
    return torch.rand(cubes, *shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("from_first", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_as_published(seed: int, from_first: bool) -> None:
    assert_equal_ways(noise(6, REAL), draw(REAL, ShufflingConfig(), seed, 6, from_first=from_first))


@pytest.mark.parametrize("from_first", [True, False])
@pytest.mark.parametrize(
    ("shape", "windows", "divisor"),
    [
        ((4, 13, 9, 6), 60, 3),
        ((4, 7, 5, 3), 40, 1),
        ((2, 17, 1, 5), 300, 2),
        ((1, 5, 31, 11), 1, 4),
        ((3, 1, 1, 2), 9, 1),
        ((4, 20, 30, 30), 16_384, 10),
    ],
)
def test_odd_sizes_and_many_seeds(shape: Shape, windows: int, divisor: int, from_first: bool) -> None:
    config = ShufflingConfig(probability=0.9, windows=windows, largest_divisor=divisor)
    cubes = noise(7, shape)
    for seed in range(3 if windows > 1000 else 15):
        assert_equal_ways(cubes, draw(shape, config, seed, 7, from_first=from_first))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_dtypes(dtype: torch.dtype) -> None:
    cubes = (200 * noise(2, REAL)).to(dtype)
    assert_equal_ways(cubes, draw(REAL, ShufflingConfig(probability=1), 1, 2))


def test_cubes_whose_voxels_and_windows_need_more_than_31_bits() -> None:
    shape = (1, 64, 64, 64)
    assert (10_000).bit_length() + (math.prod(shape) - 1).bit_length() > 31
    assert_equal_ways(noise(2, shape), draw(shape, ShufflingConfig(probability=1), 1, 2))


def test_equal_numbers_keep_their_order() -> None:
    """One window over all 65,536 voxels, whose numbers are 8,192 different ones; nothing lies over it."""
    shuffling = draw((1, *REAL[1:]), ShufflingConfig(probability=1), 4, 1)
    size_PAW, start_PAW = shuffling.size_PAW.clone(), shuffling.start_PAW.clone()
    size_PAW[:, :, -1], start_PAW[:, :, -1] = torch.tensor(REAL[1:]), 0
    shuffling = dataclasses.replace(shuffling, size_PAW=size_PAW, start_PAW=start_PAW)
    cubes = torch.arange(65_536.0).reshape(1, 1, *REAL[1:])
    assert_equal_ways(cubes, shuffling)
    assert torch.equal(apply_shuffling(cubes, shuffling).flatten().sort().values, cubes.flatten())


def test_any_number_of_threads() -> None:
    cubes, shuffling = noise(4, REAL), draw(REAL, ShufflingConfig(), 2, 4)
    alone = apply_shuffling(cubes, shuffling)
    torch.set_num_threads(3)
    assert torch.equal(apply_shuffling(cubes, shuffling), alone)


def test_fillers_are_spread_and_count_for_no_voxel() -> None:
    """A GPU changes one number once at a time: no voxel may be named much more often than by windows alone."""
    config, size = ShufflingConfig(probability=1), REAL[1:]
    shuffling, bounds = draw(REAL, config, 0), window_bounds(size, config)
    count = len(shuffling.target_P)
    table = tabulate_offsets(bounds.largest, list(size), torch.device("cpu"))
    window, voxel, cell = list_cells(shuffling, list(size), table, torch.arange(count * bounds.cells))
    is_filler = window % (config.windows + 1) == config.windows
    assert is_filler.sum() > 5000 * count
    assert torch.equal(cell == -1, is_filler)
    assert voxel[is_filler].bincount().max() == 1
    assert torch.equal(voxel // math.prod(size), window // (config.windows + 1))


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 13, 9, 6)])
def test_more_fillers_than_voxels(shape: Shape) -> None:
    cubes, shuffling = noise(3, shape), draw(shape, ShufflingConfig(windows=5, largest_divisor=2), 0)
    assert torch.equal(apply_shuffling(cubes, as_list(shuffling, 5000)), apply_shuffling(cubes, shuffling))
