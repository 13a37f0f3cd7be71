import gzip
import json
import os
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.zssmnet.examinations import (
    CASE,
    ORIGIN,
    SIZE,
    Archive,
    as_array,
    as_image,
    gland,
    noise,
    oblique,
    read,
    write,
)
from tests.zssmnet.interruption import Killed, MortalStorage, contents, traces
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.errors import CaseError, StorageError
from zssmnet.preparation.prepare import (
    PreparedCase,
    prepare_volumes,
    prepared_keys,
    publish_prepared,
    remove_prepared,
    remove_stale,
)
from zssmnet.storage import LocalStorage, Storage
from zssmnet.storage.records import read_record, record_key

PUBLISHED = PreparationConfig()
TIGHT = PreparationConfig(margin_mm=3.5)
"""A margin that the small examinations have room for."""


class Stage(Archive):
    """An archive, and the folder of prepared cases."""

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def output(self) -> LocalStorage:
        return LocalStorage(self.data)

    def prepare(
        self,
        subset: int = 0,
        config: PreparationConfig = TIGHT,
        case_id: str = CASE,
        output: Storage | None = None,
    ) -> tuple[PreparedCase, bool]:
        return publish_prepared(self.case(case_id), subset, self.images, self.masks, output or self.output, config)

    def volumes(self, subset: int = 0, case_id: str = CASE) -> list[sitk.Image]:
        """The published T2W, ADC, DWI and mask, read back."""
        return [read(self.data / key) for key in prepared_keys(case_id, subset)]

    def fault(self, config: PreparationConfig = TIGHT) -> CaseError:
        with pytest.raises(CaseError) as caught:
            self.prepare(config=config)
        assert caught.value.case_id == CASE
        assert caught.value.reason
        assert str(caught.value).isprintable()
        return caught.value


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.add()
    return stage


def assert_golden(folder: Path, name: str, volumes: Sequence[sitk.Image]) -> None:
    """Sizes, places, types, means, and every 61st voxel are those of the published program."""
    facts = json.loads((folder / f"{name}.json").read_text())
    samples = np.load(folder / f"{name}.npz")
    for channel, volume in zip(("0000", "0001", "0002", "mask"), volumes, strict=True):
        known, array = facts[channel], as_array(volume)
        assert list(volume.GetSize()) == known["size_xyz"]
        assert str(array.dtype) == known["dtype"]
        assert np.allclose(volume.GetSpacing(), known["spacing_xyz"], rtol=1e-6)
        assert np.allclose(volume.GetOrigin(), known["origin_xyz"], atol=1e-4)
        assert array.mean(dtype=np.float64) == pytest.approx(known["mean"], rel=1e-4)
        tolerance = 0 if channel == "mask" else 1e-5 * (known["max"] - known["min"])
        assert array.min() == pytest.approx(known["min"], abs=tolerance)
        assert array.max() == pytest.approx(known["max"], abs=tolerance)
        assert np.abs(array.ravel()[::61] - samples[channel]).max() <= tolerance


