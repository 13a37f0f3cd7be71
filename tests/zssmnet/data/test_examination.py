import gzip
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import (
    CASE,
    DIRECTION,
    ORIGIN,
    SIZE,
    SPACING,
    Archive,
    as_array,
    as_image,
    gland,
    noise,
    oblique,
    write,
)
from zssmnet.data.archive import Case, take_inventory
from zssmnet.data.examination import Examination, onto_grid, read_examination
from zssmnet.errors import CaseError
from zssmnet.storage import LocalStorage

T2W, ADC, DWI, MASK = range(4)
NAMES = ("T2W", "ADC", "DWI")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(tmp_path)
    archive.add()
    return archive


def path_of(archive: Archive, which: int) -> Path:
    return archive.mask_path() if which == MASK else archive.image_path(which)


def examine(archive: Archive, case: Case | None = None) -> Examination:
    return read_examination(case or archive.case(), archive.images, archive.masks)


def fault(archive: Archive, which: int, case: Case | None = None) -> str:
    """The reason why the case cannot be read; id and file are as they should be."""
    case = case or archive.case()
    with pytest.raises(CaseError) as caught:
        examine(archive, case)
    error = caught.value
    file = archive.masks.where(case.mask) if which == MASK else archive.images.where(case.images[which])
    assert (error.case_id, error.file) == (CASE, file)
    assert str(error) == f"case {CASE}: {file}: {error.reason}"
    assert error.reason
    assert str(error).isprintable()
    return error.reason


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[3, 2, 1] = value
    return changed


class TestGoodCase:
    def test_four_volumes_in_their_own_pixel_types(self, archive: Archive):
        write(sitk.Cast(as_image(noise(1)), sitk.sitkFloat32), archive.image_path(ADC))
        found = examine(archive)
        for seed, image in enumerate(found.images):
            assert np.array_equal(as_array(image), noise(seed))
        assert np.array_equal(as_array(found.mask), gland())
        types = [volume.GetPixelID() for volume in (*found.images, found.mask)]
        assert types == [sitk.sitkUInt16, sitk.sitkFloat32, sitk.sitkUInt16, sitk.sitkUInt8]
        assert found.files == tuple(str(path_of(archive, which)) for which in range(4))
        assert np.allclose(found.t2w.GetOrigin(), ORIGIN, atol=1e-4)

    @pytest.mark.parametrize("label", [1, 2])
    def test_one_zone_is_enough(self, archive: Archive, label: int):
        write(as_image((gland() == label).astype(np.uint8) * label), archive.mask_path())
        assert set(np.unique(as_array(examine(archive).mask))) == {0, label}

    @pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float32", "float64"])
    def test_mask_of_any_pixel_type(self, archive: Archive, dtype: str):
        write(as_image(gland(dtype=dtype)), archive.mask_path())
        assert np.array_equal(as_array(examine(archive).mask), gland())


@pytest.mark.parametrize("which", range(4), ids=[*NAMES, "mask"])
class TestBadFile:
    def test_missing(self, archive: Archive, which: int):
        case = archive.case()
        path_of(archive, which).unlink()
        assert fault(archive, which, case) == "missing"

    def test_a_folder_of_that_name(self, archive: Archive, which: int):
        case = archive.case()
        path_of(archive, which).unlink()
        path_of(archive, which).mkdir()
        assert fault(archive, which, case) == "missing"

    def test_truncated(self, archive: Archive, which: int):
        os.truncate(path_of(archive, which), path_of(archive, which).stat().st_size - 20)
        assert "is truncated" in fault(archive, which)

    def test_no_image(self, archive: Archive, which: int):
        path_of(archive, which).write_bytes(b"404: Not Found\n")
        assert "is no readable image" in fault(archive, which)

    def test_2_d(self, archive: Archive, which: int):
        write(sitk.GetImageFromArray(gland()[4]), path_of(archive, which))
        assert "is 2-D" in fault(archive, which)

    def test_4_d(self, archive: Archive, which: int):
        write(sitk.JoinSeries([as_image(gland())] * 2), path_of(archive, which))
        assert "is 4-D" in fault(archive, which)

    def test_vectors(self, archive: Archive, which: int):
        write(sitk.Compose([as_image(gland())] * 2), path_of(archive, which))
        assert "2 values a voxel" in fault(archive, which)


@pytest.mark.parametrize("which", [T2W, ADC, DWI], ids=NAMES)
class TestBadValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, archive: Archive, which: int, value: float):
        write(as_image(with_value(noise(), value)), archive.image_path(which))
        assert fault(archive, which) == "has 1 values that are not finite (NaN or infinite)"

    @pytest.mark.parametrize(("dtype", "value"), [("uint16", 7), ("float32", 0), ("int16", -3)])
    def test_constant(self, archive: Archive, which: int, dtype: str, value: int):
        write(as_image(np.full(SIZE[::-1], value, dtype)), archive.image_path(which))
        assert fault(archive, which) in (
            f"the {NAMES[which]} image is constant: all voxels are {value}",
            f"the {NAMES[which]} image is constant: all voxels are {float(value)}",
        )


