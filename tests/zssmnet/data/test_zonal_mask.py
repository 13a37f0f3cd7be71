import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import as_array, as_image
from zssmnet.data.zonal_mask import without_stray_parts, zone_warning
from zssmnet.errors import ImageError

SPACING = (1.0, 1.0, 3.0)
SHAPE = (20, 60, 60)
GLAND = (slice(6, 14), slice(20, 40), slice(20, 40))  # 3200 voxels


def mask(*strays: tuple[int, int, int], label: int = 1, dtype: str = "uint8", spacing=SPACING) -> sitk.Image:
    """A gland of both labels, and single voxels (z, y, x)."""
    array = np.zeros(SHAPE, dtype)
    array[GLAND] = 2
    array[GLAND[0], 32:40, GLAND[2]] = 1
    for place in strays:
        array[place] = label
    return as_image(array, spacing, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.parametrize("place", [(0, 0, 0), (19, 59, 59), (10, 2, 30), (10, 30, 57), (1, 30, 30)])
@pytest.mark.parametrize("label", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_stray_voxel_is_ignored_with_a_warning(place: tuple[int, int, int], label: int, dtype: str):
    cleaned, warning = without_stray_parts(mask(place, label=label, dtype=dtype), "ignore")
    assert np.array_equal(as_array(cleaned), as_array(mask(dtype=dtype)))
    assert as_array(cleaned).dtype == dtype
    assert warning is not None
    assert warning.startswith("1 voxels of the mask lie up to ")
    assert warning.endswith("and are ignored")


def test_the_distance_is_that_to_the_gland_in_mm():
    _, warning = without_stray_parts(mask((10, 30, 59)), "ignore")
    assert warning is not None
    assert "lie up to 20 mm away" in warning
    _, warning = without_stray_parts(mask((10, 30, 59), spacing=(2.0, 1.0, 3.0)), "ignore")
    assert warning is not None
    assert "lie up to 40 mm away" in warning


@pytest.mark.parametrize("place", [(10, 30, 49), (14, 40, 40), (16, 30, 30)])
def test_near_parts_belong_to_the_gland(place: tuple[int, int, int]):
    """Up to 10 mm: the seminal vesicles' edge, or a model's ragged border."""
    for stray in ("ignore", "keep", "refuse"):
        cleaned, warning = without_stray_parts(mask(place), stray)  # type: ignore[arg-type]
        assert warning is None
        assert np.array_equal(as_array(cleaned), as_array(mask(place)))


@pytest.mark.parametrize(("count", "is_ignored"), [(1, True), (32, True), (33, False), (400, False)])
def test_only_tiny_parts_are_ignored(count: int, is_ignored: bool):
    """1 % of the gland's 3,200 voxels."""
    places = [(z, y, x) for z in range(2) for y in range(20) for x in range(20)][:count]
    given = mask(*places)
    cleaned, warning = without_stray_parts(given, "ignore")
    assert warning is not None
    assert warning.startswith(f"{count} voxels")
    assert np.array_equal(as_array(cleaned), as_array(mask() if is_ignored else given))
    assert ("is the mask right?" in warning) is not is_ignored


def test_kept_at_will_with_a_warning():
    cleaned, warning = without_stray_parts(mask((0, 0, 0)), "keep")
    assert as_array(cleaned)[0, 0, 0] == 1
    assert warning is not None
    assert "belong to the region of interest" in warning


def test_refused_at_will():
    with pytest.raises(ImageError, match="2 voxels of the mask lie up to "):
        without_stray_parts(mask((0, 0, 0), (0, 0, 2)), "refuse")


def test_one_part_alone_is_the_gland():
    only = as_image(np.pad(np.ones((1, 1, 1), np.uint8), 4))
    assert without_stray_parts(only, "refuse")[1] is None


@pytest.mark.parametrize(("rows", "is_odd"), [((0, 1), False), ((1, 0), True), ((1, 1), True)])
def test_the_peripheral_zone_lies_behind_the_other(rows: tuple[int, int], is_odd: bool):
    array = np.zeros((2, 2, 2), np.uint8)
    array[:, rows[0], 0], array[:, rows[1], 1] = 2, 1
    warning = zone_warning(as_image(array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert (warning is not None) is is_odd
    assert warning is None or "are the zones swapped?" in warning
