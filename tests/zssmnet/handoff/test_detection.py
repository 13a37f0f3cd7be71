"""Detection maps and figures with the real picai_eval."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from flows import cli
from zssmnet.errors import InputError

reason = "picai_eval is not installed here (pip install 'zssmnet[nnunet]')"
pytest.importorskip("picai_eval", reason=reason)
pytest.importorskip("report_guided_annotation", reason=reason)

from zssmnet.handoff.detection import detection_map, evaluate_detection  # noqa: E402

LESION = np.s_[3:6, 10:18, 10:18]


def write(folder: Path, case_id: str, probability_ZYX: np.ndarray, lesion_ZYX: np.ndarray) -> None:
    for name in ("predicted", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
    probabilities = np.stack([1 - probability_ZYX, probability_ZYX]).astype(np.float32)
    np.savez_compressed(folder / "predicted" / f"{case_id}.npz", probabilities=probabilities)
    image = sitk.GetImageFromArray(lesion_ZYX.astype(np.uint8))
    sitk.WriteImage(image, str(folder / "labelsTr" / f"{case_id}.nii.gz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases with a lesion and two without; one lesion is found, one is missed, one more is made up."""
    empty = np.zeros((8, 32, 32))
    lesion, found, made_up = empty.copy(), empty.copy(), empty.copy()
    lesion[LESION] = 1
    found[LESION] = 0.9
    made_up[2:5, 20:26, 20:26] = 0.3
    for case_id, probability, label in (
        ("1_1", found, lesion),
        ("2_1", empty, lesion),
        ("3_1", made_up, empty),
        ("4_1", empty, empty),
    ):
        write(tmp_path, case_id, probability, label)
    return tmp_path


def test_a_candidate_has_one_confidence_and_its_place(folder: Path) -> None:
    candidates = detection_map(folder / "predicted" / "1_1.npz")
    assert candidates.shape == (8, 32, 32)
    assert np.unique(candidates[LESION]) == pytest.approx([0.9])
    assert np.count_nonzero(candidates) == np.count_nonzero(candidates[LESION])


def test_figures_are_those_of_the_challenge(folder: Path) -> None:
    figures = evaluate_detection(folder / "predicted", folder / "labelsTr")
    assert (figures.num_cases, figures.num_lesions) == (4, 2)
    found = (figures.auroc, figures.AP, figures.score)
    # 0.9 and 0 against 0.3 and 0 are 2.5 of 4 pairs; one of two lesions is found, before the false one
    assert found == pytest.approx((0.625, 0.5, 0.5625))


def test_all_classes_of_lesions_count_as_csPCa(folder: Path) -> None:  # noqa: N802
    probabilities = np.zeros((5, 8, 32, 32), np.float32)
    probabilities[0] = 1
    probabilities[:, *LESION] = np.reshape([0.2, 0.1, 0.2, 0.3, 0.2], (5, 1, 1, 1))
    np.savez(folder / "isup.npz", probabilities=probabilities)
    assert detection_map(folder / "isup.npz").max() == pytest.approx(0.8)


def test_what_cannot_be_used_is_one_line(folder: Path) -> None:
    (folder / "predicted" / "1_1.npz").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"1_1.npz: no probabilities of nnUNetv2_predict --save_probabilities"):
        evaluate_detection(folder / "predicted", folder / "labelsTr")
    with pytest.raises(InputError, match=r"no <case>.npz; predict with --save_probabilities"):
        evaluate_detection(folder / "labelsTr", folder / "labelsTr")


@pytest.mark.parametrize(
    "change",
    [
        lambda found: np.where(found > 0.5, np.nan, found),
        lambda found: np.log(found + 0.01),
        lambda found: 2 * found,
        lambda found: found[1],
        lambda found: found[:1],
        lambda found: found[:, :0],
        lambda found: found[1, 0, 0, 0],
        lambda found: found.argmax(axis=0),
        lambda found: (255 * found).astype(np.uint8),
    ],
    ids=["NaN", "logits", "sum 2", "no classes", "one class", "empty", "one value", "classes", "8 bits"],
)
def test_only_probabilities_are_taken(folder: Path, change) -> None:
    file = folder / "predicted/1_1.npz"
    with np.load(file) as known:
        np.savez(file, probabilities=change(known["probabilities"]))
    with pytest.raises(InputError, match=r"1_1.npz: holds .* which are no probabilities \(class, z, y, x\)"):
        evaluate_detection(folder / "predicted", folder / "labelsTr")


@pytest.mark.parametrize("at", [70, 100, 200])
def test_a_damaged_prediction_is_one_line(folder: Path, at: int) -> None:
    file = folder / "predicted/1_1.npz"
    content = bytearray(file.read_bytes())
    content[at : at + 40] = (one ^ 0x5A for one in content[at : at + 40])
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"1_1.npz: no probabilities of nnUNetv2_predict"):
        detection_map(file)


@pytest.mark.parametrize("value", [0.7, -1])
def test_a_label_of_other_values_is_refused(folder: Path, value: float) -> None:
    label = np.zeros((8, 32, 32), np.float32)
    label[LESION] = value
    sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr/1_1.nii.gz"))
    with pytest.raises(InputError, match=rf"labelsTr/1_1.nii.gz: has the values {value}: a lesion label has whole"):
        evaluate_detection(folder / "predicted", folder / "labelsTr")


@pytest.mark.filterwarnings("ignore:No negative samples")
def test_without_a_case_that_has_no_lesion_there_is_no_auroc(folder: Path) -> None:
    for case_id in ("3_1", "4_1"):
        (folder / "predicted" / f"{case_id}.npz").unlink()
    figures = evaluate_detection(folder / "predicted", folder / "labelsTr")
    assert np.isnan(figures.auroc)
    found = (figures.AP, figures.num_lesions)
    assert found == pytest.approx((0.5, 2))


def test_the_command_reports_the_figures_and_what_does_not_fit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--predictions", str(folder / "predicted"), "--labels", str(folder / "labelsTr")]
    with pytest.raises(SystemExit):
        cli.main([*words, "--output", str(folder / "figures.json")])
    figures, expected = json.loads((folder / "figures.json").read_text()), evaluate_detection(*words[2::2])
    assert figures == {"cases": 4, "AP": pytest.approx(expected.AP), "AUROC": pytest.approx(expected.auroc)}
    assert f"4 cases: AP of lesions {expected.AP:.3f}, AUROC of cases {expected.auroc:.3f}" in capsys.readouterr().out
    (folder / "figures.json").write_text("mine")
    with pytest.raises(SystemExit):  # before the predictions are read
        cli.main(["evaluate", "--predictions", "none", *words[3:], "--output", str(folder / "figures.json")])
    assert "figures.json: was not made by this command" in capsys.readouterr().err
    write(folder, "9_1", np.zeros((8, 32, 32)), np.zeros((8, 30, 32)))
    with pytest.raises(InputError, match=r"9_1\.npz: has the shape \(8, 32, 32\).*\(8, 30, 32\)"):
        evaluate_detection(*words[2::2])
    (folder / "predicted/1_1.npz").rename(folder / "1_1.npz")
    (folder / "predicted/9_1.npz").rename(folder / "9_1.npz")
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "2 labels have no prediction and do not count" in capsys.readouterr().out
    (folder / "9_1.npz").rename(folder / "predicted/9_1.npz")
    (folder / "labelsTr/9_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"9_1\.nii\.gz: missing: this prediction has no csPCa label"):
        evaluate_detection(*words[2::2])
