"""Values that are finite and impossible, in images of several distributions; and no alarm in what is plausible."""

import numpy as np
import pytest

from tests.zssmnet.examinations import noise
from zssmnet.data.plausibility import IMPOSSIBLE_RATIO, find_outlier

SHAPE = (8, 48, 40)
PLACES = [(0, 0, 0), (3, 10, 12), (7, 47, 39)]


def normal() -> np.ndarray:
    """T2W-like."""
    return np.random.default_rng(0).normal(500, 120, SHAPE).clip(0)


def skewed() -> np.ndarray:
    """High-b-like: nearly all low, a tail of bright voxels."""
    return np.random.default_rng(1).gamma(1.2, 12, SHAPE)


def with_background() -> np.ndarray:
    """ADC-like: 60 % zeros outside the body."""
    random = np.random.default_rng(2)
    return np.where(random.random(SHAPE) < 0.6, 0, random.normal(1400, 400, SHAPE).clip(0))


def masked() -> np.ndarray:
    """An ADC map of the body's middle alone: 85 % zeros."""
    random = np.random.default_rng(3)
    return np.where(random.random(SHAPE) < 0.85, 0, random.normal(1400, 400, SHAPE).clip(0))


DISTRIBUTIONS = [normal, skewed, with_background, masked]
by_distribution = pytest.mark.parametrize("draw", DISTRIBUTIONS, ids=lambda draw: draw.__name__)


@by_distribution
@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4", "f8"])
def test_none_without_damage(draw, dtype: str):
    assert find_outlier(draw().astype(dtype)) is None


@by_distribution
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e10, -1e10, 1e6])
def test_one_impossible_voxel_is_damage(draw, value: float, place: tuple[int, int, int]):
    array = draw().astype("f4")
    array[place] = value
    outlier = find_outlier(array)
    assert outlier is not None
    assert outlier.is_damage
    assert outlier.index == place[::-1]
    assert outlier.value == np.float32(value)
    assert f"the value {np.float32(value):.6g} at voxel {place[::-1]}" in str(outlier)


@by_distribution
@pytest.mark.parametrize("share", [0.001, 0.01, 0.04, 0.2, 0.45])
@pytest.mark.parametrize("value", [1e10, -1e10])
def test_a_sentinel_of_any_size_is_damage(draw, share: float, value: float):
    """One value in up to half of the voxels, in one block, as where an image ends."""
    array = draw().astype("f4")
    array.reshape(-1)[: int(share * array.size)] = value
    outlier = find_outlier(array)
    assert outlier is not None
    assert outlier.is_damage
    assert outlier.value == np.float32(value)


@by_distribution
@pytest.mark.parametrize(("dtype", "value"), [("u2", 65535), ("i2", -32768), ("i2", 32767), ("i4", 2**31 - 1)])
def test_a_pixel_type_s_end_is_at_least_doubtful(draw, dtype: str, value: int):
    array = draw().astype(dtype)
    array[3, 10, 12] = value
    outlier = find_outlier(array)
    assert outlier is not None
    assert outlier.value == value


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bright_voxel_is_doubtful_and_one_that_takes_99_percent_of_the_range_damage(sign: int):
    array = sign * noise().astype("f4")
    for value, is_damage in [(10_000, False), (1000 * (IMPOSSIBLE_RATIO + 10), True)]:
        array[3, 10, 12] = sign * value
        outlier = find_outlier(array)
        assert outlier is not None
        assert outlier.is_damage is is_damage


@by_distribution
def test_unit_and_offset_do_not_matter(draw):
    array = draw()
    array[3, 10, 12] = 200 * array.max()
    first = find_outlier(array)
    assert first is not None
    for slope, intercept in [(1e-6, 0), (1e3, 50), (-2, -7)]:
        other = find_outlier(array * slope + intercept)
        assert other is not None
        assert (other.index, other.is_damage) == (first.index, first.is_damage)
        assert other.ratio == pytest.approx(first.ratio, rel=1e-6)


def test_the_worst_is_named():
    array = noise().astype("f4")
    array[0, 0, 0], array[1, 2, 3] = -1e5, 1e9
    outlier = find_outlier(array)
    assert outlier is not None
    assert outlier.index == (3, 2, 1)


def test_nearly_all_voxels_alike_say_nothing():
    """Of such an image nothing can be said by its distribution."""
    array = np.zeros(SHAPE, "f4")
    array[0, 0, :3] = 1
    assert find_outlier(array) is None


def with_high_values(values: np.ndarray) -> np.ndarray:
    """Noise from 0 to 1000, and these values in its first voxels."""
    array = noise(size=(60, 50, 20)).astype("f4")
    array.reshape(-1)[: len(values)] = values
    return array


def test_a_few_far_voxels_without_a_gap_below_them_are_doubtful():
    """A smeared spike: each step is small against what lies below it, the last value is far from the bulk."""
    values = 1000 * 2.0 ** np.arange(1, 6)
    assert find_outlier(with_high_values(values[:3])) is None
    assert find_outlier(with_high_values(values)) is not None


def test_a_patch_is_odd_if_it_is_small_and_its_values_lie_close_together():
    close, spread = 50_000 + np.linspace(0, 10_000, 60_000), np.linspace(50_000, 500_000, 60_000)
    for values, count, is_odd in [(close, 1800, True), (close, 6000, False), (spread, 1800, False)]:
        given = values[:: len(values) // count][:count]
        assert (find_outlier(with_high_values(given)) is not None) is is_odd, count


def test_columns_that_repeat_do_not_hide_the_others():
    """Statistics come from every n-th voxel: of an even step, all could lie in columns without signal."""
    array = noise(size=(128, 128, 16)).astype("f4")
    array[:, :, ::8] = 0
    array[3, 10, 12] = 1e10
    outlier = find_outlier(array)
    assert outlier is not None and outlier.is_damage
