import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.interruption import leave_half_written
from zssmnet.config import NnunetDatasetConfig, PreparationConfig
from zssmnet.errors import ArchiveError, InputError
from zssmnet.handoff.network_input import network_input
from zssmnet.handoff.nnunet_dataset import NnunetDataset, dataset_folder, write_nnunet_dataset
from zssmnet.storage import LocalStorage

from .conftest import write_case

CASES = {
    f"{patient}_{study}": grade for patient, study, grade in ((1, 1, 0), (1, 2, 3), (2, 1, 5), (3, 1, 2), (4, 1, 0))
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for seed, (case_id, grade) in enumerate(CASES.items()):
        write_case(tmp_path, case_id, grade, seed=seed)
    return tmp_path


def written(archive: Path, **settings) -> NnunetDataset:
    config = NnunetDatasetConfig(**settings)
    storages = (LocalStorage(archive / name) for name in ("imagesTr", "zones", "lesions"))
    return write_nnunet_dataset(*storages, dataset_folder(archive / "raw", config), config)


def predicted(archive: Path, **settings) -> NnunetDataset:
    config, images, zones = (
        NnunetDatasetConfig(**settings),
        LocalStorage(archive / "imagesTr"),
        LocalStorage(archive / "zones"),
    )
    return write_nnunet_dataset(images, zones, None, dataset_folder(archive / "raw", config), config)


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_every_case_has_the_six_channels_of_the_network_and_a_label_on_the_same_grid(archive: Path) -> None:
    done = written(archive, volume="native")
    assert done.folder == archive / "raw" / "Dataset501_csPCa"
    assert (done.cases, done.with_lesion, done.left_out) == (tuple(sorted(CASES)), 3, ())
    for case_id, grade in CASES.items():
        images = [archive / f"imagesTr/{case_id}_{i:04d}.nii.gz" for i in range(3)]
        expected = network_input(images, archive / f"zones/{case_id}.nii.gz")
        label = sitk.ReadImage(str(done.folder / f"labelsTr/{case_id}.nii.gz"))
        for number in range(6):
            image = sitk.ReadImage(str(done.folder / f"imagesTr/{case_id}_{number:04d}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected[number])
            assert (image.GetOrigin(), image.GetSpacing()) == (label.GetOrigin(), label.GetSpacing())
        assert sorted(np.unique(sitk.GetArrayFromImage(label))) == ([0, 1] if grade else [0])


def test_nnunet_is_asked_to_leave_intensities_alone(archive: Path) -> None:
    description = json.loads((written(archive).folder / "dataset.json").read_text())
    assert description["channel_names"] == {str(i): "noNorm" for i in range(6)}
    assert description["labels"] == {"background": 0, "csPCa": 1}
    assert (description["numTraining"], description["file_ending"]) == (5, ".nii.gz")


def test_isup_grades_are_classes(archive: Path) -> None:
    done = written(archive, labels="isup")
    labels = json.loads((done.folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "ISUP 2": 1, "ISUP 3": 2, "ISUP 4": 3, "ISUP 5": 4}
    highest = {case_id: int(read(done.folder / f"labelsTr/{case_id}.nii.gz").max()) for case_id in CASES}
    assert highest == {case_id: max(grade - 1, 0) for case_id, grade in CASES.items()}


@pytest.mark.parametrize("volume", ["prepared", "cropped"])
def test_cropped_around_the_gland_the_lesion_keeps_its_place_in_the_patient(archive: Path, volume: str) -> None:
    done = written(archive, volume=volume, preparation={"margin_mm": 3.0})
    whole = sitk.ReadImage(str(archive / "lesions/2_1.nii.gz")) > 0
    part = sitk.ReadImage(str(done.folder / "labelsTr/2_1.nii.gz"))
    assert part.GetSize() == (24 - 12 + 12, 24, 6)  # the gland is 12 x 12 x 4, the margin 6 x 6 x 1
    back = sitk.Resample(part, whole, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(whole))


def test_cropped_keeps_t2w_s_grid_and_prepared_does_not(archive: Path) -> None:
    for volume, spacing in (("cropped", (0.5, 0.5, 3.0)), ("prepared", (1.0, 1.0, 3.0))):
        done = written(archive, volume=volume, preparation={"spacing_mm": (1.0, 1.0, 3.0)})
        for name in ("imagesTr/2_1_0000", "labelsTr/2_1"):
            assert sitk.ReadImage(str(done.folder / f"{name}.nii.gz")).GetSpacing() == spacing


@pytest.mark.parametrize("folders", [("imagesTr", "zones", "lesions"), ("lesions",), ("imagesTr", "zones")], ids=str)
def test_the_order_of_the_axes_in_the_files_does_not_matter(archive: Path, folders: tuple[str, ...]) -> None:
    expected = [read(file) for file in sorted(written(archive, name="usual").folder.rglob("*.nii.gz"))]
    for file in (file for folder in folders for file in (archive / folder).iterdir()):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS"), str(file))
    done = written(archive, name="other", number=502)
    assert done.left_out == ()
    found = [read(file) for file in sorted(done.folder.rglob("*.nii.gz"))]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_folds_partition_the_cases_by_patient(archive: Path) -> None:
    splits = json.loads((written(archive).folder / "splits_final.json").read_text())
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(CASES)
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(CASES)
        assert not {case.split("_")[0] for case in fold["train"]} & {case.split("_")[0] for case in fold["val"]}


def test_folds_of_a_splits_file_are_kept_and_decide_on_the_cases(archive: Path) -> None:
    vals = [["1_1"], ["1_2"], ["2_1"], ["3_1"], ["not_there"]]
    (archive / "splits.json").write_text(json.dumps([{"train": [], "val": val} for val in vals]))
    done = written(archive, splits_path=str(archive / "splits.json"))
    splits = json.loads((done.folder / "splits_final.json").read_text())
    assert [fold["val"] for fold in splits] == [["1_1"], ["1_2"], ["2_1"], ["3_1"], []]
    assert done.cases == ("1_1", "1_2", "2_1", "3_1")


def test_a_case_that_cannot_be_used_is_left_out_with_the_reason(archive: Path) -> None:
    (archive / "lesions/1_1.nii.gz").unlink()
    small = sitk.ReadImage(str(archive / "lesions/2_1.nii.gz"))[:, :, 1:]
    sitk.WriteImage(small, str(archive / "lesions/2_1.nii.gz"))
    done = written(archive)
    assert done.cases == ("1_2", "3_1", "4_1")
    reasons = {fault.case_id: fault.reason for fault in done.left_out}
    assert reasons["1_1"] == "missing: the case has no lesion label"
    assert reasons["2_1"].startswith("has the size") and "but T2W has" in reasons["2_1"]


def test_values_that_are_no_grades_are_refused_as_isup_and_taken_as_binary(archive: Path) -> None:
    image = sitk.ReadImage(str(archive / "lesions/1_2.nii.gz"))
    sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8), str(archive / "lesions/1_2.nii.gz"))  # as AI labels are
    (fault,) = written(archive, labels="isup").left_out
    assert "has the values 1, which are no ISUP grades" in fault.reason
    done = written(archive)
    assert (done.left_out, done.with_lesion) == ((), 3)


def test_no_label_at_all_is_an_error(archive: Path) -> None:
    for file in (archive / "lesions").iterdir():
        file.unlink()
    with pytest.raises(ArchiveError, match=r"no case can be used; the first: case 1_1: .*no lesion label"):
        written(archive)


def test_a_case_that_is_no_longer_in_the_data_set_goes(archive: Path) -> None:
    folder = written(archive).folder
    (archive / "lesions/2_1.nii.gz").unlink()
    left = leave_half_written(folder)
    assert "2_1" not in written(archive).cases
    assert not left.exists()
    assert not [file for file in folder.rglob("*.nii.gz") if file.name.startswith("2_1")]
    assert len(list((folder / "imagesTr").iterdir())) == 6 * (len(CASES) - 1)


def test_files_of_other_cases_without_a_data_set_are_refused_and_kept(archive: Path) -> None:
    other = archive / "raw/Dataset501_csPCa/imagesTr/other_0000.nii.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(ArchiveError, match=r"holds 1 files of other cases \(imagesTr/other_0000.nii.gz\)"):
        written(archive)
    assert other.read_bytes() == b"mine"
    assert not (other.parents[1] / "dataset.json").exists()


def test_a_file_that_somebody_else_put_into_our_data_set_is_kept(archive: Path) -> None:
    folder = written(archive).folder
    added, corrected = folder / "labelsTr/mine.nii.gz", folder / "labelsTr/2_1.nii.gz"
    added.write_bytes(b"mine")
    with pytest.raises(ArchiveError, match=r"holds 1 files of other cases \(labelsTr/mine.nii.gz\)"):
        written(archive)
    assert added.read_bytes() == b"mine"
    added.rename(corrected)
    with pytest.raises(InputError, match=r"labelsTr/2_1.nii.gz: was not made by this command"):
        written(archive)
    assert corrected.read_bytes() == b"mine"
    assert read(written(archive, force=True).folder / "labelsTr/2_1.nii.gz").any()


def test_a_file_of_somebody_else_among_the_new_cases_is_kept(archive: Path) -> None:
    written(archive)
    mine = predicted(archive).folder / "1_1_0003.nii.gz"
    predicted(archive)  # replaces its own
    mine.write_bytes(b"mine")
    (mine.parent / "mine_0000.nii.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"imagesTs/1_1_0003.nii.gz: was not made by this command"):
        predicted(archive)
    assert mine.read_bytes() == b"mine"
    predicted(archive, force=True)
    assert mine.read_bytes() != b"mine"
    assert (mine.parent / "mine_0000.nii.gz").read_bytes() == b"mine"


def test_a_number_in_use_and_a_folder_in_the_archive_are_refused_before_any_work(archive: Path) -> None:
    other = archive / "raw/Dataset501_theirs"
    other.mkdir(parents=True)
    with pytest.raises(ArchiveError, match=r"has Dataset501 already \(Dataset501_theirs\).*name another --dataset"):
        written(archive)
    assert list((archive / "raw").iterdir()) == [other]
    whole, lesions = LocalStorage(archive), LocalStorage(archive / "lesions")
    with pytest.raises(InputError, match=r"lies in the archive .*; name an --output beside it"):
        write_nnunet_dataset(whole, LocalStorage(archive / "zones"), lesions, archive / "raw2/Dataset501_csPCa")
    assert not (archive / "raw2").exists()


def test_intensities_are_scaled_as_asked_and_new_ones_as_those_of_training(archive: Path) -> None:
    folder = written(archive, volume="native", intensity_scaling="percentile").folder
    files = [archive / f"imagesTr/1_1_{i:04d}.nii.gz" for i in range(3)]
    expected = network_input(files, archive / "zones/1_1.nii.gz", intensity_scaling="percentile")
    predicted(archive)
    for part in ("imagesTr", "imagesTs"):
        np.testing.assert_array_equal(read(folder / part / "1_1_0000.nii.gz"), expected[0])


@pytest.mark.parametrize("content", ['{"labels": {"background": 0}}', '{"name": "zssmnet"}', '{"zssmnet": 1}', "{"])
def test_the_data_set_of_another_program_is_refused_before_any_work(archive: Path, content: str) -> None:
    foreign = archive / "raw/Dataset501_csPCa/dataset.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(content)
    with pytest.raises(ArchiveError, match="a data set of another program; name another --dataset or --name"):
        written(archive)
    with pytest.raises(ArchiveError, match="a data set of another program; name another --dataset or --name"):
        predicted(archive)
    assert list(foreign.parent.iterdir()) == [foreign]


@pytest.mark.parametrize("noted", [{"volume": "native"}, {"volume": "x", "preparation": {}}, {"preparation": 1}])
def test_cases_to_predict_need_to_know_how_those_of_training_were_prepared(archive: Path, noted: object) -> None:
    file = written(archive).folder / "dataset.json"
    file.write_text(json.dumps({"zssmnet": noted}))
    with pytest.raises(ArchiveError, match=r"dataset.json: its entry 'zssmnet' does not say how cases were prepared"):
        predicted(archive)


def test_a_zonal_mask_is_no_lesion_label(archive: Path) -> None:
    (archive / "lesions/1_2.nii.gz").write_bytes((archive / "zones/1_2.nii.gz").read_bytes())
    done = written(archive)
    (fault,) = done.left_out
    assert str(fault).startswith(f"case 1_2: {archive}/lesions/1_2.nii.gz: marks the whole gland, voxel by voxel")


def relabelled(archive: Path, values: np.ndarray) -> None:
    """Write values, on T2W's grid, as the label of case 1_2."""
    file = archive / "lesions/1_2.nii.gz"
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(sitk.ReadImage(str(file)))
    sitk.WriteImage(image, str(file))


def blob(archive: Path) -> np.ndarray:
    """A smooth map from 0 to 1 that is highest in the lesion of case 1_2."""
    lesion = sitk.ReadImage(str(archive / "lesions/1_2.nii.gz")) > 0
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.Cast(lesion, sitk.sitkFloat32), 1.0))
    return (smooth / smooth.max()).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda map_: map_, "a lesion label has whole numbers from 0; threshold a probability map first"),
        (lambda map_: np.where(map_ > 0.5, 0.97, 0).astype(np.float32), "has the values 0.97:"),
        (lambda map_: np.where(map_ > 0.5, 1, -1).astype(np.float32), "has the values -1:"),
        (lambda map_: np.where(map_ > 0.5, 1, np.nan).astype(np.float32), "not finite (NaN"),
        (lambda map_: np.rint(map_ * 255).astype(np.uint8), "different values, as a scaled probability map"),
        (lambda map_: np.rint(map_ * 100).astype(np.int16), "different values, as a scaled probability map"),
        (lambda map_: np.log(np.maximum(map_, 1e-3) / 1.1).astype(np.float64), "has the values -"),
    ],
    ids=["probabilities", "one value", "-1", "NaN", "8 bits", "per cent", "logits"],
)
def test_a_probability_map_is_no_lesion_label(archive: Path, change, words: str) -> None:
    relabelled(archive, change(blob(archive)))
    (fault,) = written(archive).left_out
    assert fault.case_id == "1_2"
    assert words in fault.reason
    assert "\n" not in fault.reason