class TestGolden:
    """Outputs of the published program, against what is published here, read back from its files."""

    @pytest.mark.parametrize("form", ["nnunet_raw", "picai_mha"])
    def test_real_case(self, shared: Path, golden: Path, tmp_path: Path, form: str):
        images, masks = LocalStorage(shared / "data" / form), LocalStorage(shared / "data/zonal_masks")
        (case,) = take_inventory(images, masks).cases
        record, _ = publish_prepared(case, 3, images, masks, LocalStorage(tmp_path), PUBLISHED)
        volumes = [read(tmp_path / output.key) for output in record.outputs]
        assert_golden(golden, f"prep_{case.id}", volumes)
        direction = read(Path(images.where(case.images[0]))).GetDirection()
        assert all(np.allclose(volume.GetDirection(), direction, atol=1e-6) for volume in volumes)

    def test_real_case_on_another_grid(self, shared: Path, golden: Path, tmp_path: Path):
        stage = Stage(tmp_path)
        case_id = "11373_1001396"
        names = [f"nnunet_raw/imagesTr/{case_id}_000{channel}.nii.gz" for channel in range(3)]
        for channel, name in enumerate([*names, f"zonal_masks/{case_id}.nii.gz"]):
            image = read(shared / "data" / name)
            is_mask = channel == 3
            resampled = sitk.Resample(
                image if is_mask else sitk.Cast(image, sitk.sitkFloat32),
                (613, 629, 16),
                sitk.Transform(),
                sitk.sitkNearestNeighbor if is_mask else sitk.sitkLinear,
                image.GetOrigin(),
                (0.3, 0.3, 3.6),
                image.GetDirection(),
                0,
            )
            path = stage.mask_path(case_id) if is_mask else stage.image_path(channel, case_id)
            write(resampled, path.with_suffix("")).rename(path)  # plain NIfTI, which is written faster
        stage.prepare(config=PUBLISHED, case_id=case_id)
        assert_golden(golden, f"prep_{case_id}_aniso", stage.volumes(case_id=case_id))

    def test_formula(self, golden: Path, tmp_path: Path):
        """The margin along z has room here."""
        stage = Stage(tmp_path)
        z, y, x = np.indices((40, 88, 96)).astype(np.float64)
        arrays = [
            500 + 300 * np.sin(0.11 * x) * np.cos(0.07 * y) + 40 * z,
            1200 + 900 * np.sin(0.05 * x + 0.03 * y + 0.2 * z),
            100 + 80 * np.cos(0.09 * y) * np.sin(0.4 * z),
        ]
        inside = ((x - 48) / 10) ** 2 + ((y - 44) / 9) ** 2 + ((z - 20) / 3) ** 2 < 1
        mask = np.where(inside, np.where(y > 44, 1, 2), 0).astype(np.uint8)
        space = ((0.6, 0.55, 3.3), (-50.5, 12.25, 7.0), oblique(20))
        stage.add(CASE, *(as_image(array.astype(np.float32), *space) for array in arrays), as_image(mask, *space))
        record, _ = stage.prepare(config=PUBLISHED)
        assert_golden(golden, "prep_formula", stage.volumes())
        assert record.roi_start == (0, 0, 12)


