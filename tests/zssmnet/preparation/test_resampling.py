import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import as_array, as_image, gland, noise, oblique
from zssmnet.preparation.cropping import Box
from zssmnet.preparation.resampling import Grid, crop_mask, grid_of, resample_image, resample_mask, target_grid

TARGET = (0.5, 0.5, 3.0)


def whole(image: sitk.Image, target: Grid, interpolator: int) -> sitk.Image:
    """Plain resampling of the whole volume."""
    return sitk.Resample(
        image,
        target.size,
        sitk.Transform(),
        interpolator,
        image.GetOrigin(),
        target.spacing,
        image.GetDirection(),
        0,
        image.GetPixelID(),
    )


def everything(grid: Grid) -> Box:
    return Box((0, 0, 0), grid.size)


class TestTargetGrid:
    @pytest.mark.parametrize(
        ("size", "spacing", "new_size"),
        [
            ((640, 640, 23), (0.3, 0.3, 3.6), (384, 384, 28)),  # 27.6 slices
            ((384, 384, 19), (0.5, 0.5, 3.0), (384, 384, 19)),
            ((1024, 1024, 27), (0.342, 0.342, 3.0), (700, 700, 27)),
            ((5, 7, 9), (0.25, 0.25, 1.5), (2, 4, 4)),  # 2.5, 3.5 and 4.5: half to even
            ((4, 4, 1), (0.01, 0.01, 0.01), (1, 1, 1)),  # never nothing
        ],
    )
    def test_size(self, size, spacing, new_size):
        target = target_grid(Grid(size, spacing), TARGET)
        assert target.size == new_size
        assert np.allclose(np.multiply(target.size, target.spacing), np.multiply(size, spacing), rtol=1e-12)

    def test_an_axis_of_the_same_size_keeps_its_spacing_exactly(self):
        grid = Grid((384, 640, 19), (0.4999, 0.3, 2.9999999941936877))
        target = target_grid(grid, TARGET)
        assert target.size == (384, 384, 19)
        assert (target.spacing[0], target.spacing[2]) == (0.4999, 2.9999999941936877)


class TestImage:
    def test_unchanged_grid_keeps_every_sample(self):
        image = as_image(noise(size=(8, 7, 5)), spacing=(0.5, 0.52, 3.0))
        grid = target_grid(grid_of(image), TARGET)
        result = resample_image(image, grid, Box((2, 1, 1), (7, 7, 4)))
        assert result.GetPixelID() == sitk.sitkFloat32
        assert np.array_equal(as_array(result), as_array(image)[1:4, 1:7, 2:7])
        assert np.allclose(result.GetOrigin(), image.TransformIndexToPhysicalPoint((2, 1, 1)), atol=1e-12)
        assert result.GetSpacing() == image.GetSpacing()
        assert result.GetDirection() == image.GetDirection()

    def test_unchanged_grid_is_what_the_spline_gives(self):
        image = sitk.Cast(as_image(noise(), spacing=TARGET), sitk.sitkFloat32)
        grid = grid_of(image)
        spline = as_array(whole(image, grid, sitk.sitkBSpline3))
        assert np.abs(as_array(resample_image(image, grid, everything(grid))) - spline).max() < 1e-6 * 1000

    def test_position_in_space(self):
        """A ramp along a direction in the patient stays that ramp, read at the prepared voxels' own positions."""
        z, y, x = np.indices((14, 30, 32))
        frame = as_image(np.zeros((14, 30, 32), np.float32), (0.8, 0.9, 3.7), (5, -20, 33), oblique(20, -10, 30))
        matrix = np.reshape(frame.GetDirection(), (3, 3)) * frame.GetSpacing()
        normal = np.array([0.3, -0.5, 0.8])
        positions = np.stack([x, y, z], -1) @ matrix.T + frame.GetOrigin()
        image = as_image(
            (positions @ normal).astype(np.float32), frame.GetSpacing(), frame.GetOrigin(), frame.GetDirection()
        )
        grid = target_grid(grid_of(image), TARGET)
        region = Box((9, 9, 4), tuple(size - 8 for size in grid.size))
        result = resample_image(image, grid, region)
        array = as_array(result)
        for index in ((0, 0, 0), (3, 2, 1), tuple(size - 1 for size in region.size)):
            expected = np.dot(result.TransformIndexToPhysicalPoint(index), normal)
            assert array[index[::-1]] == pytest.approx(expected, abs=0.05)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
    def test_any_pixel_type_becomes_float32(self, dtype: str):
        array = noise() % 200
        reference = sitk.Cast(as_image(array), sitk.sitkFloat32)
        grid = target_grid(grid_of(reference), TARGET)
        result = resample_image(as_image(array.astype(dtype)), grid, everything(grid))
        assert result.GetPixelID() == sitk.sitkFloat32
        assert np.array_equal(as_array(result), as_array(resample_image(reference, grid, everything(grid))))

    def test_undershoot_is_kept(self):
        """In float, as published: a spline's undershoot below 0 is not cut, whatever the file's type was."""
        array = np.zeros((9, 20, 20), np.uint16)
        array[:, 10:] = 1000
        grid = target_grid(Grid((20, 20, 9), (0.6, 0.55, 3.3)), TARGET)
        assert as_array(resample_image(as_image(array), grid, everything(grid))).min() < -20

    def test_input_is_left_alone(self):
        image = as_image(noise())
        origin, spacing, direction = image.GetOrigin(), image.GetSpacing(), image.GetDirection()
        grid = target_grid(grid_of(image), TARGET)
        resample_image(image, grid, Box((3, 3, 1), (9, 9, 5)))
        assert (image.GetOrigin(), image.GetSpacing(), image.GetDirection()) == (origin, spacing, direction)
        assert np.array_equal(as_array(image), noise())