def test_a_lesion_outside_the_gland_is_refused(archive: Path) -> None:
    values = np.zeros_like(blob(archive))
    values[2:5, :5, :5] = 1
    relabelled(archive, values)
    (fault,) = written(archive).left_out
    assert fault.reason.startswith("lies outside the gland altogether")


def test_a_lesion_of_which_nothing_is_left_is_no_healthy_case(archive: Path) -> None:
    lesion = np.zeros_like(blob(archive))
    lesion[3, 15, 11] = 1
    relabelled(archive, lesion)
    preparation = PreparationConfig(spacing_mm=(2.7, 2.7, 4.0))
    fault = next(one for one in written(archive, preparation=preparation).left_out if one.case_id == "1_2")
    assert str(fault).startswith("case 1_2: 1_2.nii.gz: nothing of the lesion, 1 voxels, is left")


@pytest.mark.parametrize(
    "change", [lambda one: one * 255.0, lambda one: one + 2e-4, lambda one: one * 3, lambda one: one]
)
def test_whole_labels_of_any_type_are_lesions(archive: Path, change) -> None:
    lesion = blob(archive) > 0.5
    relabelled(archive, change(lesion.astype(np.float32)))
    done = written(archive, volume="native")
    assert done.left_out == ()
    np.testing.assert_array_equal(read(done.folder / "labelsTr/1_2.nii.gz"), lesion)


