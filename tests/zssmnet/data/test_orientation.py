"""The same case, stored with its axes in any order and sense, is read as if it were stored as usual."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import CASE, ORIGIN, Archive, as_array, as_image, gland, noise, oblique
from zssmnet.data.examination import Examination, read_examination
from zssmnet.data.orientation import in_axial_order, tilt_degrees
from zssmnet.errors import CaseError, ImageError

ORDERS = ["".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)]
"""All 48 names of orders and senses of axes."""


def examination(folder: Path, orders: tuple[str, str, str, str]) -> Examination:
    """A case whose T2W, ADC, DWI and mask are stored in these orders, as it is read."""
    volumes = [as_image(noise(seed)) for seed in range(3)] + [as_image(gland())]
    t2w, adc, dwi, mask = (sitk.DICOMOrient(image, order) for image, order in zip(volumes, orders, strict=True))
    archive = Archive(folder)
    archive.add(CASE, t2w, adc, dwi, mask)
    return read_examination(archive.case(), archive.images, archive.masks)


def assert_usual(found: Examination) -> None:
    for seed, image in enumerate(found.images):
        assert np.array_equal(as_array(image), noise(seed))
    assert np.array_equal(as_array(found.mask), gland())
    for image in (*found.images, found.mask):
        assert np.allclose(image.GetOrigin(), ORIGIN, atol=1e-4)
        assert np.allclose(image.GetDirection(), oblique(20), atol=1e-6)
    assert not found.warnings


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_read_as_the_usual_one(tmp_path: Path, order: str):
    assert_usual(examination(tmp_path, (order,) * 4))


@pytest.mark.parametrize(
    "orders", [("LPS", "LPS", "LPS", "RAS"), ("RAS", "LPS", "LAS", "PIR"), ("SAR", "LPS", "LPS", "LPS")], ids="-".join
)
def test_files_of_a_case_may_differ(tmp_path: Path, orders: tuple[str, str, str, str]):
    assert_usual(examination(tmp_path, orders))


def test_no_value_changes():
    image = as_image(noise().astype(np.float32) / 7)
    for order in ORDERS:
        assert np.array_equal(as_array(in_axial_order(sitk.DICOMOrient(image, order))), as_array(image))


@pytest.mark.parametrize(("plane", "about_y", "about_x"), [("sagittal", 90, 0), ("coronal", 0, 90)])
def test_slices_of_another_plane_are_refused_along_another_axis(
    tmp_path: Path, plane: str, about_y: float, about_x: float
):
    """Where they lie along the third axis, the examination is read, with a warning: nothing has to be guessed."""
    direction = oblique(about_x, about_y)
    kept = as_image(noise(), direction=direction)
    assert np.array_equal(as_array(in_axial_order(kept)), noise())
    with pytest.raises(ImageError, match=f"slices of 3.3 mm along another axis than the third, and they are {plane}"):
        in_axial_order(sitk.DICOMOrient(kept, "LPS"))
    archive = Archive(tmp_path)
    turned = [sitk.DICOMOrient(as_image(noise(seed), direction=direction), "LPS") for seed in range(3)]
    archive.add(CASE, *turned, sitk.DICOMOrient(as_image(gland(), direction=direction), "LPS"))
    with pytest.raises(CaseError, match=f"case {CASE}: .*_0000.*they are {plane}"):
        read_examination(archive.case(), archive.images, archive.masks)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.1)])
def test_nearly_cubic_voxels_have_no_slices(spacing: tuple[float, float, float]):
    image = as_image(noise(), spacing, direction=oblique(0))
    assert np.array_equal(as_array(in_axial_order(sitk.DICOMOrient(image, "PSL"))), noise())


@pytest.mark.parametrize(("degrees", "is_odd"), [(0, False), (28, False), (39, False), (41, True), (44, True)])
def test_strongly_oblique_axes_are_a_warning(tmp_path: Path, degrees: float, is_odd: bool):
    archive = Archive(tmp_path)
    images = [as_image(noise(seed), direction=oblique(degrees)) for seed in range(3)]
    archive.add(CASE, *images, as_image(gland(), direction=oblique(degrees)))
    found = read_examination(archive.case(), archive.images, archive.masks).warnings
    assert tilt_degrees(images[0]) == pytest.approx(degrees, abs=1e-6)
    assert [f"tilted by {degrees} degrees" in warning for warning in found] == [True] * is_odd
