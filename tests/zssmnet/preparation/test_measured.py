"""ADC's unit and the cover of ADC and DWI, through the preparation of one case."""

from pathlib import Path

import numpy as np
import pytest

from tests.zssmnet.examinations import CASE, Archive, as_array, as_image, gland, noise, oblique
from zssmnet.config import PreparationConfig
from zssmnet.data.examination import read_examination
from zssmnet.errors import CaseError
from zssmnet.preparation.measured import in_common_unit
from zssmnet.preparation.prepare import PreparedVolumes, prepare_volumes

ADC = noise(1).astype(np.float64) * 2.5  # 0 to 2500 in 1e-6 mm2/s
STRAIGHT = oblique(0)


def prepared(archive: Archive, **settings: object) -> PreparedVolumes:
    config = PreparationConfig.model_validate({"margin_mm": 3.5} | settings)
    return prepare_volumes(CASE, read_examination(archive.case(), archive.images, archive.masks), config)


class TestUnit:
    @pytest.mark.parametrize("power", range(-6, 7))
    @pytest.mark.parametrize("share", [1, 0.6, 2])
    def test_another_power_of_ten_is_named(self, tmp_path: Path, power: int, share: float):
        archive = Archive(tmp_path)
        archive.add(adc=as_image((ADC * share * 10.0**power).astype(np.float32)))
        warnings = prepared(archive).warnings
        if power == 0:
            assert not warnings
        else:
            (warning,) = warnings
            assert "ADC's median in the gland is" in warning
            assert f"wrong by a factor of {10.0**power:g}; the setting convert_adc" in warning

    @pytest.mark.parametrize(
        ("power", "unit"), [(-6, "in mm2/s"), (-3, "in 1e-3 mm2/s"), (3, "in 1e-9 mm2/s"), (1, "in 1e-7 mm2/s")]
    )
    def test_the_unit_is_named(self, power: int, unit: str):
        adc = as_image((ADC * 10.0**power).astype(np.float32))
        _, warning = in_common_unit(adc, as_image(gland()), convert=False)
        assert warning is not None
        assert f"seems to be {unit}, wrong" in warning

    @pytest.mark.parametrize("power", [-6, -3, 1, 3])
    def test_converted_at_will(self, tmp_path: Path, power: int):
        usual, other = Archive(tmp_path / "usual"), Archive(tmp_path / "other")
        usual.add(adc=as_image(ADC.astype(np.float32)))
        other.add(adc=as_image((ADC * 10.0**power).astype(np.float32)))
        expected, found = (prepared(archive, convert_adc=True) for archive in (usual, other))
        np.testing.assert_allclose(as_array(found.images[1]), as_array(expected.images[1]), rtol=1e-4, atol=0.01)
        (warning,) = found.warnings
        assert f"and was multiplied by {10.0**-power:g}" in warning
        assert not expected.warnings

    @pytest.mark.parametrize("power", [-5, -4, -2, -1, 2, 4, 5])
    def test_a_power_of_no_unit_is_never_converted(self, tmp_path: Path, power: int):
        """An ADC of 8 bits, or another image."""
        archive = Archive(tmp_path)
        archive.add(adc=as_image((ADC * 10.0**power).astype(np.float32)))
        found, asked = (prepared(archive, convert_adc=convert) for convert in (False, True))
        assert np.array_equal(as_array(found.images[1]), as_array(asked.images[1]))
        assert found.warnings == asked.warnings
        assert "so it is no ADC map, or one that was scaled" in found.warnings[0]
        assert "seems to be in" not in found.warnings[0]

    def test_only_the_gland_counts(self, tmp_path: Path):
        archive = Archive(tmp_path)
        archive.add(adc=as_image(np.where(gland() > 0, ADC, ADC * 3).astype(np.float32)))
        assert not prepared(archive).warnings

    def test_zeros_do_not_count(self, tmp_path: Path):
        """In maps with a threshold of noise, or masked ones."""
        archive = Archive(tmp_path)
        z, y, x = np.indices(ADC.shape)
        archive.add(adc=as_image(np.where((x + y + z) % 3, 0, ADC + 100).astype(np.float32)))
        assert not prepared(archive).warnings

    def test_negative_values_are_no_adc(self, tmp_path: Path):
        archive = Archive(tmp_path)
        archive.add(adc=as_image((-ADC).astype(np.float32)))
        (warning,) = prepared(archive, convert_adc=True).warnings
        assert "it is no ADC map" in warning