class TestOutputs:
    def test_names_types_and_record(self, stage: Stage):
        record, is_new = stage.prepare(subset=4)
        assert is_new
        assert sorted(contents(stage.data)) == [
            f"records/{CASE}.json",
            f"subset4/{CASE}.nii.gz",
            f"subset4/{CASE}_0000.nii.gz",
            f"subset4/{CASE}_0001.nii.gz",
            f"subset4/{CASE}_0002.nii.gz",
        ]
        volumes = stage.volumes(4)
        assert [volume.GetPixelID() for volume in volumes] == [sitk.sitkFloat32] * 3 + [sitk.sitkUInt8]
        assert {volume.GetSize() for volume in volumes} == {record.size_after}
        assert record.size_before == SIZE
        assert np.allclose(record.spacing_after, volumes[0].GetSpacing(), rtol=1e-6)
        assert record == read_record(stage.output, CASE, PreparedCase)
        assert (record.case_id, record.subset, record.parameters) == (CASE, 4, TIGHT)
        assert [one.name for one in record.inputs] == [*stage.case().images, stage.case().mask]

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "float32"])
    def test_mask_keeps_its_pixel_type(self, stage: Stage, dtype: str):
        write(as_image(gland(dtype=dtype)), stage.mask_path())
        stage.prepare()
        assert str(as_array(stage.volumes()[3]).dtype) == dtype

    @pytest.mark.parametrize("turned", [(0, 0, 0), (20, 0, 0), (-12, 9, 31), (90, 0, 0), (0, 0, 180)], ids=str)
    @pytest.mark.parametrize("spacing", [(0.6, 0.55, 3.3), (0.5, 0.5, 3.0), (0.3, 0.3, 3.6), (1.0, 1.0, 6.0)], ids=str)
    def test_every_voxel_lies_where_its_value_was(self, tmp_path: Path, spacing, turned):
        """Of images that are functions of the position in the patient, prepared ones are the same functions."""
        frame = as_image(np.zeros((12, 30, 32)), spacing, ORIGIN, oblique(*turned))
        images = [as_image(field(frame, seed), spacing, ORIGIN, oblique(*turned)) for seed in range(3)]
        mask = as_image(gland((32, 30, 12)), spacing, ORIGIN, oblique(*turned))
        stage = Stage(tmp_path)
        stage.add(CASE, *images, mask)
        stage.prepare(config=PreparationConfig(margin_mm=1.0))
        *prepared, prepared_mask = stage.volumes()
        for seed, volume in enumerate(prepared):
            assert np.abs(as_array(volume) - field(volume, seed)).max() < 0.02
        compared = 0
        for index in np.ndindex(*prepared_mask.GetSize()):
            position = prepared_mask.TransformIndexToPhysicalPoint(tuple(map(int, index)))
            place = np.array(mask.TransformPhysicalPointToContinuousIndex(position))
            if np.abs(place - np.round(place)).max() < 0.499:  # else halfway between two voxels
                assert prepared_mask[tuple(map(int, index))] == mask[tuple(map(int, np.round(place)))]
                compared += 1
        assert compared > 500

    def test_all_four_lie_exactly_on_one_grid(self, stage: Stage):
        write(as_image(gland(), origin=np.add(ORIGIN, 0.04)), stage.mask_path())
        stage.prepare()
        places = {(volume.GetOrigin(), volume.GetSpacing(), volume.GetDirection()) for volume in stage.volumes()}
        assert len(places) == 1

    def test_margin_around_the_gland(self, stage: Stage):
        record, _ = stage.prepare(config=PreparationConfig(margin_mm=1.0))
        mask = as_array(stage.volumes()[3])
        z, y, x = np.nonzero(mask)
        assert (x.min(), mask.shape[2] - 1 - x.max()) == (2, 2)
        assert (y.min(), mask.shape[1] - 1 - y.max()) == (2, 2)
        assert (z.min(), mask.shape[0] - 1 - z.max()) == (0, 0)
        whole, _ = stage.prepare(config=PUBLISHED)
        assert whole.size_after == (29, 22, 9)
        assert whole.roi_start == (0, 0, 0)
        assert record.roi_start[0] > 0

    def test_the_same_bytes_every_time(self, stage: Stage, tmp_path: Path):
        for folder in ("one", "two"):
            stage.prepare(output=LocalStorage(tmp_path / folder))
        assert contents(tmp_path / "one") == contents(tmp_path / "two")

    def test_threads_give_the_same_bytes(self, stage: Stage, tmp_path: Path):
        ids = [f"case{number}" for number in range(6)]
        for number, case_id in enumerate(ids):
            stage.add(case_id, seed=number)
        alone, together = LocalStorage(tmp_path / "alone"), LocalStorage(tmp_path / "together")
        for case_id in ids:
            stage.prepare(case_id=case_id, output=alone)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda case_id: stage.prepare(case_id=case_id, output=together), ids))
        assert contents(alone.folder) == contents(together.folder)

    @pytest.mark.parametrize("case_id", ["Łódź 前列腺", "a.b.nii", "x" * 243, "_0001"])
    def test_unusual_ids(self, stage: Stage, case_id: str):
        stage.add(case_id)
        stage.prepare(case_id=case_id)
        assert len(stage.volumes(case_id=case_id)) == 4
        assert not stage.prepare(case_id=case_id)[1]


def field(frame: sitk.Image, seed: int) -> np.ndarray:
    """A smooth function of the position in the patient, between -1 and 1, on the voxels of an image."""
    z, y, x = np.indices(frame.GetSize()[::-1])
    matrix = np.reshape(frame.GetDirection(), (3, 3)) * frame.GetSpacing()
    positions = np.stack([x, y, z], -1) @ matrix.T + frame.GetOrigin()
    waves = np.random.default_rng(seed).normal(size=3)
    return np.sin(positions @ (0.12 * waves / np.linalg.norm(waves)) + seed).astype(np.float32)