class TestBadMask:
    def test_no_foreground(self, archive: Archive):
        write(as_image(np.zeros(SIZE[::-1], np.uint8)), archive.mask_path())
        assert fault(archive, MASK) == "the mask has no foreground: no voxel is labelled 1 or 2"

    @pytest.mark.parametrize(
        ("value", "shown"),
        [(3, "3"), (1.5, "1.5"), (-1, "-1"), (0.01, "0.01"), (1.0015, "1.0015"), (2.4999999, "2.5"), (1e30, "1e+30")],
    )
    def test_other_labels(self, archive: Archive, value: float, shown: str):
        write(as_image(with_value(gland(), value)), archive.mask_path())
        assert fault(archive, MASK) == f"has the labels {shown}; only 0, 1 and 2 are zones"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, archive: Archive, value: float):
        write(as_image(with_value(gland(), value)), archive.mask_path())
        assert fault(archive, MASK) == "has 1 values that are not finite (NaN or infinite)"

    @pytest.mark.parametrize("dtype", ["f4", "f8"])
    @pytest.mark.parametrize("error", [1e-7, -1e-6, 0.00099, -0.0009])
    def test_labels_whole_to_a_thousandth_are_whole(self, archive: Archive, dtype: str, error: float):
        """As scaling by a slope, or interpolation, leaves them."""
        write(as_image(gland().astype(dtype) + np.array(error, dtype)), archive.mask_path())
        mask = as_array(examine(archive).mask)
        assert mask.dtype == dtype
        assert np.array_equal(mask, gland())

    def test_many_other_labels_are_shortened(self, archive: Archive):
        write(as_image(noise() + 3), archive.mask_path())
        assert len(fault(archive, MASK)) < 100

    def test_only_other_labels(self, archive: Archive):
        write(as_image(gland() * 100), archive.mask_path())
        assert "has the labels 100, 200;" in fault(archive, MASK)


