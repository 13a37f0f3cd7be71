"""Each gross error of a mask is found by its shape; phantoms and real masks have nothing odd."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from zssmnet.data.image_io import image_like, read_image
from zssmnet.data.mask_checks import check_mask, odd_shape
from zssmnet.data.orientation import in_axial_order
from zssmnet.phantom import GridSpec, zonal_mask

GRIDS = (
    GridSpec.centred((160, 160, 20), (0.6, 0.6, 3.0), (0.0, 0.0, 0.0)),
    GridSpec.centred((80, 80, 30), (1.3, 1.2, 2.0), (0.0, 0.0, 0.0)),
    GridSpec.centred((112, 112, 17), (0.9, 1.0, 3.3), (3.0, -2.0, 1.0), degrees=12),
)
Change = Callable[[np.ndarray], np.ndarray]


@cache
def phantom(grid: int) -> sitk.Image:
    return zonal_mask(GRIDS[grid], np.random.default_rng(grid))


def middle(zones_ZYX: np.ndarray) -> list[int]:
    return [int(np.ptp(place) // 2 + place.min()) for place in np.nonzero(zones_ZYX)]


def without(axis: int, from_middle: slice) -> Change:
    """The mask without what lies on one side of its middle."""

    def change(zones: np.ndarray) -> np.ndarray:
        window = [slice(None)] * 3
        start, stop = (
            None if end is None else middle(zones)[axis] + end for end in (from_middle.start, from_middle.stop)
        )
        window[axis] = slice(start, stop)
        zones[tuple(window)] = 0
        return zones

    return change


def random(share: float, seed: int) -> Change:
    return lambda zones: np.where(np.random.default_rng(seed).random(zones.shape) < share, 0, zones)


def hole(zones: np.ndarray) -> np.ndarray:
    z, y, x = middle(zones)
    zones[z - 1 : z + 2, y - 5 : y + 6, x - 5 : x + 6] = 0
    return zones


def box(zones: np.ndarray) -> np.ndarray:
    z, y, x = (slice(place.min(), place.max() + 1) for place in np.nonzero(zones))
    zones[z, y, x] = 2
    zones[z, (y.start + y.stop) // 2 : y.stop, x] = 1
    return zones


def relabelled(label: int, new: int, axis: int, upper: bool) -> Change:
    def change(zones: np.ndarray) -> np.ndarray:
        place = np.arange(zones.shape[axis]).reshape([-1 if one == axis else 1 for one in range(3)])
        is_side = (place >= middle(zones)[axis]) if upper else (place < middle(zones)[axis])
        return np.where(is_side & (zones == label), new, zones)

    return change


def shifted(mm: int) -> Change:
    """The mask with its middle slice moved along both axes, by so many voxels of 1 mm or so."""

    def change(zones: np.ndarray) -> np.ndarray:
        z = middle(zones)[0]
        zones[z] = np.roll(zones[z], (mm, mm), (0, 1))
        return zones

    return change


ERRORS: dict[str, Change] = {
    "left": without(2, slice(0, None)),
    "right": without(2, slice(None, 0)),
    "front": without(1, slice(None, 0)),
    "back": without(1, slice(0, None)),
    "upper": without(0, slice(0, None)),
    "lower": without(0, slice(None, 0)),
    "slice": without(0, slice(0, 1)),
    "two slices": without(0, slice(1, 3)),
    "hole": hole,
    "box": box,
    "5 % lost": random(0.05, 0),
    "10 % lost": random(0.1, 1),
    "left PZ called TZ": relabelled(1, 2, 2, upper=True),
    "right PZ gone": relabelled(1, 0, 2, upper=False),
    "upper TZ called PZ": relabelled(2, 1, 0, upper=True),
    "back to front": lambda zones: zones[:, ::-1],
    "every second slice": lambda zones: np.where(np.arange(len(zones))[:, None, None] % 2, zones, 0),
    "a slice moved there": shifted(8),
    "a slice moved back": shifted(-8),
    "one zone's outline": lambda zones: np.where(np.roll(zones, 2, 2) * np.roll(zones, -2, 2) > 0, 0, zones),
}


@pytest.mark.parametrize("grid", range(len(GRIDS)))
@pytest.mark.parametrize("error", ERRORS)
def test_gross_errors_have_findings(error: str, grid: int):
    zones = ERRORS[error](sitk.GetArrayFromImage(phantom(grid)))
    check = check_mask(image_like(np.ascontiguousarray(zones.astype(np.uint8)), phantom(grid)))
    assert check.findings
    assert all(found.isprintable() for found in check.findings)


@pytest.mark.parametrize("scale", [(0.55, 0.55, 1), (2.2, 2.2, 1), (1, 1, 2.5), (1, 1, 0.4), (1, 2.6, 1), (2.2, 1, 1)])
def test_another_spacing_has_findings(scale: tuple[float, float, float]):
    mask = sitk.Image(phantom(0))
    mask.SetSpacing(np.multiply(mask.GetSpacing(), scale).tolist())
    assert check_mask(mask).findings


@pytest.mark.parametrize("grid", range(len(GRIDS)))
@pytest.mark.parametrize("axes", [(2, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_phantoms_have_none_in_any_order_of_axes(axes: tuple[int, int, int], grid: int):
    assert check_mask(phantom(grid)).findings == ()
    turned = sitk.Flip(sitk.PermuteAxes(phantom(grid), axes), (True, False, True))
    assert check_mask(in_axial_order(turned)).findings == ()


def test_the_limit_is_named():
    zones = ERRORS["left"](sitk.GetArrayFromImage(phantom(0)))
    found = "; ".join(odd_shape(image_like(zones, phantom(0))))
    assert "its outermost mm on one side has " in found
    assert "(plausible: at most 0.5)" in found


def real_masks(shared: Path, every: int) -> list[Path]:
    files = sorted((shared / "data").glob("more_zonal_masks/*.nii.gz"))
    if not files:
        pytest.skip("the real masks are not here")
    return files[::every]


def test_some_real_masks_have_none(shared: Path):
    assert [file.name for file in real_masks(shared, 30) if check_mask(read_image(file)).findings] == []


@pytest.mark.long
def test_real_masks_have_none(shared: Path):
    assert [file.name for file in real_masks(shared, 1) if check_mask(read_image(file)).findings] == []