class TestAgain:
    """What is still true is not done again; what is not, is."""

    def test_a_second_call_does_nothing(self, stage: Stage):
        record, _ = stage.prepare()
        before = traces(stage.data)
        assert stage.prepare() == (record, False)
        assert traces(stage.data) == before

    def test_inputs_written_again_with_the_same_content(self, stage: Stage):
        stage.prepare()
        before = traces(stage.data / "subset0")
        for channel in range(3):
            os.utime(stage.image_path(channel), (1, 1))
        record, is_new = stage.prepare()
        assert not is_new
        assert traces(stage.data / "subset0") == before
        assert read_record(stage.output, CASE, PreparedCase) == record  # so that they are not read a third time
        assert record.inputs[0].version.startswith("1000000000-")

    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_a_changed_image(self, stage: Stage, channel: int):
        stage.prepare()
        write(as_image(noise(99)), stage.image_path(channel))
        assert stage.prepare()[1]
        self.assert_as_fresh(stage)

    def test_a_changed_mask(self, stage: Stage):
        stage.prepare()
        write(as_image(np.roll(gland(), 2, axis=2)), stage.mask_path())
        assert stage.prepare()[1]
        self.assert_as_fresh(stage)

    def test_other_parameters(self, stage: Stage):
        stage.prepare(config=PUBLISHED)
        assert stage.prepare(config=TIGHT)[1]
        self.assert_as_fresh(stage)

    def test_another_version_of_the_method(self, stage: Stage, monkeypatch: pytest.MonkeyPatch):
        stage.prepare()
        monkeypatch.setattr("zssmnet.preparation.prepare.METHOD", 99)
        assert stage.prepare()[1]
        self.assert_as_fresh(stage)

    def test_another_subset(self, stage: Stage):
        stage.prepare(subset=5)
        assert stage.prepare(subset=0)[1]
        self.assert_as_fresh(stage)

    @pytest.mark.parametrize("number", range(4))
    def test_a_missing_output(self, stage: Stage, number: int):
        stage.prepare()
        stage.output.remove(prepared_keys(CASE, 0)[number])
        assert stage.prepare()[1]
        self.assert_as_fresh(stage)

    def test_an_output_of_another_size(self, stage: Stage):
        stage.prepare()
        os.truncate(stage.data / prepared_keys(CASE, 0)[1], 100)
        assert stage.prepare()[1]
        self.assert_as_fresh(stage)

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
    def test_a_record_that_cannot_be_read(self, stage: Stage, content: bytes):
        """It still tells that the case was prepared, perhaps in another subset."""
        stage.prepare(subset=3)
        stage.output.publish_bytes(record_key(CASE), content)
        assert stage.prepare(subset=0)[1]
        self.assert_as_fresh(stage)

    def assert_as_fresh(self, stage: Stage) -> None:
        fresh = stage.root / "fresh"
        stage.prepare(output=LocalStorage(fresh))
        assert contents(stage.data) == contents(fresh)


class TestKilled:
    """Whenever a run is killed, whatever the next one is asked for, only that is there in the end."""

    def kill_at_every_change(self, stage: Stage, **settings: int) -> Iterator[int]:
        """Prepare in subset 3, then be killed at the n-th change of preparing anew; yields each n."""
        for changes in count():
            stage.prepare(subset=3, config=PUBLISHED)
            try:
                stage.prepare(output=MortalStorage(stage.data, changes), **settings)
            except Killed:
                yield changes
            else:
                assert changes >= 6  # four files and the record, twice
                return

    @pytest.mark.parametrize("subset", [0, 3])
    def test_the_same_run_again(self, stage: Stage, tmp_path: Path, subset: int):
        stage.prepare(subset=subset, output=LocalStorage(tmp_path / "fresh"))
        for _ in self.kill_at_every_change(stage, subset=subset):
            stage.prepare(subset=subset)
            assert contents(stage.data) == contents(tmp_path / "fresh")

    @pytest.mark.parametrize("subset", [0, 3])
    def test_back_to_the_run_before(self, stage: Stage, tmp_path: Path, subset: int):
        stage.prepare(subset=3, config=PUBLISHED, output=LocalStorage(tmp_path / "fresh"))
        for _ in self.kill_at_every_change(stage, subset=subset):
            stage.prepare(subset=3, config=PUBLISHED)
            assert contents(stage.data) == contents(tmp_path / "fresh")

    def test_a_run_without_the_case(self, stage: Stage):
        for _ in self.kill_at_every_change(stage, subset=0):
            remove_stale(stage.output, set())
            assert contents(stage.data) == {}

    def test_removal(self, stage: Stage):
        for changes in range(5):
            stage.prepare()
            with pytest.raises(Killed):
                remove_prepared(CASE, MortalStorage(stage.data, changes))
            assert remove_stale(stage.output, set()) == [CASE]
            assert contents(stage.data) == {}

    def test_the_first_run_of_all(self, stage: Stage, tmp_path: Path):
        stage.prepare(output=LocalStorage(tmp_path / "fresh"))
        for changes in range(6):
            with pytest.raises(Killed):
                stage.prepare(subset=1, output=MortalStorage(stage.data, changes))
            stage.prepare(subset=0)
            assert contents(stage.data) == contents(tmp_path / "fresh")
            remove_prepared(CASE, stage.output)