@pytest.mark.parametrize(
    "change",
    [
        lambda zones: sitk.BinaryErode(zones > 0, (1, 1, 0), sitk.sitkBox),
        lambda zones: sitk.BinaryDilate(zones > 0, (1, 1, 0), sitk.sitkBox),
        lambda zones: sitk.BinaryErode(zones > 0, (0, 0, 1), sitk.sitkBox) if zones.GetSize()[2] > 12 else zones > 0,
        lambda zones: zones == 1,
        lambda zones: zones == 2,
        lambda zones: zones * 3,
        lambda zones: zones >= 0,
        lambda zones: sitk.Cast(sitk.CyclicShift(zones > 0, (6, 0, 0)), sitk.sitkUInt8),
        lambda zones: sitk.BinaryErode(zones > 0, (2, 1, 0), sitk.sitkBox),
    ],
    ids=[
        "eroded",
        "dilated",
        "fewer slices",
        "zone 1",
        "zone 2",
        "other numbers",
        "everything",
        "moved",
        "eroded twice",
    ],
)
def test_a_mask_of_the_gland_or_a_zone_is_no_lesion_label(archive: Path, change) -> None:
    mask = change(sitk.ReadImage(str(archive / "zones/1_2.nii.gz")))
    sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(archive / "lesions/1_2.nii.gz"))
    (fault,) = written(archive).left_out
    assert "name the folder of lesion labels" in fault.reason
