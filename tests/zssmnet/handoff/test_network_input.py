from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from zssmnet.config import CubesConfig, PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.errors import CaseError, ConfigError, InputError
from zssmnet.handoff.network_input import network_input
from zssmnet.preparation.cubes import cut_subset, open_cubes
from zssmnet.preparation.prepare import prepared_keys, publish_prepared
from zssmnet.storage import LocalStorage

from .conftest import write_case


def files(folder: Path, case_id: str = "a") -> tuple[list[Path], Path]:
    return [folder / f"imagesTr/{case_id}_{i:04d}.nii.gz" for i in range(3)], folder / f"zones/{case_id}.nii.gz"


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_channels_are_scaled_as_in_pre_training_and_zones_are_one_hot(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    images, mask = files(tmp_path)
    x = network_input(images, mask)
    assert (x.dtype, x.shape) == (torch.float32, (6, 8, 24, 24))
    t2w, adc, dwi, zones = (read(file) for file in (*images, mask))
    for channel, image in ((0, t2w), (2, dwi)):
        expected = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(x[channel], expected, atol=1e-6)
    np.testing.assert_allclose(x[1], np.clip(adc, 0, 3000) / 3000, atol=1e-6)
    assert [int(x[3 + zone].sum()) for zone in range(3)] == [int((zones == zone).sum()) for zone in range(3)]
    assert torch.equal(x[3:].argmax(0), torch.from_numpy(zones.astype(np.int64)))


def test_a_raw_case_prepared_on_the_way_is_the_prepared_case_and_its_cubes_are_cut_from_it(tmp_path: Path) -> None:
    write_case(tmp_path, "a", size=96)
    archive, zones, data = (LocalStorage(tmp_path / name) for name in ("imagesTr", "zones", "data"))
    config = PreparationConfig(margin_mm=5.0)
    publish_prepared(take_inventory(archive, zones).cases[0], 0, archive, zones, data, config)
    *images, mask = (data.folder / key for key in prepared_keys("a", 0))
    x = network_input(images, mask)
    assert torch.equal(network_input(*files(tmp_path), config), x)
    cut = CubesConfig(cubes_per_case=1, size=(16, 16, 4), dtype="float32")
    record, _ = cut_subset(0, data, LocalStorage(tmp_path / "cubes"), cut)
    (start,) = record.cases[0].starts
    cube_ZYX = open_cubes(tmp_path / "cubes" / record.outputs[0].key)[0, 0].transpose(2, 1, 0)
    window = tuple(slice(low, low + size) for low, size in zip(start[::-1], (4, 16, 16), strict=True))
    np.testing.assert_array_equal(x[0][window], cube_ZYX)


def test_files_of_pi_cai_s_archive_are_taken_onto_t2w_s_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path, "a")
    images, mask = files(tmp_path)
    names = [tmp_path / f"a_{name}.mha" for name in ("t2w", "adc", "hbv")]
    for source, name in zip(images, names, strict=True):
        image = sitk.ReadImage(str(source))
        sitk.WriteImage(image if name == names[0] else image[1:], str(name))
    x = network_input(names, mask)
    assert torch.equal(x[[0, 3, 4, 5]], network_input(images, mask)[[0, 3, 4, 5]])
    torch.testing.assert_close(x[1, :, :, 1:], network_input(images, mask)[1, :, :, 1:], atol=1e-4, rtol=0)
    assert not x[1, :, :, 0].any()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(network_input([f"~/{name.name}" for name in names], "~/zones/a.nii.gz"), x)


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    images, mask = files(tmp_path)
    with pytest.raises(InputError, match="2 images: name those of T2W, ADC and DWI"):
        network_input(images[:2], mask)
    with pytest.raises(ConfigError, match="intensity_scaling = 'percentiles': choose one of maximum, percentile"):
        network_input(iter(images), mask, intensity_scaling="percentiles")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give a PreparationConfig, not a CubesConfig"):
        network_input(images, mask, CubesConfig())  # type: ignore[arg-type]
    images[1].unlink()
    with pytest.raises(CaseError, match=r"case a: .*a_0001\.nii\.gz: missing"):
        network_input(images, mask)