@pytest.mark.parametrize("turned", [(0, 0, 0), (20, 0, 0), (11, -7, 23)])
@pytest.mark.parametrize(
    "spacing",
    [(1.0, 1.0, 6.0), (2.0, 1.0, 12.0), (0.25, 0.25, 1.5), (0.7, 0.9, 5.0), (1.5, 0.5, 3.0)],
    ids=lambda spacing: "x".join(map(str, spacing)),
)
class TestSameAsTheWholeVolume:
    """Where an axis is upsampled by 2 or 4, voxels lie halfway between others, and exactly on the volume's edge."""

    def test_image(self, spacing, turned):
        image = as_image(noise(1).astype(np.float32), spacing, direction=oblique(*turned))
        grid = target_grid(grid_of(image), TARGET)
        full = as_array(whole(image, grid, sitk.sitkBSpline3))
        for start, stop in (((0, 0, 0), grid.size), ((1, 2, 1), grid.size), ((1, 1, 0), np.subtract(grid.size, 1))):
            region = Box(tuple(map(int, start)), tuple(map(int, stop)))
            part = as_array(resample_image(image, grid, region))
            window = tuple(slice(low, high) for low, high in zip(region.start[::-1], region.stop[::-1], strict=True))
            assert np.abs(part - full[window]).max() < 1e-6 * 1000

    def test_mask(self, spacing, turned):
        mask = as_image((noise(2) % 3).astype(np.uint8), spacing, direction=oblique(*turned))
        grid = target_grid(grid_of(mask), TARGET)
        full = as_array(whole(mask, grid, sitk.sitkNearestNeighbor))
        assert np.array_equal(as_array(resample_mask(mask, grid)), full)


class TestMask:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "float32"])
    def test_pixel_type_is_kept(self, dtype: str):
        mask = as_image(gland(dtype=dtype))
        result = resample_mask(mask, target_grid(grid_of(mask), TARGET))
        assert result.GetPixelID() == mask.GetPixelID()
        assert set(np.unique(as_array(result))) == {0, 1, 2}

    def test_unchanged_grid(self):
        mask = as_image(gland(), spacing=TARGET)
        assert np.array_equal(as_array(resample_mask(mask, grid_of(mask))), gland())

    def test_crop(self):
        mask = as_image(gland())
        result = crop_mask(mask, Box((3, 4, 2), (20, 18, 7)))
        assert np.array_equal(as_array(result), gland()[2:7, 4:18, 3:20])
        assert np.allclose(result.GetOrigin(), mask.TransformIndexToPhysicalPoint((3, 4, 2)), atol=1e-12)
        assert (result.GetSpacing(), result.GetDirection()) == (mask.GetSpacing(), mask.GetDirection())
