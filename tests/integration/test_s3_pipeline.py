"""All stages with the archive and the working root on S3: the same files as on a local disk, bit for bit."""

import tomllib
from pathlib import Path

import pytest
import s3fs
import torch

from flows.pipeline import ssl_pretraining
from flows.settings import Settings
from tests.phantoms import QUICK_SETTINGS, small_archive
from zssmnet.storage import open_storage

pytestmark = pytest.mark.integration


def test_s3_gives_the_same_files_as_a_local_disk(tmp_path: Path, s3_root: str, prefect_api: str) -> None:
    settings = Settings.model_validate(tomllib.loads(QUICK_SETTINGS))
    images, masks = small_archive(tmp_path / "archive")
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.put(f"{tmp_path / 'archive'}/", f"{s3_root}/archive/", recursive=True)

    def run(images_path: str, zonal_mask_path: str, root: str) -> str:
        done = ssl_pretraining(
            images_path,
            zonal_mask_path,
            root,
            preparation=settings.preparation,
            cubes=settings.cubes,
            pretraining=settings.pretraining,
        )
        assert (done.preparation.prepared, done.preparation.left_out) == (6, {})
        return done.training.model

    run(str(images), str(masks), str(tmp_path / "root"))
    model = run(f"{s3_root}/archive/{images.name}", f"{s3_root}/archive/{masks.name}", f"{s3_root}/root")
    assert model == f"{s3_root}/root/SSL/pretrained_weights/ssl_mnet_zonal.model"

    local, remote = open_storage(tmp_path / "root"), open_storage(f"{s3_root}/root")
    names = {entry.key for entry in remote.list() if "tensorboard" not in entry.key}
    assert names == {entry.key for entry in local.list() if "tensorboard" not in entry.key}
    compared = [name for name in names if name.endswith((".nii.gz", ".npy", ".png"))]
    assert len(compared) == 6 * 4 + 6 + 6 + 2
    for name in compared:
        assert remote.read(name) == local.read(name), name
    weights = [
        torch.load(root.local("SSL/pretrained_weights/ssl_mnet_zonal.model"), weights_only=True)["state_dict"]
        for root in (local, remote)
    ]
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name

    again = ssl_pretraining(
        f"{s3_root}/archive/{images.name}",
        f"{s3_root}/archive/{masks.name}",
        f"{s3_root}/root",
        preparation=settings.preparation,
        cubes=settings.cubes,
        pretraining=settings.pretraining,
    )
    assert again.preparation.up_to_date == 6
    assert not again.training.is_new
