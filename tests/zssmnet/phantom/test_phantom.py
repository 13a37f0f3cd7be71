from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from zssmnet.data.archive import take_inventory
from zssmnet.data.examination import onto_grid, read_examination
from zssmnet.errors import InputError
from zssmnet.phantom import (
    DEMO_GRIDS,
    PERIPHERAL_ZONE,
    TRANSITION_ZONE,
    GridSpec,
    PhantomCase,
    case_ids,
    draw_case,
    oblique_axial,
    phantom_around,
    phantom_case,
    write_archive,
    write_case,
    zonal_mask,
)
from zssmnet.phantom.grid import SmoothField
from zssmnet.probe.figures import average_precision
from zssmnet.storage import LocalStorage

STRAIGHT = GridSpec.centred((128, 120, 17), (0.9, 0.95, 3.0), (3.0, -20.0, 11.0))
OBLIQUE = GridSpec.centred((120, 128, 18), (0.95, 0.9, 3.0), (-5.0, 14.0, -8.0), degrees=25.0)
GRIDS = {"straight": STRAIGHT, "oblique": OBLIQUE}
SEEDS = (0, 1, 2)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    return all(
        np.allclose(getattr(one, get)(), getattr(other, get)(), atol=1e-6)
        for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
    )


def patient_positions(image: sitk.Image, where_zyx: np.ndarray) -> np.ndarray:
    """Positions (n, 3) of voxels in the patient, x, y, z in mm, from SimpleITK's own geometry."""
    indices_xyz = np.argwhere(where_zyx)[:, ::-1].tolist()
    return np.array([image.TransformIndexToPhysicalPoint(index) for index in indices_xyz])


@cache
def drawn(grid: str, seed: int) -> PhantomCase:
    rng = np.random.default_rng(seed)
    return draw_case("any", zonal_mask(GRIDS[grid], rng), rng)