class TestBadCase:
    def test_what_was_published_of_it_is_removed(self, stage: Stage):
        stage.add("other")
        stage.prepare(subset=2)
        stage.prepare(subset=2, case_id="other")
        stage.image_path(1).write_bytes(b"broken")
        assert "is no readable image" in stage.fault().reason
        assert sorted(contents(stage.data)) == sorted([*prepared_keys("other", 2), "records/other.json"])

    def test_missing_input(self, stage: Stage):
        case = stage.case()
        stage.prepare()
        stage.mask_path().unlink()
        with pytest.raises(CaseError, match="missing") as caught:
            publish_prepared(case, 0, stage.images, stage.masks, stage.output, TIGHT)
        assert caught.value.file == str(stage.mask_path())
        assert contents(stage.data) == {}

    def test_input_that_the_disk_cannot_read(self, stage: Stage):
        stage.image_path(2).unlink()
        stage.image_path(2).symlink_to("/proc/self/mem")
        error = stage.fault()
        assert error.file == str(stage.image_path(2))
        assert error.reason == "cannot be read: Input/output error"

    def test_constant_only_around_the_gland(self, stage: Stage):
        array = np.full(SIZE[::-1], 500, np.uint16)
        array[0, 0, 0] = 1000
        space = {"spacing": (0.5, 0.5, 3.0)}
        stage.add(CASE, as_image(noise(), **space), as_image(array, **space), as_image(noise(), **space))
        write(as_image(gland(), **space), stage.mask_path())
        error = stage.fault(PreparationConfig(margin_mm=1))
        assert error.file == str(stage.image_path(1))
        assert error.reason == "the ADC image around the gland is constant: all voxels are 500.0"
        assert stage.prepare(config=PUBLISHED)[1]

    def test_picai_image_elsewhere_in_space(self, tmp_path: Path):
        stage = Stage(tmp_path)
        there = as_image(noise(1), origin=(500, 500, 500))
        stage.add_picai(CASE, [as_image(noise()), as_image(noise(1)), there], as_image(gland()))
        error = stage.fault()
        assert error.file.endswith(f"{CASE}_hbv.mha")
        assert error.reason == "the DWI image around the gland is constant: all voxels are 0.0"

    def test_mask_that_vanishes_on_the_coarser_grid(self, stage: Stage):
        space = {"spacing": (0.125, 0.5, 3.0)}
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[4, 10, 6] = 1
        images = [as_image(noise(seed), **space) for seed in range(3)]
        stage.add(CASE, *images, as_image(mask, **space))
        error = stage.fault()
        assert error.file == str(stage.mask_path())
        assert error.reason == "the mask's foreground is so thin that none is left at 0.5 x 0.5 x 3 mm"

    @pytest.mark.parametrize("size", [(24, 20, 3), (3, 20, 8), (24, 1, 8)])
    def test_too_few_voxels_to_interpolate(self, tmp_path: Path, size: tuple[int, int, int]):
        stage = Stage(tmp_path)
        mask = np.ones(size[::-1], np.uint8)
        stage.add(CASE, *(as_image(noise(seed, size)) for seed in range(3)), as_image(mask))
        error = stage.fault()
        assert error.file == str(stage.image_path(0))
        assert error.reason == f"has the size {size}; cubic interpolation needs 4 voxels on each axis"

    def test_few_slices_are_enough_where_the_grid_stays(self, tmp_path: Path):
        stage = Stage(tmp_path)
        size, space = (24, 20, 1), {"spacing": (0.5, 0.5, 3.0)}
        images = [as_image(noise(seed, size), **space) for seed in range(3)]
        stage.add(CASE, *images, as_image(np.ones(size[::-1], np.uint8), **space))
        record, _ = stage.prepare()
        assert record.size_after == size

    def test_values_beyond_float32(self, stage: Stage):
        write(as_image(noise() * 1e300), stage.image_path(0))
        with np.errstate(over="ignore"):
            assert "not finite" in stage.fault().reason


