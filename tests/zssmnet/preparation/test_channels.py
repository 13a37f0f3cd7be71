"""Channels that are no image, one image twice, without values in the gland, beside it, or in another's place."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from zssmnet.config import PreparationConfig
from zssmnet.data.examination import Examination, onto_grid
from zssmnet.data.image_io import image_like
from zssmnet.errors import CaseError
from zssmnet.phantom import GridSpec, phantom_case
from zssmnet.preparation.channels import check_channels
from zssmnet.preparation.gland_place import information_by_move
from zssmnet.preparation.prepare import prepare_volumes

GRIDS = (GridSpec.centred((112, 112, 17), (0.8, 0.8, 3.3), (0.0, 0.0, 0.0)),)
CASES = ("10001_1000001", "10002_1000002", "10003_1000003")
NAMES = ("t2w", "adc", "dwi")
Change = Callable[[np.ndarray], np.ndarray]


@cache
def examination(case_id: str = CASES[0]) -> Examination:
    case = phantom_case(case_id, grids=GRIDS)
    adc, dwi = (onto_grid(image, case.t2w) for image in (case.adc, case.dwi))
    return Examination(case.t2w, adc, dwi, case.mask, ("t2w", "adc", "dwi", "mask"))


def array(name: str, case_id: str = CASES[0]) -> np.ndarray:
    return sitk.GetArrayFromImage(getattr(examination(case_id), name)).astype(np.float64)


def with_arrays(case_id: str = CASES[0], **arrays: np.ndarray) -> Examination:
    case = examination(case_id)
    images = {name: image_like(np.ascontiguousarray(one), case.t2w) for name, one in arrays.items()}
    return replace(case, **images)


def refusal(case: Examination) -> CaseError:
    with pytest.raises(CaseError) as caught:
        check_channels("case", case)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("case_id", CASES)
def test_nothing_is_odd_about_a_phantom(case_id: str):
    assert check_channels(case_id, examination(case_id)) == []


COPIES: dict[str, Change] = {
    "as it is": lambda values: values,
    "scaled": lambda values: values * 3.7 + 100,
    "inverted": lambda values: values.max() - values,
    "8 bits": lambda values: np.clip(values / np.percentile(values, 99) * 255, 0, 255).astype(np.uint8),
    "logarithm": lambda values: np.log1p(np.maximum(values, 0)),
    "cut off": lambda values: np.minimum(values, np.percentile(values, 99.5)),
    "with noise": lambda values: values + np.random.default_rng(0).normal(0, values.std() / 50, values.shape),
}


@pytest.mark.parametrize("change", COPIES)
@pytest.mark.parametrize(("source", "target"), [("t2w", "adc"), ("t2w", "dwi"), ("adc", "dwi"), ("adc", "t2w")])
def test_one_image_in_two_channels_is_left_out(source: str, target: str, change: str):
    error = refusal(with_arrays(**{target: COPIES[change](array(source))}))
    assert "are one image" in error.reason
    assert all(name.upper() in error.reason for name in (source, target))


NO_IMAGES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "the mask": lambda values, zones: zones,
    "the mask, scaled": lambda values, zones: zones * 100.5,
    "two values": lambda values, zones: (values > values.mean()).astype(np.uint8),
    "one value": lambda values, zones: np.where(zones > 0, 7, values),
    "one slice": lambda values, zones: np.repeat(values[8][None], len(values), 0),
    "one slice, scaled": lambda values, zones: values[8] * np.linspace(1, 2, len(values))[:, None, None],
    "half of it 0": lambda values, zones: np.where(np.arange(values.shape[2]) > 55, 0, values),
    "zero in the upper half": lambda values, zones: np.where(np.arange(17)[:, None, None] > 8, 0, values),
    "masked out": lambda values, zones: np.where(zones == 2, -1024, values),
    "cut out": lambda values, zones: np.where(zones == 1, 0, values),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_is_left_out(kind: str, name: str):
    zones = sitk.GetArrayFromImage(examination().mask)
    error = refusal(with_arrays(**{name: NO_IMAGES[kind](array(name), zones)}))
    assert (error.file, error.reason[:3]) == (name, name.upper())


ODD: dict[str, Change] = {
    "a slice 0": lambda values: np.where(np.arange(17)[:, None, None] == 8, 0, values),
    "a slice constant": lambda values: np.where(np.arange(17)[:, None, None] == 9, 300, values),
    "a slice twice": lambda values: values[[0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11, 12, 13, 14, 15, 16]],
    "few values": lambda values: np.round(values / np.percentile(values, 99) * 7),
    "a square 0": lambda values: np.where(np.pad(np.ones((9, 16, 16)), ((4, 4), (48, 48), (48, 48))) > 0, 0, values),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ODD)
def test_less_of_it_is_a_warning(kind: str, name: str):
    found = check_channels("case", with_arrays(**{name: ODD[kind](array(name))}))
    assert any(one.startswith(name.upper()) for one in found)


@pytest.mark.parametrize("case_id", CASES)
@pytest.mark.parametrize("factor", [1, 0.01])
def test_swapped_t2w_and_dwi_are_a_warning(case_id: str, factor: float):
    case = with_arrays(case_id, t2w=array("dwi", case_id) * factor, dwi=array("t2w", case_id))
    (found, *_) = check_channels(case_id, case)
    assert "are T2W and DWI swapped" in found


@pytest.mark.parametrize("name", NAMES)
def test_an_inverted_image_is_a_warning(name: str):
    found = check_channels("case", with_arrays(**{name: array(name).max() - array(name)}))
    assert any("inverted" in one for one in found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("move", [(0, 0, 14), (0, 0, -20), (0, 20, 0), (0, -18, 0), (0, 12, 14), (3, 18, 0)])
def test_an_image_beside_the_gland_is_a_warning(name: str, move: tuple[int, int, int]):
    found = check_channels("case", with_arrays(**{name: np.roll(array(name), move, (0, 1, 2))}))
    assert any(one.startswith(f"the gland fits {name.upper()} better if it is moved by ") for one in found)


@pytest.mark.parametrize("case_id", CASES)
@pytest.mark.parametrize(("axis", "voxels"), [(2, 13), (2, -13), (1, 13), (1, -13), (2, 25), (2, -25)])
def test_a_mask_beside_the_gland_is_found_and_its_move(case_id: str, axis: int, voxels: int):
    mask = np.roll(sitk.GetArrayFromImage(examination(case_id).mask), voxels, axis)
    ((here, best, move, chance),) = information_by_move(
        image_like(mask, examination(case_id).mask), [examination(case_id).t2w]
    )
    assert best > max(1.25 * here, here + chance)
    if abs(voxels) == 13:  # 10 mm
        assert abs(move[axis] + 0.8 * voxels) < 4


@pytest.mark.parametrize("seed", range(3))
def test_noise_fits_as_badly_anywhere(seed: int):
    noise = np.random.default_rng(seed).normal(size=(17, 112, 112))
    ((here, best, _, chance),) = information_by_move(examination().mask, [image_like(noise, examination().t2w)])
    assert here < chance
    assert best < here + chance


@pytest.mark.parametrize("name", NAMES)
def test_an_image_of_noise_is_a_warning(name: str):
    noise = np.random.default_rng(0).normal(1000, 100, (17, 112, 112)).astype(np.float32)
    found = check_channels("case", with_arrays(**{name: noise}))
    assert f"{name.upper()} shows the gland no better than noise does" in "; ".join(found)


def test_preparation_reports_masks_and_channels():
    halved = np.where(np.arange(112) > 55, 0, sitk.GetArrayFromImage(examination().mask))
    case = replace(with_arrays(t2w=array("dwi"), dwi=array("t2w")), mask=image_like(halved, examination().mask))
    found = "; ".join(prepare_volumes("case", case, PreparationConfig()).warnings)
    assert "are T2W and DWI swapped" in found
    assert "is a part of it missing?" in found