class TestCoverPicai:
    """ADC or DWI on a grid of its own, that ends within the gland."""

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Archive:
        return Archive(tmp_path)

    def add(self, archive: Archive, which: int, slices: int, first: int = 0) -> None:
        """A case whose ADC (1) or DWI (2) has only some of the 8 slices; the gland lies in slices 3 to 5."""
        images = [as_image(noise(seed) + 100, direction=STRAIGHT) for seed in range(3)]
        images[which] = images[which][:, :, first : first + slices]
        archive.add_picai(CASE, images, as_image(gland(), direction=STRAIGHT))

    @pytest.mark.parametrize("which", [1, 2])
    @pytest.mark.parametrize(("first", "slices"), [(0, 4), (4, 4)])
    def test_a_large_part_of_the_gland_is_left_out(self, archive: Archive, which: int, first: int, slices: int):
        self.add(archive, which, slices, first)
        inside = np.zeros(gland().shape, bool)
        inside[first : first + slices] = True
        share = 1 - inside[gland() > 0].mean()
        with pytest.raises(CaseError) as caught:
            prepared(archive)
        assert caught.value.file == archive.images.where(archive.case().images[which])
        assert caught.value.reason == f"{('ADC', 'DWI')[which - 1]} does not cover {share:.1%} of the gland; " + (
            "there is no value there"
        )

    @pytest.mark.parametrize("which", [1, 2])
    def test_a_small_part_is_a_warning(self, archive: Archive, which: int):
        self.add(archive, which, 4)
        (gland_warning, *_) = prepared(archive, uncovered_gland=(0.01, 0.9)).warnings
        assert gland_warning.startswith(f"{('ADC', 'DWI')[which - 1]} does not cover ")
        assert gland_warning.endswith("of the gland: values there are 0")

    def test_a_part_of_the_margin_is_a_warning(self, archive: Archive):
        self.add(archive, 1, 6)
        (warning,) = prepared(archive, margin_mm=12.0, uncovered_region=(0.2, 0.75)).warnings
        assert warning == "ADC does not cover 25.0% of the region of interest: values there are 0"
        with pytest.raises(CaseError, match=r"ADC does not cover 25\.0% of the region of interest"):
            prepared(archive, margin_mm=12.0, uncovered_region=(0.1, 0.2))

    def test_the_whole_is_no_warning(self, archive: Archive):
        self.add(archive, 1, 8)
        assert not prepared(archive, margin_mm=12.0).warnings


class TestCoverNnunet:
    """An archive in which ADC and DWI were brought onto T2W's grid by others: zeros in whole rows and columns."""

    @pytest.mark.parametrize("which", [1, 2])
    @pytest.mark.parametrize("part", [np.s_[:4], np.s_[:, 10:], np.s_[:, :, :12]])
    def test_a_large_part_of_the_gland_is_left_out(self, tmp_path: Path, which: int, part):
        archive, images = Archive(tmp_path), [noise(seed) + 100 for seed in range(3)]
        images[which][part] = 0
        archive.add(CASE, *map(as_image, images))
        with pytest.raises(CaseError, match=r"does not cover .*% of the gland; there is no value there"):
            prepared(archive)

    def test_few_columns_are_a_warning(self, tmp_path: Path):
        archive, adc = Archive(tmp_path), noise(1) + 100
        adc[:, :, :8] = 0
        archive.add(adc=as_image(adc))
        share = (gland() > 0)[:, :, :8].sum() / (gland() > 0).sum()
        warnings = prepared(archive).warnings
        assert warnings[0] == f"ADC does not cover {share:.1%} of the gland: values there are 0"

    def test_zeros_within_the_gland_are_values(self, tmp_path: Path):
        archive, adc = Archive(tmp_path), noise(1) + 100
        adc[gland() == 1] = 0
        archive.add(adc=as_image(adc))
        assert not prepared(archive).warnings
