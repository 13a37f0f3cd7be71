"""The spline against ITK's on the whole volume, and against what a spline is."""

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import as_array, as_image, noise
from zssmnet.preparation.bspline import interpolate
from zssmnet.preparation.cropping import Box
from zssmnet.preparation.resampling import Grid, target_grid

SIZES = [(24, 20, 8), (4, 5, 4), (70, 9, 31)]


def by_itk(image: sitk.Image, grid: Grid) -> np.ndarray:
    done = sitk.Resample(
        sitk.Cast(image, sitk.sitkFloat64),
        grid.size,
        sitk.Transform(),
        sitk.sitkBSpline3,
        image.GetOrigin(),
        grid.spacing,
        image.GetDirection(),
    )
    return as_array(done)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "spacing",
    [(0.3, 0.3, 3.6), (0.5, 0.61, 3.0), (0.7, 0.31, 2.2), (1.3, 0.5, 7.7), (0.5, 0.5, 3.3), (0.11, 1.6, 3.0)],
    ids=lambda spacing: "x".join(map(str, spacing)),
)
def test_as_itks_on_the_whole_volume(size: tuple[int, int, int], spacing: tuple[float, float, float]):
    """Each axis up- and downsampled, and left as it is; regions at every edge and in the middle."""
    image = as_image(noise(size=size), spacing, origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    grid = target_grid(Grid(size, spacing), (0.5, 0.5, 3.0))
    ratios = tuple(new / old for new, old in zip(grid.spacing, spacing, strict=True))
    whole = by_itk(image, grid)
    regions = [Box((0, 0, 0), grid.size)]
    if min(grid.size) > 2:
        regions.append(Box((1, 1, 1), tuple(size - 1 for size in grid.size)))
    for region in regions:
        window = tuple(slice(low, high) for low, high in zip(region.start[::-1], region.stop[::-1], strict=True))
        found = interpolate(as_array(image), ratios, region)
        assert np.abs(found - whole[window]).max() < 1e-8 * np.ptp(noise(size=size))


def test_a_part_is_equal_to_that_of_the_whole():
    """What a region holds does not depend on the region but for rounding in float64."""
    ratios, size = (1.7, 1.6, 0.8), (20, 25, 18)
    array = noise(size=(40, 44, 15)).astype(np.float32)
    whole = interpolate(array, ratios, Box((0, 0, 0), size))
    part = interpolate(array, ratios, Box((3, 17, 2), (19, 25, 18)))
    assert np.abs(part - whole[2:18, 17:25, 3:19]).max() < 1e-12 * np.ptp(array)


def test_it_goes_through_the_samples():
    array = noise(size=(20, 22, 12))
    found = interpolate(array, (0.5, 1.0, 0.25), Box((0, 0, 0), (39, 22, 45)))
    assert np.abs(found[::4, :, ::2] - array).max() < 1e-8 * np.ptp(array)


def test_it_reproduces_cubics_far_from_the_ends():
    x = np.arange(90.0)
    array = np.broadcast_to(1e-3 * (x - 40) ** 3 + x, (4, 4, 90))
    positions = np.arange(120, 160) * 0.37
    expected = 1e-3 * (positions - 40) ** 3 + positions
    found = interpolate(array, (0.37, 1.0, 1.0), Box((120, 0, 0), (160, 4, 4)))
    assert np.abs(found - expected).max() < 1e-8 * np.ptp(array)


def test_nothing_lies_beyond_the_last_half_voxel():
    found = interpolate(np.ones((4, 4, 8)), (0.4, 1.0, 1.0), Box((0, 0, 0), (20, 4, 4)))
    assert np.array_equal(found[0, 0] != 0, np.arange(20) * 0.4 <= 7.5)


def test_samples_are_left_alone():
    array = noise(size=(9, 9, 9))
    interpolate(array, (0.9, 1.0, 0.9), Box((0, 0, 0), (9, 9, 9)))
    assert np.array_equal(array, noise(size=(9, 9, 9)))
