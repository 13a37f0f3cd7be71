"""Weights and cases for the tests of the next step."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from zssmnet.mnet import MNet

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
