"""The page "From DICOM to weights": its commands, on phantoms, with networks as small as they can be."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from flows import cli
from tests.phantoms import QUICK_SETTINGS, SMALL_GRIDS, small_archive
from tests.test_docs import ROOT, blocks
from tests.zssmnet.data.dicom_files import ADC, DWI, T2W, series
from tests.zssmnet.zones.test_stages import small_scale as small_scale
from zssmnet.data.examination import onto_grid
from zssmnet.data.image_io import array_of, read_image, write_image
from zssmnet.phantom import phantom_case

pytestmark = [pytest.mark.integration, pytest.mark.long]
CASES = 6


def commands() -> list[list[str]]:
    lines = "\n".join(blocks(ROOT / "docs/dicom-to-weights.md", "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line))]


def write_dicom(folder: Path, number: int) -> tuple[np.ndarray, sitk.Image]:
    """A study of a phantom, all images on T2W's grid; its T2W's voxels and its mask."""
    case = phantom_case(f"{number}_1", grids=SMALL_GRIDS[:1])
    (width, height), (x, y, z) = case.t2w.GetSize()[:2], case.t2w.GetSpacing()
    shared: dict[str, Any] = {
        "Rows": height,
        "Columns": width,
        "PixelSpacing": [y, x],
        "SliceThickness": z,
        "PatientID": f"patient {number}",
        "StudyInstanceUID": f"1.2.3.{number}",
    }
    for kind, fields, image in (
        (4, T2W, case.t2w),
        (7, ADC, case.adc),
        (8, DWI | {"DiffusionBValue": 1400.0}, case.dwi),
    ):
        values = np.clip(array_of(on := onto_grid(image, case.t2w)), 0, 65535).astype(np.uint16)
        del on
        positions = [z * index for index in range(len(values))]
        own: dict[str, Any] = {**shared, **fields, "SeriesInstanceUID": f"1.2.3.{number}.{kind}"}
        series(folder / str(number), kind, values, positions, **own)
        if kind == 4:
            voxels = values
    return voxels, case.mask


def test_the_commands_of_the_page_lead_from_dicom_files_to_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    studies = [write_dicom(tmp_path / "export", number) for number in range(CASES)]
    images, masks = small_archive(tmp_path / "made", 6)
    (tmp_path / "labelled").mkdir()
    images.rename(tmp_path / "labelled/images")
    masks.rename(tmp_path / "labelled/masks")
    (tmp_path / "quick.toml").write_text(QUICK_SETTINGS)
    seen = []
    for program, *words in commands():
        if program == "openssl":
            assert (shutil.which("openssl"), words[:2]) != (None, [])
            (tmp_path / "import.key").write_text("0f" * 32)
            continue
        seen.append(words[0])
        if words[0] == "run":
            _correct(tmp_path / "archive", tmp_path / "root/SSL/zones", studies)
            words += ["--config", "quick.toml"]
        elif words[0] in ("train-zones", "segment-zones"):
            words += ["--device", "cpu"]
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code in (None, 0), words
    assert seen == ["import-dicom", "train-zones", "segment-zones", "run"]
    content = torch.load(tmp_path / "root/SSL/pretrained_weights/ssl_mnet_zonal.model", weights_only=True)
    assert content["epoch"] >= 1
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "--output", "root"])
    assert ended.value.code in (None, 0)


def _correct(archive: Path, zones: Path, studies: list[tuple[np.ndarray, sitk.Image]]) -> None:
    """What a person does who looks at masks of networks that have hardly learnt: the true ones are put there."""
    for file in archive.rglob("*_t2w.mha"):
        t2w = read_image(file)
        (mask,) = [mask for voxels, mask in studies if np.array_equal(voxels, array_of(t2w))]
        labels = sitk.GetImageFromArray(array_of(mask))
        labels.CopyInformation(t2w)
        write_image(labels, zones / f"{file.name.removesuffix('_t2w.mha')}.nii.gz")
