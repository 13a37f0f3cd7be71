"""From DICOM files and masks to weights, by two commands."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.phantoms import QUICK_SETTINGS
from tests.reliability.command import zssmnet
from zssmnet.data.image_io import read_image, write_image
from zssmnet.data.splits import VALIDATION_SUBSET, stable_subset
from zssmnet.phantom import GridSpec, zonal_mask

pytestmark = [pytest.mark.integration, pytest.mark.long]
REAL, OTHER = "11373_1001396", "90004_9000218"
"""ProstateX-0000 with its mask; ProstateX-0218, which has none: a drawn one stands in."""
IDS = f"patient_id,study,case_id\nProstateX-0000,,{REAL}\nProstateX-0218,,{OTHER}\n"


def test_dicom_files_and_masks_become_weights(shared: Path, tmp_path: Path) -> None:
    assert {stable_subset(case_id) == VALIDATION_SUBSET for case_id in (REAL, OTHER)} == {True, False}
    (tmp_path / "ids.csv").write_text(IDS)
    archive, masks, root = (tmp_path / name for name in ("archive", "masks", "root"))
    words = ["--dicom_path", shared / "data" / "dicom", "--output", archive, "--ids", tmp_path / "ids.csv"]
    imported = zssmnet("import-dicom", *words)
    assert (imported.status, imported.out.startswith("2 cases imported, 0 left out: ")) == (0, True)

    masks.mkdir()
    (masks / f"{REAL}.nii.gz").symlink_to(shared / "data" / "zonal_masks" / f"{REAL}.nii.gz")
    t2w = read_image(archive / OTHER.partition("_")[0] / f"{OTHER}_t2w.mha")
    grid = GridSpec(t2w.GetSize(), t2w.GetSpacing(), t2w.GetOrigin(), t2w.GetDirection())
    write_image(zonal_mask(grid, np.random.default_rng(0)), str(masks / f"{OTHER}.nii.gz"))

    (tmp_path / "quick.toml").write_text(
        QUICK_SETTINGS.replace("epochs = 2\nbatch_size = 4", "epochs = 1\nbatch_size = 2")
    )
    words = [
        "--images_path",
        archive,
        "--zonal_mask_path",
        masks,
        "--output",
        root,
        "--config",
        tmp_path / "quick.toml",
    ]
    ended = zssmnet("run", *words, "--strict", "--max-warnings", "1")  # a drawn mask does not fit its image
    assert ended.status == 0, ended
    weights = torch.load(root / "SSL/pretrained_weights/ssl_mnet_zonal.model", weights_only=True)
    assert weights["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in weights["state_dict"].values())
    written = [file for folder in (archive, root) for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 20
    for secret in ("ProstateX", "20110707", "20110218", "1.3.6.1.4.1.14519"):  # ids, dates, UIDs
        assert not [file for file in written if secret.encode() in file.read_bytes() or secret in file.name]
        assert secret not in imported.out + imported.err + ended.out + ended.err
