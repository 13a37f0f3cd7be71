import numpy as np
import pytest

from tests.zssmnet.examinations import noise
from zssmnet.data.plausibility import find_outlier


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f8"])
def test_noise_has_none(dtype: str):
    assert find_outlier(noise().astype(dtype)) is None


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 10, 12), (7, 19, 23)])
@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e10, -1e10])
def test_one_impossible_voxel_is_damage(value: float, place: tuple[int, int, int]):
    array = noise().astype("f4")
    array[place] = value
    outlier = find_outlier(array)
    assert outlier is not None
    assert outlier.is_damage
    assert outlier.index == place[::-1]
    assert outlier.value == np.float32(value)


def test_one_bright_voxel_is_doubtful():
    array = noise().astype("f4")
    array[3, 10, 12] = 10_000
    outlier = find_outlier(array)
    assert outlier is not None
    assert not outlier.is_damage
