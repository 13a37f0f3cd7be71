"""The real examination, and phantoms built on the 17 other real masks with their own grids, by the command line."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from flows import cli
from tests.phantoms import QUICK_SETTINGS
from tests.reliability.command import zssmnet
from zssmnet.data.image_io import read_image
from zssmnet.phantom import draw_case, write_case

pytestmark = pytest.mark.integration
REAL = "11373_1001396"


@pytest.fixture(scope="module")
def archive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images (nnU-Net raw) and masks of all 18 cases."""
    images, masks = tmp_path_factory.mktemp("archive") / "nnunet_raw", shared / "data" / "zonal_masks"
    shutil.copytree(shared / "data" / "nnunet_raw" / "imagesTr", images / "imagesTr", copy_function=shutil.copyfile)
    for file in sorted(masks.glob("*.nii.gz")):
        case_id = file.name.removesuffix(".nii.gz")
        if case_id != REAL:
            seed = int.from_bytes(hashlib.sha256(case_id.encode()).digest())
            write_case(images.parent, draw_case(case_id, read_image(file), np.random.default_rng(seed)))
    return images, masks


def test_the_real_examination_is_prepared_as_published(
    shared: Path, golden: Path, tmp_path: Path, prefect_api: str
) -> None:
    """Its images alone lie there: the other masks are of cases without images, and are left out."""
    words = ["--images_path", shared / "data" / "nnunet_raw", "--zonal_mask_path", shared / "data" / "zonal_masks"]
    assert zssmnet("prepare", *words, "--output_path", tmp_path).status == 0
    assert_as_published(tmp_path, golden)


@pytest.mark.long
def test_run_on_eighteen_real_grids(
    archive: tuple[Path, Path], golden: Path, tmp_path: Path, prefect_api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images, masks = archive
    settings = tmp_path / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    with pytest.raises(SystemExit) as exit:
        cli.main(
            [
                "run",
                *("--images_path", str(images), "--zonal_mask_path", str(masks)),
                *("--output", str(tmp_path / "root"), "--config", str(settings), "--strict"),
            ]
        )
    assert not exit.value.code
    assert "18 prepared, 0 up to date, 0 left out" in capsys.readouterr().out

    data = tmp_path / "root" / "SSL" / "data"
    for file in data.glob("subset*/*.nii.gz"):
        assert np.allclose(sitk.ReadImage(str(file)).GetSpacing(), (0.5, 0.5, 3.0), rtol=0.04), file
    assert_as_published(data, golden)
    cubes = [np.load(file, mmap_mode="r") for file in (tmp_path / "root").rglob("bat_2_s_64x64x16_?.npy")]
    assert sum(len(file) for file in cubes) == 36


def assert_as_published(data: Path, golden: Path) -> None:
    """The real T2W is the published program's."""
    (prepared,) = data.glob(f"subset*/{REAL}_0000.nii.gz")
    expected = np.load(golden / f"prep_{REAL}.npz")["0000"]
    value_range = json.loads((golden / f"prep_{REAL}.json").read_text())["0000"]["max"]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(prepared))).reshape(-1)[::61]
    np.testing.assert_allclose(found, expected, atol=1e-5 * value_range)
