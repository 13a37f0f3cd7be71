import numpy as np
import pytest

from zssmnet.preparation.cropping import Box, bounding_box, margin_in_voxels


class TestBoundingBox:
    def test_axes_are_xyz(self):
        mask = np.zeros((5, 7, 9), np.uint8)
        mask[1:3, 2:6, 4] = 1
        assert bounding_box(mask) == Box((4, 2, 1), (5, 6, 3))

    def test_holds_all_labels(self):
        mask = np.zeros((5, 7, 9))
        mask[4, 0, 8], mask[0, 6, 0] = 0.5, 2
        assert bounding_box(mask) == Box((0, 0, 0), (9, 7, 5))

    def test_of_nothing(self):
        assert bounding_box(np.zeros((3, 3, 3))) is None
        assert bounding_box(np.full((3, 3, 3), -1)) is None

    def test_size(self):
        assert Box((4, 2, 1), (5, 6, 3)).size == (1, 4, 2)


class TestWidened:
    def test_on_every_side(self):
        assert Box((10, 20, 5), (11, 22, 8)).widened((1, 2, 3), (30, 30, 30)) == Box((9, 18, 2), (12, 24, 11))

    def test_clipped_to_the_volume(self):
        assert Box((10, 20, 5), (11, 22, 8)).widened((50, 50, 8), (30, 24, 9)) == Box((0, 0, 0), (30, 24, 9))

    def test_by_nothing(self):
        box = Box((1, 2, 3), (4, 5, 6))
        assert box.widened((0, 0, 0), (9, 9, 9)) == box


@pytest.mark.parametrize(
    ("margin_mm", "spacing_mm", "voxels"),
    [
        (25, (0.5, 0.5, 3.0), (50, 50, 8)),  # as published: floor of 25 / 3.0
        (0, (0.5, 0.5, 3.0), (0, 0, 0)),
        (0.3, (0.1, 0.1, 0.1), (3, 3, 3)),  # 0.3 / 0.1 is a little less than 3 in floating point
        (24.999, (0.5, 5.0, 25.0), (49, 4, 0)),
    ],
)
def test_margin_in_voxels(margin_mm: float, spacing_mm: tuple[float, float, float], voxels: tuple[int, int, int]):
    assert margin_in_voxels(margin_mm, spacing_mm) == voxels
