"""No finding in a real mask; each fault that a model's mask may have is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import as_array, as_image, oblique
from zssmnet.data.image_io import read_image
from zssmnet.data.mask_checks import check_mask

SPACING, ORIGIN = (1.0, 1.0, 3.0), (0.0, 0.0, 0.0)
SHAPE = (20, 80, 80)
Change = Callable[[np.ndarray], np.ndarray]


def labels() -> np.ndarray:
    """An ellipsoid of 48 x 40 x 36 mm, its back third label 1."""
    z, y, x = np.indices(SHAPE)
    inside = ((x - 40) / 24) ** 2 + ((y - 40) / 20) ** 2 + ((z - 10) / 6) ** 2 < 1
    return np.where(inside, np.where(y > 46, 1, 2), 0).astype(np.uint8)


def mask(array: np.ndarray, direction: tuple[float, ...] = oblique(0)) -> sitk.Image:
    return as_image(array, SPACING, ORIGIN, direction)


def far_voxels(array: np.ndarray) -> np.ndarray:
    array[0, 2, 2] = 1
    return array


def halves(array: np.ndarray) -> np.ndarray:
    array[:, :, 40:43] = 0
    return array


def test_a_plausible_mask_has_none():
    check = check_mask(mask(labels()), mask(labels()))
    assert check.findings == ()
    assert check.peripheral_ml == pytest.approx((labels() == 1).sum() * 3e-3)
    assert check.rest_ml == pytest.approx((labels() == 2).sum() * 3e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: np.array([0, 2, 1], np.uint8)[a], ["label 1 does not lie behind label 2: are the zones swapped?"]),
        (lambda a: (a > 0).astype(np.uint8), ["the rest of the gland (label 2) has 0.0 ml", "only the label 1;"]),
        (lambda a: np.where(a == 1, 0, a), ["the peripheral zone (label 1) has 0.0 ml; plausible are 5 to 60"]),
        (far_voxels, ["1 voxels of the mask lie up to "]),
        (halves, ["it is not one gland: ", " of it lie apart, in 1 pieces"]),
        (lambda a: a * 3, ["has the labels 3, 6; only 0, 1 and 2 are zones"]),
        (lambda a: a * 0, ["the mask has no foreground"]),
        (
            lambda a: np.where(np.indices(SHAPE)[0] == 10, a, 0),
            ["the gland measures 47 x 39 x 3 mm; plausible are 32"],
        ),
        (lambda a: np.maximum(a, 2), ["label 1) has 0.0 ml", "label 2) has 384.0 ml"]),
    ],
)
def test_each_fault_is_a_finding(change: Change, words: list[str]):
    found = "; ".join(check_mask(mask(change(labels()))).findings)
    assert found
    for one in words:
        assert one in found


@pytest.mark.parametrize(("scale", "is_odd"), [(0.4, True), (0.85, False), (1.7, False), (2.6, True)])
def test_volumes_and_extents_are_in_ml_and_mm(scale: float, is_odd: bool):
    image = as_image(labels(), [scale * step for step in SPACING], ORIGIN, oblique(0))
    assert bool(check_mask(image).findings) is is_odd


def test_behind_is_meant_in_the_patient():
    turned = mask(labels()[:, ::-1], oblique(0, 0, 180))
    assert check_mask(turned).findings == ()


@pytest.mark.parametrize("shift", [0, 17, 30, 40, 200])
def test_the_gland_has_to_lie_in_the_image_s_field(shift: float):
    t2w = as_image(as_array(mask(labels())), SPACING, (shift, 0, 0), oblique(0))
    outside = float((np.nonzero(labels())[2] < shift - 0.5).mean())
    expected = (f"{outside:.0%} of the gland lie outside the field of the T2W image",) if outside else ()
    assert check_mask(mask(labels()), t2w).findings == expected


def test_real_masks_have_none(shared: Path):
    files = sorted((shared / "data").rglob("zonal_masks/*.nii.gz"))
    assert len(files) == 19
    assert [file.name for file in files if check_mask(read_image(file)).findings] == []
