"""No warning, and no refusal, where nothing is wrong: real examinations and masks, phantoms on real masks' grids."""

from pathlib import Path

import numpy as np
import pytest

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import ArchiveFormat, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.image_io import read_image
from zssmnet.data.zonal_mask import with_whole_labels, without_stray_parts, zone_warning
from zssmnet.phantom import draw_case, write_case
from zssmnet.preparation.prepare import prepare_volumes
from zssmnet.storage import LocalStorage

CONFIG = PreparationConfig(stray_mask_parts="refuse")


def warnings(images: Path, masks: Path) -> dict[str, tuple[str, ...]]:
    """Warnings about each case of an archive."""
    read, masks_read = LocalStorage(images), LocalStorage(masks)
    return {
        case.id: prepare_volumes(case.id, read_examination(case, read, masks_read), CONFIG).warnings
        for case in take_inventory(read, masks_read).cases
    }


@pytest.mark.parametrize(
    ("images", "masks", "case_id"),
    [
        ("nnunet_raw", "zonal_masks", "11373_1001396"),
        ("picai_mha", "zonal_masks", "11373_1001396"),
        ("lesion_case/imagesTr", "lesion_case/zonal_masks", "10503_1000512"),
    ],
)
def test_real_examinations(shared: Path, images: str, masks: str, case_id: str):
    assert warnings(shared / "data" / images, shared / "data" / masks) == {case_id: ()}


def test_real_masks(shared: Path):
    files = sorted((shared / "data").rglob("zonal_masks/*.nii.gz"))
    assert len(files) == 19
    for file in files:
        mask = with_whole_labels(read_image(file))
        assert without_stray_parts(mask, "refuse") == (mask, None)
        assert zone_warning(mask) is None


@pytest.mark.long
@pytest.mark.parametrize(("layout", "images"), [("nnunet", "nnunet_raw"), ("picai", "picai_mha")])
def test_phantoms_on_real_grids(shared: Path, tmp_path: Path, layout: ArchiveFormat, images: str):
    masks = shared / "data" / "zonal_masks"
    for number, file in enumerate(sorted(masks.glob("*.nii.gz"))):
        case = draw_case(file.name.removesuffix(".nii.gz"), read_image(file), np.random.default_rng(number))
        write_case(tmp_path / case.id, case, layout)
        assert warnings(tmp_path / case.id / images, masks) == {case.id: ()}