def without_place(path: Path) -> None:
    """Qform and sform are switched off, as programs do that know voxels alone."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)
    path.write_bytes(gzip.compress(content))


class TestNoPlace:
    def test_of_a_case_on_one_grid_is_a_warning(self, archive: Archive):
        for which in range(4):
            without_place(path_of(archive, which))
        (warning,) = examine(archive).warnings
        assert warning.startswith("T2W has no place in its header (qform_code and sform_code are 0)")

    def test_of_images_on_grids_of_their_own_leaves_the_case_out(self, archive: Archive):
        without_place(path_of(archive, DWI))
        assert "has no place in its header" in fault(archive, DWI, replace(archive.case(), format="bids"))


def moved(archive: Archive, which: int, **space: object) -> None:
    array = gland() if which == MASK else noise(which)
    write(as_image(array, **space), path_of(archive, which))  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [ADC, DWI, MASK], ids=["ADC", "DWI", "mask"])
class TestGrids:
    @pytest.mark.parametrize(
        "space",
        [
            {"origin": np.add(ORIGIN, (0.1 * SPACING[0], 0, 0))},
            {"origin": np.round(ORIGIN, 2), "direction": np.round(DIRECTION, 4)},
            {"origin": np.add(ORIGIN, (0, *(0.1 * SPACING[2] * np.array([-np.sin(0.349), np.cos(0.349)]))))},
            {"spacing": np.add(SPACING, (0.1 * SPACING[0] / SIZE[0], 0, 0))},
            {"direction": oblique(20.1)},
        ],
        ids=str,
    )
    def test_within_a_tenth_of_a_voxel_they_agree(self, archive: Archive, which: int, space: dict[str, object]):
        moved(archive, which, **space)
        found = examine(archive)
        for volume in (found.adc, found.dwi, found.mask):
            assert volume.GetOrigin() == found.t2w.GetOrigin()
            assert volume.GetSpacing() == found.t2w.GetSpacing()
            assert volume.GetDirection() == found.t2w.GetDirection()

    @pytest.mark.parametrize(
        "space",
        [
            {"origin": np.add(ORIGIN, (0.5 * SPACING[0], 0, 0))},
            {"origin": np.add(ORIGIN, (0, 0, 0.5 * SPACING[2]))},
            {"spacing": np.add(SPACING, (0.5 * SPACING[0] / (SIZE[0] - 1), 0, 0))},
            {"spacing": np.add(SPACING, (0, 0, 0.5 * SPACING[2] / (SIZE[2] - 1)))},
            {"direction": oblique(22)},
            {"direction": DIRECTION[:6] + tuple(-value for value in DIRECTION[6:])},
        ],
        ids=str,
    )
    def test_half_a_voxel_away_they_do_not(self, archive: Archive, which: int, space: dict[str, object]):
        moved(archive, which, **space)
        assert re.search(r"lies up to [\d.]+ mm away from T2W's grid, [\d.]+ voxels", fault(archive, which))

    def test_the_distance_is_given_in_mm_and_voxels(self, archive: Archive, which: int):
        moved(archive, which, origin=np.add(ORIGIN, (-0.3, 0, 0)))
        assert "lies up to 0.3 mm away from T2W's grid, 0.5 voxels" in fault(archive, which)

    def test_size(self, archive: Archive, which: int):
        write(as_image(noise(size=(24, 20, 7)) % 3), path_of(archive, which))
        assert fault(archive, which) == "has the size (24, 20, 7), but T2W has (24, 20, 8)"


class TestPicai:
    """ADC and DWI on coarser grids of their own."""

    @pytest.fixture
    def coarse(self) -> list[sitk.Image]:
        return [
            as_image(noise(number, (8, 9, 7)), (1.9, 1.6, 3.6), np.add(ORIGIN, (-0.7, -1, -0.4)), oblique(15))
            for number in (1, 2)
        ]

    @pytest.fixture
    def build(self, tmp_path: Path, coarse: list[sitk.Image]) -> Callable[..., Archive]:
        def build(
            t2w: sitk.Image | None = None,
            adc: sitk.Image | None = None,
            dwi: sitk.Image | None = None,
            mask: sitk.Image | None = None,
        ) -> Archive:
            archive = Archive(tmp_path)
            images = [t2w or as_image(noise()), adc or coarse[0], dwi or coarse[1]]
            archive.add_picai(CASE, images, mask or as_image(gland()))
            return archive

        return build

    def test_brought_onto_the_grid_of_t2w(self, build: Callable[..., Archive], coarse: list[sitk.Image]):
        found = examine(build())
        for image, own in zip((found.adc, found.dwi), coarse, strict=True):
            plain = sitk.Resample(own, found.t2w, sitk.Transform(), sitk.sitkBSpline3, 0, own.GetPixelID())
            assert np.array_equal(as_array(image), as_array(plain))
            assert image.GetOrigin() == found.t2w.GetOrigin()
            assert 0.1 < (as_array(image) == 0).mean() < 0.9  # outside

    def test_unsigned_pixels_cut_the_undershoot_and_signed_ones_keep_it(self, coarse: list[sitk.Image]):
        reference = as_image(noise())
        unsigned = onto_grid(coarse[0], reference)
        signed = onto_grid(sitk.Cast(coarse[0], sitk.sitkInt32), reference)
        assert unsigned.GetPixelID() == sitk.sitkUInt16
        assert as_array(signed).min() < -10
        assert np.array_equal(as_array(unsigned), np.maximum(as_array(signed), 0))

    @pytest.mark.parametrize("which", [ADC, DWI])
    def test_too_few_slices(self, build: Callable[..., Archive], which: int):
        archive = build(**{("t2w", "adc", "dwi")[which]: as_image(noise(1, (8, 9, 3)), (1.9, 1.6, 3.6))})
        reason = fault(archive, which)
        assert reason == "has the size (8, 9, 3); cubic interpolation needs 4 voxels on each axis"

    @pytest.mark.parametrize("which", [T2W, ADC, DWI])
    def test_truncated(self, build: Callable[..., Archive], which: int):
        archive = build()
        path = archive.root / "images" / archive.case().images[which]
        os.truncate(path, path.stat().st_size - 20)
        assert "is truncated" in fault(archive, which)

    def test_not_finite_before_interpolation(self, build: Callable[..., Archive]):
        archive = build(adc=as_image(with_value(noise(1, (8, 9, 7)), np.nan), (1.9, 1.6, 3.6)))
        assert "1 values that are not finite" in fault(archive, ADC)

    def test_mask_must_lie_on_the_grid_of_t2w(self, build: Callable[..., Archive]):
        archive = build(mask=as_image(gland(), origin=np.add(ORIGIN, (0, 0, 3.3))))
        assert "lies up to 3.3 mm away" in fault(archive, MASK)

    def test_image_that_does_not_reach_the_mask_s_volume(self, build: Callable[..., Archive], coarse: list[sitk.Image]):
        """All of it is outside value 0 on T2W's grid; preparation finds it constant."""
        found = examine(build(adc=as_image(noise(1, (8, 9, 7)), (1.9, 1.6, 3.6), (500, 500, 500))))
        assert not as_array(found.adc).any()


def test_real_case_in_both_forms(shared: Path):
    masks = LocalStorage(shared / "data/zonal_masks")
    found = []
    for form in ("nnunet_raw", "picai_mha"):
        images = LocalStorage(shared / "data" / form)
        (case,) = take_inventory(images, masks).cases
        found.append(read_examination(case, images, masks))
    for one, other in zip(found[0].images, found[1].images, strict=True):
        assert np.array_equal(as_array(one), as_array(other))
        assert np.allclose(one.GetOrigin(), other.GetOrigin(), atol=1e-4)
    assert np.array_equal(as_array(found[0].mask), as_array(found[1].mask))
