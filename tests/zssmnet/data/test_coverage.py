import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import ORIGIN, as_array, as_image, noise, oblique
from zssmnet.data.coverage import covered, padding

WHOLE = np.s_[:, :, :]


@pytest.mark.parametrize("turned", [(20, 0, 0), (0, 0, 0), (25, -8, 12), (0, 0, 180)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (3.1, -2.2, 4.7), (200, 0, 0)])
@pytest.mark.parametrize("size", [(8, 9, 7), (40, 3, 2), (1, 1, 1)])
def test_covered_is_where_a_resampled_image_of_ones_is_one(turned, shift, size):
    image = as_image(np.ones(size[::-1], np.uint8), (1.9, 1.6, 3.6), np.add(ORIGIN, shift), oblique(*turned))
    grid = as_image(noise())
    plain = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    z, y, x = np.indices(noise().shape)
    assert (covered(image, grid, x, y, z) != as_array(plain)).mean() < 0.002  # places on the border itself


def test_indices_are_broadcast():
    images = as_image(noise(size=(8, 9, 7)), (1.9, 1.6, 3.6), direction=oblique(5)), as_image(noise())
    z, y, x = np.indices(noise().shape)
    narrow = covered(*images, np.arange(24), np.arange(20)[:, None], np.arange(8)[:, None, None])
    assert np.array_equal(narrow, covered(*images, x, y, z))


class TestPadding:
    """In an archive that others resampled, what was not measured is 0 in whole rows or columns."""

    def test_slices_rows_and_columns(self):
        array = noise() + 1
        expected = np.zeros(array.shape, bool)
        for part in (np.s_[:2], np.s_[:, :3], np.s_[:, :, 20:]):
            array[part] = 0
            expected[part] = True
        assert np.array_equal(padding(array, WHOLE), expected)
        part = np.s_[1:5, 2:9, 7:22]
        assert np.array_equal(padding(array, part), expected[part])

    def test_a_dark_patch_is_measured(self):
        array = noise() + 1
        array[2:6, 3:15, 4:20] = 0
        assert not padding(array, WHOLE).any()
