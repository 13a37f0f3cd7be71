"""Whatever the grid, its spacing, its direction and the mask: the region of interest and the resampling hold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.zssmnet.examinations import as_array, as_image, oblique
from zssmnet.config import PreparationConfig
from zssmnet.data.examination import Examination
from zssmnet.data.image_io import LARGEST_VOLUME
from zssmnet.errors import CaseError
from zssmnet.preparation.cropping import Box, bounding_box
from zssmnet.preparation.prepare import PreparedVolumes, prepare_volumes
from zssmnet.preparation.resampling import Grid, target_grid

IN_PLANE = st.sampled_from([0.25, 0.3, 0.342, 0.5, 0.5625, 1.0, 2.0]) | st.floats(0.2, 1.5)
THROUGH_PLANE = st.sampled_from([1.5, 3.0, 3.3, 3.6, 6.0, 12.0]) | st.floats(1, 8)
DEGREES = st.sampled_from([0.0, 90.0, 180.0]) | st.floats(-60, 60)
MILLIMETRES = st.sampled_from([0.0, 0.1, -57.685436736032997]) | st.floats(-300, 300)
PATIENTLY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@dataclass
class Given:
    """An examination, and how much is to be kept around its gland."""

    examination: Examination
    margin_mm: float

    @property
    def grid(self) -> Grid:
        mask = self.examination.mask
        return target_grid(Grid(mask.GetSize(), mask.GetSpacing()), (0.5, 0.5, 3.0))

    def whole(self, image: sitk.Image, interpolator: int) -> npt.NDArray[np.float32]:
        """The whole volume, resampled by SimpleITK alone, with axes (z, y, x)."""
        return as_array(
            sitk.Resample(
                image if interpolator == sitk.sitkNearestNeighbor else sitk.Cast(image, sitk.sitkFloat32),
                self.grid.size,
                sitk.Transform(),
                interpolator,
                image.GetOrigin(),
                self.grid.spacing,
                image.GetDirection(),
                0,
            )
        )

    def prepared(self) -> PreparedVolumes | None:
        """None if the gland is too thin for the grid."""
        try:
            return prepare_volumes("case", self.examination, PreparationConfig(margin_mm=self.margin_mm))
        except CaseError as error:
            assert "so thin" in error.reason
            return None


@st.composite
def examinations(draw: st.DrawFn) -> Given:
    size = (draw(st.integers(4, 24)), draw(st.integers(4, 24)), draw(st.integers(4, 10)))
    turned = np.reshape(oblique(draw(DEGREES), draw(DEGREES), draw(DEGREES)), (3, 3))
    flips = [draw(st.sampled_from([1, 1, -1])) for _ in range(3)]
    space = (
        (draw(IN_PLANE), draw(IN_PLANE), draw(THROUGH_PLANE)),
        (draw(MILLIMETRES), draw(MILLIMETRES), draw(MILLIMETRES)),
        tuple((turned * flips).ravel().tolist()),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = [draw(st.integers(0, n - 1)) for n in size]
    high = [draw(st.integers(start + 1, n)) for start, n in zip(low, size, strict=True)]
    mask = np.zeros(size[::-1], np.uint8)
    inside = tuple(slice(*ends) for ends in zip(low[::-1], high[::-1], strict=True))
    mask[inside] = rng.integers(0, 3, mask[inside].shape)
    mask[low[2], low[1], low[0]] = draw(st.sampled_from([1, 2]))
    images = (
        rng.choice([0, 200], size[::-1]) + rng.random(size[::-1], np.float32),  # the hardest edges
        rng.normal(1000, 500, size[::-1]),
        rng.integers(0, 4000, size[::-1]).astype(np.int16),
    )
    t2w, adc, dwi, zones = (as_image(array, *space) for array in (*images, mask))
    files = ("t2w", "adc", "dwi", "mask")
    return Given(Examination(t2w, adc, dwi, zones, files), draw(st.sampled_from([1.0, 3.0, 25.0])))


def window(box: Box) -> tuple[slice, ...]:
    """A box as an index of an array with axes (z, y, x)."""
    return tuple(slice(*ends) for ends in zip(box.start[::-1], box.stop[::-1], strict=True))


@PATIENTLY
@given(examinations())
def test_region_of_interest(case: Given):
    """Inside the volume, with all of the gland and the margin, in whole voxels, as far as there is room."""
    mask = case.whole(case.examination.mask, sitk.sitkNearestNeighbor)
    gland = bounding_box(mask)
    volumes = case.prepared()
    assert (volumes is None) == (gland is None)
    event(f"gland vanishes: {gland is None}")
    if volumes is None or gland is None:
        return
    roi = volumes.roi
    outside = mask.copy()
    outside[window(roi)] = 0
    assert not outside.any()
    for axis, target_mm in enumerate((0.5, 0.5, 3.0)):
        margin = int(case.margin_mm // target_mm)
        assert 0 <= roi.start[axis] < roi.stop[axis] <= case.grid.size[axis]
        assert roi.start[axis] == max(0, gland.start[axis] - margin)
        assert roi.stop[axis] == min(case.grid.size[axis], gland.stop[axis] + margin)


@PATIENTLY
@given(examinations())
def test_margin_in_millimetres(case: Given):
    """In the patient: prepared voxels lie in the volume, with the margin around the gland where there is room.

    A margin is whole voxels of the target spacing, rounded down; the spacing really used differs from it, by half a
    voxel over the whole axis at most.
    """
    volumes = case.prepared()
    if volumes is None:
        return
    original = case.examination.mask
    extent_mm = np.multiply(original.GetSize(), original.GetSpacing())
    axes = np.reshape(original.GetDirection(), (3, 3))
    crop = as_array(volumes.mask)
    z, y, x = np.nonzero(crop)
    assert len(x), "the gland is in the crop"
    for axis, places in enumerate((x, y, z)):
        step, target = case.grid.spacing[axis], (0.5, 0.5, 3.0)[axis]
        begin = float(axes[:, axis] @ np.subtract(volumes.mask.GetOrigin(), original.GetOrigin()))
        end = begin + (volumes.mask.GetSize()[axis] - 1) * step
        assert begin >= -1e-6 and end <= extent_mm[axis] - step + 1e-6
        before, after = places.min() * step, (crop.shape[2 - axis] - 1 - places.max()) * step
        wanted = int(case.margin_mm / target) * step
        room_before, room_after = begin + before, extent_mm[axis] - step - (end - after)
        assert abs(before - min(wanted, room_before)) <= 1e-6
        assert abs(after - min(wanted, room_after)) <= 1e-6
        if case.grid.size[axis] > 1 and wanted < room_before:
            assert before > case.margin_mm * step / target - step


@PATIENTLY
@given(examinations(), st.sampled_from([1e-6, 0.0099, 100.1, 1e9]), st.integers(0, 2))
def test_no_spacing_makes_a_volume_that_cannot_be(case: Given, step: float, axis: int):
    """A spacing that no scanner has is refused, or gives a volume within bounds."""
    for volume in (*case.examination.images, case.examination.mask):
        spacing = list(volume.GetSpacing())
        spacing[axis] = step
        volume.SetSpacing(spacing)
    try:
        volumes = prepare_volumes("case", case.examination, PreparationConfig(margin_mm=case.margin_mm))
    except CaseError as error:
        assert error.reason.isprintable()
    else:
        assert np.prod(volumes.mask.GetSize(), dtype=float) <= LARGEST_VOLUME


@PATIENTLY
@given(examinations())
def test_resampling_the_region_is_cropping_the_whole(case: Given):
    """Images to 1e-6 of the value range, masks exactly, in the same place."""
    volumes = case.prepared()
    if volumes is None:
        return
    part = window(volumes.roi)
    for image, original in zip(volumes.images, case.examination.images, strict=True):
        whole = case.whole(original, sitk.sitkBSpline3)
        value_range = float(np.ptp(as_array(original).astype(np.float64)))
        assert np.abs(as_array(image) - whole[part]).max() <= 1e-6 * value_range
    assert np.array_equal(as_array(volumes.mask), case.whole(case.examination.mask, sitk.sitkNearestNeighbor)[part])
    frame = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    frame.SetOrigin(case.examination.t2w.GetOrigin())
    frame.SetSpacing(case.grid.spacing)
    frame.SetDirection(case.examination.t2w.GetDirection())
    for volume in (*volumes.images, volumes.mask):
        assert volume.GetSize() == volumes.roi.size
        assert np.allclose(volume.GetOrigin(), frame.TransformIndexToPhysicalPoint(volumes.roi.start), atol=1e-9)
        assert volume.GetSpacing() == case.grid.spacing
        assert volume.GetDirection() == frame.GetDirection()


@given(
    st.tuples(*[st.integers(1, 1024)] * 3),
    st.tuples(*[st.floats(0.05, 20)] * 3),
    st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_target_grid(size, spacing, target):
    """It keeps the extent, and no other number of voxels comes nearer to the target."""
    grid = target_grid(Grid(size, spacing), target)
    for axis in range(3):
        extent = size[axis] * spacing[axis]
        assert abs(grid.size[axis] * grid.spacing[axis] - extent) <= 1e-12 * extent
        wanted = extent / target[axis]
        assert grid.size[axis] == 1 or abs(grid.size[axis] - wanted) <= 0.5
        if grid.size[axis] == size[axis]:
            assert grid.spacing[axis] == spacing[axis]