class TestStorageErrors:
    def test_output_that_is_a_file(self, stage: Stage):
        stage.data.write_bytes(b"")
        with pytest.raises(StorageError, match="cannot be written") as caught:
            stage.prepare()
        assert str(caught.value).isprintable()

    def test_a_full_disk(self, stage: Stage, tmp_path: Path):
        """A storage error, not a fault of the case; the next run begins anew."""
        stage.prepare(output=LocalStorage(tmp_path / "fresh"))
        largest = max(len(content) for content in contents(tmp_path / "fresh").values())
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for room in (0, 1000, 5000, largest - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                with pytest.raises(StorageError, match="cannot be written") as caught:
                    stage.prepare()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert str(caught.value).isprintable()
            for key, content in contents(stage.data).items():
                assert key.endswith(".json") or gzip.decompress(content)
        assert stage.prepare()[1]
        assert contents(stage.data) == contents(tmp_path / "fresh")


class TestRemoveStale:
    def test_keeps_what_is_to_be_kept(self, stage: Stage):
        for number, case_id in enumerate(("a", "b", "c")):
            stage.add(case_id)
            stage.prepare(subset=number, case_id=case_id)
        stage.output.publish_bytes("subset1/foreign_0000.nii.gz", b"made elsewhere")
        assert remove_stale(stage.output, {"b", "unknown"}) == ["a", "c"]
        assert sorted(contents(stage.data)) == sorted(
            [*prepared_keys("b", 1), "records/b.json", "subset1/foreign_0000.nii.gz"]
        )
        assert remove_stale(stage.output, {"b"}) == []

    def test_a_record_that_cannot_be_read(self, stage: Stage):
        stage.prepare(subset=3)
        stage.output.publish_bytes(record_key(CASE), b"{}")
        assert remove_stale(stage.output, set()) == [CASE]
        assert contents(stage.data) == {}

    def test_of_nothing(self, stage: Stage):
        assert remove_stale(stage.output, set()) == []


class TestWarnings:
    def warnings(self, stage: Stage) -> tuple[str, ...]:
        return stage.prepare()[0].warnings

    def test_none_for_a_plausible_case(self, stage: Stage):
        assert self.warnings(stage) == ()

    def test_swapped_zones(self, stage: Stage, caplog: pytest.LogCaptureFixture):
        swapped = np.array([0, 2, 1], np.uint8)[gland()]
        write(as_image(swapped), stage.mask_path())
        (warning,) = self.warnings(stage)
        assert "are the zones swapped?" in warning
        assert f"{CASE}: {warning}" in caplog.text

    @pytest.mark.parametrize("turned", [(0, 0, 0), (20, 0, 0), (0, 0, 180)])
    @pytest.mark.parametrize("is_swapped", [False, True])
    def test_behind_is_meant_in_the_patient(self, tmp_path: Path, turned, is_swapped: bool):
        """Turned by 180 degrees about z, the back of the patient is where the image begins."""
        stage = Stage(tmp_path)
        space = {"direction": oblique(*turned)}
        mask = gland()[:, ::-1] if turned[2] == 180 else gland()
        mask = np.array([0, 2, 1], np.uint8)[mask] if is_swapped else mask
        stage.add(CASE, *(as_image(noise(seed), **space) for seed in range(3)), as_image(mask, **space))
        assert bool(self.warnings(stage)) is is_swapped

    @pytest.mark.parametrize("label", [1, 2])
    def test_a_single_label(self, stage: Stage, label: int):
        write(as_image((gland() == label).astype(np.uint8) * label), stage.mask_path())
        (warning,) = self.warnings(stage)
        assert f"only the label {label};" in warning

    @pytest.mark.parametrize(("factor", "is_odd"), [(1e-6, True), (1e-3, True), (1, False)])
    def test_adc_in_another_unit(self, stage: Stage, factor: float, is_odd: bool):
        """0 to 3000 in 1e-6 mm2/s is 0 to 0.003 in mm2/s, 0 to 3 in 1e-3 mm2/s."""
        write(as_image(noise(1) * 3.0 * factor), stage.image_path(1))
        found = self.warnings(stage)
        assert bool(found) is is_odd
        assert all("ADC's median in the gland is" in warning for warning in found)


def test_prepare_in_memory_is_what_is_published(stage: Stage):
    examination = read_examination(stage.case(), stage.images, stage.masks)
    volumes = prepare_volumes(CASE, examination, TIGHT)
    record, _ = stage.prepare()
    assert volumes.roi.start == record.roi_start
    for one, other in zip((*volumes.images, volumes.mask), stage.volumes(), strict=True):
        assert np.array_equal(as_array(one), as_array(other))
