"""Cases from an archive into the probe's boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.zssmnet.probe.examples import read_arms, save_weights, small_probe
from zssmnet.config import PROBE_SCALES, ProbeScale
from zssmnet.data.image_io import array_of, read_image
from zssmnet.errors import ArchiveError
from zssmnet.phantom import GridSpec, write_archive
from zssmnet.probe.labels import LabelledCase, LabelledCases, find_labelled_cases
from zssmnet.probe.run import compare_arms
from zssmnet.storage import LocalStorage, open_storage

GRID = GridSpec.centred((128, 128, 17), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, 2, grids=[GRID], subtle=True)
    return folder


def found(archive: Path, task: str, preset: str = "cpu") -> LabelledCases:
    images, masks, lesions = (open_storage(archive / name) for name in ("nnunet_raw", "zonal_masks", "lesions"))
    return find_labelled_cases(images, masks, lesions if task == "lesions" else None, PROBE_SCALES[preset])


def read(archive: Path, task: str, preset: str = "cpu") -> list[LabelledCase]:
    cases = found(archive, task, preset)
    return [cases.read(case_id) for case_id in cases.ids]


@pytest.fixture(autouse=True)
def box_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = ProbeScale(spacing_mm=(1.0, 1.0, 3.0), window=(32, 32, 8), windows=(2, 2, 2), batch_size=2)
    monkeypatch.setitem(PROBE_SCALES, "cpu", scale)


def test_lesions_lie_where_they_lay_and_all_channels_are_given(archive: Path) -> None:
    for case in read(archive, "lesions"):
        assert case.input_CZYX.shape == (6, 16, 64, 64)
        lesions = read_image(archive / "lesions" / f"{case.id}.nii.gz")
        assert (
            int(case.label_ZYX.sum()) == array_of(lesions).sum()
        )  # the grid is the target's, and the box holds the gland
        assert torch.equal(case.input_CZYX[3:].sum(dim=0), torch.ones(16, 64, 64))
        assert torch.equal(case.gland_ZYX, case.input_CZYX[3] == 0)
        adc = case.input_CZYX[1]
        assert adc[case.label_ZYX == 1].mean() < adc[case.gland_ZYX & (case.label_ZYX == 0)].mean()


def test_zones_are_the_label_and_no_input(archive: Path) -> None:
    for case in read(archive, "zones"):
        assert not case.input_CZYX[3:].any()
        mask = read_image(archive / "zonal_masks" / f"{case.id}.nii.gz")
        counts = [int((case.label_ZYX == zone).sum()) for zone in (1, 2)]
        assert counts == pytest.approx([(array_of(mask) == zone).sum() for zone in (1, 2)], rel=0.02)
        rows = np.nonzero(case.gland_ZYX.any(dim=2).any(dim=0).numpy())[0]
        assert abs(rows[0] + rows[-1] - 63) <= 1  # the gland is in the middle


def test_cases_are_scaled_as_the_weights_were(archive: Path) -> None:
    images, masks = (open_storage(archive / name) for name in ("nnunet_raw", "zonal_masks"))
    cases = find_labelled_cases(images, masks, None, PROBE_SCALES["cpu"], "percentile")
    for plain in read(archive, "zones"):
        case = cases.read(plain.id)
        same = [torch.equal(one, other) for one, other in zip(case.input_CZYX[:3], plain.input_CZYX[:3], strict=True)]
        assert same == [False, True, False]  # ADC has a unit


@pytest.mark.parametrize(("preset", "shape"), [("coarse", (12, 24, 24)), ("gpu", (16, 128, 128))])
def test_every_preset_sees_the_same_box_of_64_mm(archive: Path, preset: str, shape: tuple[int, int, int]) -> None:
    cases = read(archive, "zones", preset)
    sizes = [int(case.gland_ZYX.sum()) for case in cases]
    expected = [int(case.gland_ZYX.sum()) for case in read(archive, "zones")]
    assert {tuple(case.label_ZYX.shape) for case in cases} == {shape}
    assert np.divide(sizes, expected) == pytest.approx(np.prod(shape) / (16 * 64**2), rel=0.05)


@pytest.mark.long
def test_the_preset_gpu_goes_through_where_there_is_none(archive: Path, tmp_path: Path) -> None:
    config = {"labelled": 1, "steps": 1, "test_cases": 1, "tuning_cases": 0, "device": "auto", "preset": "gpu"}
    settings = small_probe(task="zones", **config)
    (weights,) = read_arms(save_weights(tmp_path / "a.model"))
    result = compare_arms(found(archive, "zones", "gpu"), [weights], LocalStorage(tmp_path / "out"), settings)
    assert result.config.scale.box == (128, 128, 16)
    assert all(0 <= trial.mean("zones") <= 1 for trial in result.trials)


def test_a_case_without_a_lesion_map_is_left_out(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = sorted((archive / "lesions").iterdir())[0]
    (tmp_path / "one" / first.name).symlink_to(first)
    images, masks = open_storage(archive / "nnunet_raw"), open_storage(archive / "zonal_masks")
    scale = PROBE_SCALES["cpu"]
    (case_id,) = find_labelled_cases(images, masks, open_storage(tmp_path / "one"), scale).ids
    assert first.name == f"{case_id}.nii.gz"
    (tmp_path / "none").mkdir()
    with pytest.raises(ArchiveError, match=r"no case can be used; the first: .*the case has no lesion label"):
        find_labelled_cases(images, masks, open_storage(tmp_path / "none"), scale)
