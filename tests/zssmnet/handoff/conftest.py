"""Weights and cases for the tests of the next step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from zssmnet.config import NetworkConfig, PretrainConfig, TrainingConfig
from zssmnet.mnet import MNet
from zssmnet.registry.lineage import CaseData
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage, sha256_of
from zssmnet.storage.records import Input, Output, publish_record
from zssmnet.training.checkpoint import EpochResult

CHANNELS = (2, 3, 4, 5, 6)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far so on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pretrained() -> MNet:
    torch.manual_seed(1)  # not the seed of exported heads
    return MNet(6, 3, CHANNELS)


@pytest.fixture
def model(tmp_path: Path, pretrained: MNet) -> Path:
    """A file as pre-training writes it."""
    path = tmp_path / "ssl_mnet_zonal.model"
    torch.save({"epoch": 3, "state_dict": pretrained.state_dict(), "optimizer_state_dict": {}}, path)
    return path


def with_record(
    model: Path,
    merge: str = "sum",
    ids: Sequence[str] = tuple(f"7777{i}_1" for i in range(4)),
    scaling: str = "maximum",
) -> None:
    """Publish a record of a file of weights."""
    names = (f"bat_12_s_32x40x8_{subset}.npy" for subset in range(6))
    record = PretrainedModel(
        method=1,
        inputs=tuple(Input(name=name, size=1, version="1", sha256="0") for name in names),
        outputs=(Output(key=model.name, size=model.stat().st_size, sha256=sha256_of(model)),),
        run_id="0123456789ab",
        parameters=PretrainConfig(
            network=NetworkConfig(channels=CHANNELS, merge=merge), training=TrainingConfig(optimizer="adamw")
        ),
        versions={"torch": "2.13.0"},
        best_epoch=1,
        best_validation_loss=0.01234,
        metrics={"explained_variance": 0.5},
        history=(EpochResult(1, 0.02, 0.01234, 0.1),),
        data=tuple(CaseData(case_id, subset, "0") for case_id, subset in zip(ids, (0, 0, 1, 5), strict=False)),
        spacing_mm=(1.0, 1.0, 3.0),
        intensity_scaling=scaling,
    )
    publish_record(LocalStorage(model.parent), model.name, record)


def write_case(folder: Path, case_id: str, grade: int = 0, size: int = 24, seed: int = 0) -> None:
    """Write a case of noise: `imagesTr`, `zones`, `lesions`. A lesion of an ISUP grade above 0 is dark on ADC."""
    rng = np.random.default_rng(seed)
    shape = (8, size, size)
    zones, lesion = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    zones[2:6, 6:-6, 6:-6] = 2
    zones[2:6, size // 2 : -6, 6:-6] = 1
    lesion[3:5, size // 2 : size // 2 + 4, 8:12] = grade
    images = [rng.uniform(0, 900, shape), rng.uniform(800, 4000, shape), rng.uniform(0, 90, shape)]
    images[1][lesion > 0] = rng.uniform(200, 500, int((lesion > 0).sum()))
    volumes = {f"imagesTr/{case_id}_{i:04d}": image.astype(np.float32) for i, image in enumerate(images)}
    for name, values in (volumes | {f"zones/{case_id}": zones, f"lesions/{case_id}": lesion}).items():
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((0.5, 0.5, 3.0))
        image.SetOrigin((-20.0, 5.0, 7.0))
        file = folder / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(file))