def files_below(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class TestGrid:
    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
    def test_agrees_with_simpleitk(self, grid: GridSpec) -> None:
        image = grid.image(np.zeros(grid.size_xyz[::-1], np.uint8))
        assert GridSpec.of(image) == replace(grid, direction=image.GetDirection())
        index = (5, 40, 7)
        np.testing.assert_allclose(grid.position(index), image.TransformIndexToPhysicalPoint(index), atol=1e-9)

        centre = np.array([1.0, -2.0, 3.0])
        along = [axis[i] for axis, i in zip(grid.axes_mm(tuple(centre)), index, strict=True)]
        rotated = np.reshape(grid.direction, (3, 3)) @ along
        np.testing.assert_allclose(rotated + centre, grid.position(index), atol=1e-4)

    def test_centred_puts_the_middle_where_asked(self) -> None:
        middle = (np.array(OBLIQUE.size_xyz) - 1) / 2
        np.testing.assert_allclose(OBLIQUE.position(middle), (-5.0, 14.0, -8.0), atol=1e-9)

    def test_oblique_axial_is_a_rotation_with_the_posterior_edge_lower(self) -> None:
        direction = np.reshape(oblique_axial(25.0), (3, 3))
        np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(direction) == pytest.approx(1)
        _, back, up = direction[:, 1]
        assert back > 0.9
        assert up < -0.4

    def test_demo_has_several_grids_some_of_them_oblique(self) -> None:
        assert len({grid.spacing_mm for grid in DEMO_GRIDS}) >= 4
        assert any(grid.direction != DEMO_GRIDS[0].direction for grid in DEMO_GRIDS)


class TestSmoothField:
    def test_is_a_function_of_position_not_of_the_grid(self) -> None:
        axes = tuple(np.linspace(-20, 20, n, dtype=np.float32) for n in (41, 21, 9))
        field = SmoothField.sample(np.random.default_rng(0), axes, (6.0, 6.0, 6.0))
        whole, part = field.at(axes), field.at((axes[0][4::3], axes[1][2:7], axes[2][5:]))
        np.testing.assert_allclose(part, whole[5:, 2:7, 4::3], atol=1e-5)

    def test_has_mean_0_and_variance_1(self) -> None:
        axes = tuple(np.linspace(0, 300, 60, dtype=np.float32) for _ in range(3))
        values = SmoothField.sample(np.random.default_rng(1), axes, (10.0, 10.0, 10.0)).at(axes)
        assert values.mean() == pytest.approx(0, abs=0.05)
        assert values.std() == pytest.approx(1, abs=0.05)


class TestZonalMask:
    @pytest.mark.parametrize("grid", [*DEMO_GRIDS[:3], STRAIGHT, OBLIQUE], ids=lambda grid: str(grid.spacing_mm))
    @pytest.mark.parametrize("seed", SEEDS[:2])
    def test_is_a_prostate(self, grid: GridSpec, seed: int) -> None:
        mask = zonal_mask(grid, np.random.default_rng(seed))
        zones = array(mask)
        assert zones.dtype == np.uint8
        assert set(np.unique(zones)) == {0, PERIPHERAL_ZONE, TRANSITION_ZONE}
        assert GridSpec.of(mask).size_xyz == grid.size_xyz

        (columns,) = np.nonzero(zones.any(axis=(0, 1)))
        assert 40 <= np.ptp(columns) * grid.spacing_mm[0] <= 66
        border = zones.copy()
        border[1:-1, 1:-1, 1:-1] = 0
        assert not border.any(), "the gland touches the volume's border"
        assert ndimage.label(zones > 0)[1] == 1, "the gland is in pieces"

        peripheral, transition = (
            patient_positions(mask, zones == label).mean(axis=0) for label in (PERIPHERAL_ZONE, TRANSITION_ZONE)
        )
        assert peripheral[1] - transition[1] > 3, "the peripheral zone lies behind: further along +y of LPS"

    @pytest.mark.parametrize("seed", SEEDS)
    def test_peripheral_zone_is_a_horseshoe_that_opens_to_the_front(self, seed: int) -> None:
        zones = array(zonal_mask(STRAIGHT, np.random.default_rng(seed)))
        slices = np.flatnonzero(zones.any(axis=(1, 2)))
        middle = zones[slices[len(slices) // 2]]
        rows, columns = np.nonzero(middle == TRANSITION_ZONE)
        row, column = int(rows.mean()), int(columns.mean())
        beside, through = middle[row], middle[:, column]
        assert (beside[:column] == PERIPHERAL_ZONE).any()
        assert (beside[column:] == PERIPHERAL_ZONE).any()
        assert (through[row:] == PERIPHERAL_ZONE).any()
        assert not (through[:row] == PERIPHERAL_ZONE).any()


class TestExamination:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("grid", GRIDS)
    def test_signals_are_ordered_as_anatomy_says(self, grid: str, seed: int) -> None:
        images = drawn(grid, seed)
        mask = images.mask
        zones, lesions = array(mask), array(images.lesions) == 1
        assert lesions.any()
        assert (zones[lesions] > 0).all(), "lesions lie in the gland"
        t2w, adc, dwi = (array(onto_grid(image, mask)) for image in (images.t2w, images.adc, images.dwi))

        def means(image: np.ndarray) -> tuple[float, float, float]:
            parts = (lesions, (zones == TRANSITION_ZONE) & ~lesions, (zones == PERIPHERAL_ZONE) & ~lesions)
            lesion, transition, peripheral = (float(image[part].mean()) for part in parts)
            return lesion, transition, peripheral

        lesion, transition, peripheral = means(adc)
        assert lesion + 150 < transition < peripheral - 150
        assert lesion > 600
        assert peripheral < 2000
        lesion, transition, peripheral = means(t2w)
        assert lesion < transition
        assert 1.5 * transition < peripheral
        lesion, transition, peripheral = means(dwi)
        assert 1.5 * max(transition, peripheral) < lesion

    @pytest.mark.parametrize("grid", GRIDS)
    def test_bladder_lies_above_and_before_the_gland(self, grid: str) -> None:
        images = drawn(grid, 0)
        mask = images.mask
        urine = (array(images.adc) > 2500) & (ndimage.uniform_filter(array(images.adc).astype(float), 3) > 2500)
        bladder = np.median(patient_positions(images.adc, urine), axis=0)
        gland = patient_positions(mask, array(mask) > 0).mean(axis=0)
        assert bladder[2] > gland[2] + 10
        assert bladder[1] < gland[1]
        high_b = array(images.dwi)
        assert high_b[urine].mean() < high_b[array(onto_grid(mask, images.adc)) > 0].mean()

    @pytest.mark.parametrize("grid", GRIDS)
    def test_grids_are_those_of_a_scanner(self, grid: str) -> None:
        images = drawn(grid, 0)
        mask = images.mask
        assert same_grid(images.t2w, mask)
        assert same_grid(images.adc, images.dwi)
        assert images.adc.GetSpacing()[0] >= 1.5 > mask.GetSpacing()[0]
        assert images.adc.GetOrigin() != mask.GetOrigin()
        assert array(images.adc).min() == 0
        assert array(images.adc).max() <= 3500

    def test_pixel_types_vary(self) -> None:
        tiny = GridSpec.centred((64, 60, 16), (1.7, 1.8, 3.2), (0.0, 0.0, 0.0))
        cases = [phantom_case(case_id, grids=[tiny]) for case_id in case_ids(8)]
        assert {case.t2w.GetPixelID() for case in cases} == {sitk.sitkUInt16, sitk.sitkInt16}
        assert {case.adc.GetPixelID() for case in cases} == {sitk.sitkUInt16, sitk.sitkFloat32}
        assert {case.dwi.GetPixelID() for case in cases} == {sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkFloat32}

    @pytest.mark.parametrize("label", [PERIPHERAL_ZONE, TRANSITION_ZONE])
    def test_refuses_a_mask_without_one_of_the_zones(self, label: int) -> None:
        mask = drawn("straight", 0).mask
        with pytest.raises(InputError, match=f"label {label} is missing"):
            draw_case("any", sitk.ChangeLabel(mask, {label: 0}), np.random.default_rng(0))

    def test_fits_a_real_mask(self, shared: Path) -> None:
        mask = sitk.ReadImage(str(shared / "data" / "zonal_masks" / "10023_1000023.nii.gz"))
        images = draw_case("any", mask, np.random.default_rng(0))
        assert same_grid(images.t2w, mask)
        zones, adc = array(mask), array(onto_grid(images.adc, mask))
        assert adc[zones == TRANSITION_ZONE].mean() < adc[zones == PERIPHERAL_ZONE].mean()


class TestArchives:
    def test_same_seed_same_bytes_and_a_case_does_not_depend_on_the_others(self, tmp_path: Path) -> None:
        few, more, other_seed = (tmp_path / name for name in ("few", "more", "other_seed"))
        write_archive(few, 1, seed=4, grids=[STRAIGHT, OBLIQUE])
        write_archive(more, ["another", *case_ids(1)], seed=4, grids=[STRAIGHT, OBLIQUE])
        write_archive(other_seed, 1, seed=5, grids=[STRAIGHT, OBLIQUE])
        one, two, three = files_below(few), files_below(more), files_below(other_seed)
        assert len(one) == 4
        assert len(two) == 8
        assert one == {name: two[name] for name in one}
        assert one.keys() == three.keys()
        assert all(one[name] != three[name] for name in one)

    def test_subtle_lesions_are_kept_and_no_rule_on_single_voxels_finds_them(self, tmp_path: Path) -> None:
        """The rule "DWI - ADC within the gland" has an average precision of .9 on plain lesions, of .5 at most here."""
        found = {}
        for subtle in (False, True):
            each = []
            for number in range(4):
                case = phantom_case(f"c{number}", grids=[STRAIGHT], subtle=subtle)
                adc, dwi = (array(onto_grid(image, case.mask)).astype(float) for image in (case.adc, case.dwi))
                gland, lesions = array(case.mask) > 0, array(case.lesions) > 0
                assert not (lesions & ~gland).any()
                if lesions.any():
                    each.append(average_precision((dwi / dwi.max() - adc / 3000)[gland], lesions[gland]))
            assert len(each) in ((2, 3) if subtle else (4,))  # subtle ones are not in every case
            found[subtle] = np.mean(each)
        assert found[True] <= 0.5 < found[False] - 0.2
        write_archive(tmp_path, 2, grids=[STRAIGHT], subtle=True)
        assert any(array(sitk.ReadImage(str(kept))).any() for kept in (tmp_path / "lesions").iterdir())

    def test_a_case_around_a_given_mask_depends_on_its_id_alone(self) -> None:
        mask = phantom_case("c1", grids=[STRAIGHT]).mask
        one, again, other = (phantom_around(name, mask, subtle=True) for name in ("a_1", "a_1", "b_1"))
        assert one.mask is mask
        assert (array(one.adc) == array(again.adc)).all()
        assert array(one.adc).shape != array(other.adc).shape or (array(one.adc) != array(other.adc)).any()

    def test_both_layouts_hold_the_same_cases(self, tmp_path: Path) -> None:
        found = {}
        for layout in ("nnunet", "picai"):
            images, masks = map(
                LocalStorage, write_archive(tmp_path / layout, 2, seed=1, grids=[OBLIQUE], layout=layout)
            )
            inventory = take_inventory(images, masks)
            assert not inventory.faults
            assert [case.id for case in inventory.cases] == case_ids(2)
            assert {case.format for case in inventory.cases} == {layout}
            found[layout] = [read_examination(case, images, masks) for case in inventory.cases]
        for nnunet, picai in zip(found["nnunet"], found["picai"], strict=True):
            for one, other in zip((*nnunet.images, nnunet.mask), (*picai.images, picai.mask), strict=True):
                assert same_grid(one, other)
                assert one.GetPixelID() == other.GetPixelID()
                np.testing.assert_allclose(array(one), array(other), atol=1)  # headers in float32 move voxels a bit

    def test_picai_layout_keeps_each_image_on_its_own_grid(self, tmp_path: Path) -> None:
        images, masks = write_archive(tmp_path, ["7_12"], grids=[STRAIGHT], layout="picai")
        t2w, adc, hbv = (sitk.ReadImage(str(images / "7" / f"7_12_{name}.mha")) for name in ("t2w", "adc", "hbv"))
        assert same_grid(t2w, sitk.ReadImage(str(masks / "7_12.nii.gz")))
        assert same_grid(adc, hbv)
        assert adc.GetSpacing()[0] > 1.5 * t2w.GetSpacing()[0]

    def test_writers_take_given_cases(self, tmp_path: Path) -> None:
        case = phantom_case("any-id", grids=[STRAIGHT])
        write_case(tmp_path, case)
        written = sitk.ReadImage(str(tmp_path / "nnunet_raw" / "imagesTr" / "any-id_0000.nii.gz"))
        np.testing.assert_array_equal(array(written), array(case.t2w))
        written = sitk.ReadImage(str(tmp_path / "zonal_masks" / "any-id.nii.gz"))
        np.testing.assert_array_equal(array(written), array(case.mask))
        with pytest.raises(InputError, match=r"any-id.*<patient>_<study>"):
            write_case(tmp_path, case, "picai")


class TestGivenLesions:
    def lesions(self) -> sitk.Image:
        """A ball at the gland's back, half of it outside."""
        zones = array(drawn("oblique", 0).mask)
        z, _, x = np.argwhere(zones == PERIPHERAL_ZONE).mean(axis=0).astype(int)
        back = np.flatnonzero(zones[z, :, x]).max()
        ball = np.indices(zones.shape) - np.array([z, back, x])[:, None, None, None]
        image = sitk.GetImageFromArray(
            (np.square(ball * [[[[3]]], [[[1]]], [[[1]]]]).sum(axis=0) < 64).astype(np.uint8)
        )
        image.CopyInformation(drawn("oblique", 0).mask)
        return image

    @pytest.mark.parametrize("subtle", [False, True])
    def test_lie_where_they_are_given_within_the_gland(self, subtle: bool) -> None:
        given = self.lesions()
        case = phantom_around("a", drawn("oblique", 0).mask, subtle, given)
        expected = (array(given) > 0) & (array(drawn("oblique", 0).mask) > 0)
        assert 0 < expected.sum() < array(given).sum()
        assert np.array_equal(array(case.lesions) > 0, expected)
        zones, adc = array(drawn("oblique", 0).mask), array(onto_grid(case.adc, case.mask))
        inside = ndimage.binary_erosion(expected, iterations=2)
        assert np.median(adc[inside]) < 0.75 * np.median(adc[(zones == PERIPHERAL_ZONE) & ~expected])

    def test_an_empty_mask_is_a_healthy_case(self) -> None:
        assert not array(
            phantom_around("a", drawn("oblique", 0).mask, lesions=drawn("oblique", 0).mask * 0).lesions
        ).any()

    def test_of_another_size_are_refused(self) -> None:
        with pytest.raises(InputError, match="lesion mask: has the size"):
            phantom_around("a", drawn("oblique", 0).mask, lesions=self.lesions()[:-1, :, :])

    def test_of_real_shapes(self, shared: Path) -> None:
        masks = (shared / "data" / "lesion_case" / name for name in ("zonal_masks", "cspca_masks"))
        zones, lesions = (sitk.ReadImage(str(folder / "10503_1000512.nii.gz")) for folder in masks)
        case = phantom_around("real", zones, True, lesions, 0.25)
        expected = (array(lesions) > 0) & (array(zones) > 0)
        assert expected.sum() > 500
        assert np.array_equal(array(case.lesions) > 0, expected)


class TestContrast:
    def medians(self, spread: float, count: int = 5) -> np.ndarray:
        """T2W of both zones and of the lesion in the peripheral one, of several cases around one mask."""
        mask, found = drawn("oblique", 0).mask, []
        zones, lesions = array(mask), TestGivenLesions().lesions()
        for number in range(count):
            case = phantom_around(f"{number}", mask, True, lesions, spread)
            inside = (array(case.lesions) > 0) & (zones == PERIPHERAL_ZONE)
            parts = (zones == PERIPHERAL_ZONE) & ~inside, zones == TRANSITION_ZONE, inside
            found.append([np.median(array(case.t2w)[part]) for part in parts])
        return np.array(found)

    def test_differs_from_case_to_case_and_lesions_follow_their_zone(self) -> None:
        alike, different = np.log(self.medians(0.0)), np.log(self.medians(0.3))
        assert (alike.std(axis=0) < 0.2).all()
        assert (different.std(axis=0) > 0.2).all()
        assert different.std(axis=0).mean() > 0.25
        zone, _, lesion = different.T
        assert (lesion < zone).all()  # in its own case; across cases
        assert np.exp(lesion).max() > np.exp(zone).min()
        assert np.corrcoef(lesion, zone)[0, 1] > 0.5

    def test_archives_can_have_it(self, tmp_path: Path) -> None:
        write_archive(tmp_path, ["1_1"], grids=[STRAIGHT], subtle=True, contrast_spread=0.25)
        written = sitk.ReadImage(str(tmp_path / "nnunet_raw" / "imagesTr" / "1_1_0000.nii.gz"))
        assert np.array_equal(array(written), array(phantom_case("1_1", 0, [STRAIGHT], True, 0.25).t2w))
        assert not np.array_equal(array(written), array(phantom_case("1_1", 0, [STRAIGHT], True).t2w))
