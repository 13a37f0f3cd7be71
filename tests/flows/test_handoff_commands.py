"""The commands of the next step, with `~` for the home in every path."""

import itertools
import json
import os
import pty
import sys
from pathlib import Path

import pytest

from flows import cli
from tests.zssmnet.handoff.conftest import CHANNELS, with_record, write_case
from zssmnet.data.image_io import read_image
from zssmnet.handoff.load import load_pretrained
from zssmnet.mnet import MNet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.save({"state_dict": MNet(6, 3, CHANNELS).state_dict()}, tmp_path / "a.model")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code in (None, 0), err
    return out + err


def test_a_data_set_with_the_folds_of_a_splits_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        write_case(home / "archive", f"{number}_1", grade=number % 3, seed=number)
    (home / "splits.json").write_text(json.dumps([{"train": [], "val": [f"{fold}_1"]} for fold in range(5)]))
    said = run(
        capsys,
        *("nnunet-dataset", "--images-path", "~/archive/imagesTr", "--zonal-mask-path", "~/archive/zones"),
        *("--lesion-path", "~/archive/lesions", "--splits-path", "~/splits.json", "--output", "~/raw"),
        *("--dataset", "7", "--name", "cases"),
    )
    folder = home / "raw" / "Dataset007_cases"
    assert f"5 cases, 3 with a lesion, 0 left out: {folder}" in said
    assert len(list((folder / "imagesTr").iterdir())) == 30
    splits = json.loads((folder / "splits_final.json").read_text())
    assert [fold["val"] for fold in splits] == [[f"{number}_1"] for number in range(5)]


def test_a_data_set_is_prepared_as_the_cubes_of_the_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(home / "archive", "1_1", grade=3)
    weights = (home / "a.model").rename(home / "ssl_mnet_zonal.model")
    archive = ("nnunet-dataset", "--images-path", "~/archive/imagesTr", "--zonal-mask-path", "~/archive/zones")
    words = (*archive, "--lesion-path", "~/archive/lesions", "--output", "~/raw", "--model", str(weights))
    assert "ssl_mnet_zonal.model: no record of its cubes; cases are prepared as published" in run(capsys, *words)
    with_record(weights, scaling="percentile")
    run(capsys, *words)
    noted = json.loads((home / "raw/Dataset501_csPCa/dataset.json").read_text())["zssmnet"]
    assert (noted["preparation"]["spacing_mm"], noted["intensity_scaling"]) == ([1.0, 1.0, 3.0], "percentile")


def test_new_cases_are_laid_out_as_the_data_set_was(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(home / "archive", "1_1", grade=3)
    write_case(home / "new", "2_1", seed=5)
    archive = ("--images-path", "~/archive/imagesTr", "--zonal-mask-path", "~/archive/zones", "--output", "~/raw")
    new = ("nnunet-dataset", "--images-path", "~/new/imagesTr", "--zonal-mask-path", "~/new/zones", "--output", "~/raw")
    for wrong in (new, (*new, "--predict", "--lesion-path", "~/new/lesions")):
        assert "give --lesion_path, the labels to train with, or --predict" in refused(capsys, *wrong)
    assert "no data set there" in refused(capsys, *new, "--predict")
    run(capsys, "nnunet-dataset", *archive, "--lesion-path", "~/archive/lesions", "--volume", "native")
    folder = home / "raw" / "Dataset501_csPCa"
    before = (folder / "dataset.json").read_bytes()
    assert f"1 cases to predict, 0 left out: {folder / 'imagesTs'}" in run(capsys, *new, "--predict")
    laid_out = sorted(file.name for file in (folder / "imagesTs").iterdir())
    assert laid_out == [f"2_1_{number:04d}.nii.gz" for number in range(6)]
    assert read_image(folder / "imagesTs" / laid_out[0]).GetSize() == (24, 24, 8)  # native, as the data set
    assert (folder / "dataset.json").read_bytes() == before
    run(capsys, "nnunet-dataset", *archive, "--lesion-path", "~/archive/lesions", "--volume", "native")
    assert sorted(file.name for file in (folder / "imagesTs").iterdir()) == laid_out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--to", "nnunet-v2", "--classes", "2"), "336 of 343 tensors loaded from"),
        (("--to", "nnunet-v1"), "the published segmentation network will take 336 of its 343 tensors, no head"),
    ],
)
def test_an_export_reports_its_tensors(
    home: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    found = run(capsys, "export", "--model", "~/a.model", "--output", "~/out/b.pth", *flags)
    assert said in found
    assert "7 left out (outputs.0.weight" in found
    assert load_pretrained("~/out/b.pth", num_classes=2).channels == CHANNELS
    assert (home / "out" / "b.pth").is_file()


def test_a_package_with_the_probes_verdict(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = {"verdict": "a: no", "verdicts": [{"weights": "a", "sentence": "No gain."}], "test_cases": ["77777_1"]}
    (home / "probe.json").write_text(json.dumps(probe))
    run(capsys, "package", "--model", "~/a.model", "--output", "~/package", "--probe", "~/probe.json")
    card = (home / "package" / "README.md").read_text()
    assert "- verdict: a: no\n- No gain.\n" in card
    assert "77777" not in card
    assert load_pretrained("~/package", num_classes=2).channels == CHANNELS


def test_a_terminal_sees_how_many_cases_are_done(home: Path) -> None:
    write_case(home / "archive", "1_1")
    write_case(home / "archive", "2_1")
    zssmnet = Path(sys.executable).with_name("zssmnet")
    paths = (home / "archive" / name for name in ("imagesTr", "zones", "lesions"))
    flags = zip(("--images-path", "--zonal-mask-path", "--lesion-path"), map(str, paths), strict=True)
    command = [str(zssmnet), "nnunet-dataset", *itertools.chain.from_iterable(flags), "--output", str(home / "raw")]
    shown = bytearray()

    def read(terminal: int) -> bytes:
        found = os.read(terminal, 1024)
        shown.extend(found)
        return found

    assert pty.spawn(command, read) == 0
    assert b"\r1 cases\r2 cases\r" in shown
    assert b"2 cases, 0 with a lesion, 0 left out" in shown
