import math
import os
import resource
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest

from tests.zssmnet.examinations import as_array, as_image, gland, read, write
from tests.zssmnet.interruption import Killed, MortalStorage, contents, traces
from zssmnet.config import CubesConfig
from zssmnet.errors import CaseError, CubesError, InputError, StorageError
from zssmnet.preparation.cubes import (
    SubsetCubes,
    check_prepared,
    cube_starts,
    cubes_key,
    cut_subset,
    find_cubes,
    open_cubes,
    padded,
    prepared_cases,
    remove_other_sets,
    scaled_volume,
)
from zssmnet.preparation.prepare import prepared_keys
from zssmnet.storage import LocalStorage, Storage
from zssmnet.storage.records import read_record
from zssmnet.storage.verification import verify_stage

SIZE = (13, 11, 7)
CONFIG = CubesConfig(cubes_per_case=5, size=(8, 6, 4), dtype="float32")
NAME = "bat_5_s_8x6x4_{}.npy"


class Stage:
    """Folders of prepared cases and of cubes."""

    def __init__(self, root: Path) -> None:
        self.data, self.cubes = root / "data", root / "cubes"

    def add(self, case_id: str, subset: int = 0, seed: int = 0, size: tuple[int, int, int] = SIZE) -> None:
        """A prepared case of noise."""
        rng = np.random.default_rng(seed)
        images = [rng.normal(mean, spread, size[::-1]) for mean, spread in ((300, 100), (1500, 1200), (50, 20))]
        for image, key in zip([*images, gland(size)], prepared_keys(case_id, subset), strict=True):
            array = image if image.dtype == np.uint8 else image.astype(np.float32)
            write(as_image(array, (0.5, 0.5, 3.0)), self.data / key)

    def arrays(self, case_id: str, subset: int = 0) -> list[np.ndarray]:
        """A prepared case's volumes with axes (x, y, z)."""
        return [as_array(read(self.data / key)).transpose(2, 1, 0) for key in prepared_keys(case_id, subset)]

    def generate(
        self, subset: int = 0, config: CubesConfig = CONFIG, output: Storage | None = None
    ) -> tuple[SubsetCubes, bool]:
        return cut_subset(subset, LocalStorage(self.data), output or LocalStorage(self.cubes), config)

    def of_case(self, case_id: str, subset: int = 0) -> np.ndarray:
        """The cubes of one case."""
        record, _ = self.generate(subset)
        number = [case.case_id for case in record.cases].index(case_id)
        return np.load(self.cubes / NAME.format(subset))[5 * number : 5 * (number + 1)]

    def fault(self, subset: int = 0) -> CaseError:
        with pytest.raises(CaseError) as caught:
            self.generate(subset)
        assert caught.value.reason
        assert str(caught.value).isprintable()
        assert contents(self.cubes) == {}
        return caught.value


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.add("a", seed=1)
    stage.add("b", seed=2)
    return stage


class TestStarts:
    def test_uniform_with_the_last_start(self):
        """Over many cases, each possible start on each axis comes equally often, within 4 sigma."""
        config = CubesConfig(size=(64, 64, 16))
        starts = np.concatenate([cube_starts(f"case{number}", (68, 65, 16), config) for number in range(500)])
        assert starts.shape == (6000, 3)
        for axis, choices in enumerate((5, 2, 1)):
            counts = Counter(starts[:, axis].tolist())
            assert sorted(counts) == list(range(choices))
            sigma = math.sqrt(6000 / choices * (1 - 1 / choices))
            assert all(abs(found - 6000 / choices) <= 4 * sigma for found in counts.values())

    def test_axes_and_cubes_are_independent(self):
        config = CubesConfig(cubes_per_case=2, size=(1, 1, 1))
        starts = np.stack([cube_starts(f"case{number}", (2, 2, 2), config) for number in range(4000)]).reshape(-1, 6)
        counts = Counter(map(tuple, starts.tolist()))
        assert len(counts) == 64
        sigma = math.sqrt(4000 / 64 * (1 - 1 / 64))
        assert all(abs(found - 4000 / 64) <= 4.5 * sigma for found in counts.values())  # 64 at once

    def test_seed_and_case_alone_decide(self):
        config = CubesConfig(seed=7)
        first = cube_starts("11373_1001396", (200, 190, 30), config)
        assert np.array_equal(first, cube_starts("11373_1001396", (200, 190, 30), config))
        assert not np.array_equal(first, cube_starts("11373_1001397", (200, 190, 30), config))
        assert not np.array_equal(first, cube_starts("11373_1001396", (200, 190, 30), CubesConfig(seed=8)))
        assert np.array_equal(first, cube_starts("11373_1001396", (200, 190, 30), CubesConfig(seed=7, dtype="float64")))

    def test_known_values(self):
        """The starts are a promise: they may never change between versions, for cubes are compared between runs."""
        starts = cube_starts("11373_1001396", (225, 194, 19), CubesConfig(cubes_per_case=3))
        assert starts.tolist() == [[38, 41, 3], [19, 30, 1], [91, 64, 0]]

    def test_volume_of_the_cube_s_size(self):
        assert not cube_starts("a", (64, 64, 16), CubesConfig()).any()


class TestScaling:
    def test_formulas(self):
        rng = np.random.default_rng(0)
        t2w, adc, dwi = (rng.normal(1000, 1500, (3, 4, 5)).astype(np.float32) for _ in range(3))
        mask = rng.integers(0, 3, (3, 4, 5)).astype(np.uint8)
        volume = scaled_volume((t2w, adc, dwi), mask)
        assert volume.shape == (4, 5, 4, 3)
        assert volume.dtype == np.float32
        for x, y, z in product(range(5), range(4), range(3)):
            assert volume[0, x, y, z] == pytest.approx((t2w[z, y, x] - t2w.min()) / (t2w.max() - t2w.min()), abs=1e-6)
            assert volume[1, x, y, z] == pytest.approx(min(max(adc[z, y, x], 0), 3000) / 3000, abs=1e-6)
            assert volume[2, x, y, z] == pytest.approx((dwi[z, y, x] - dwi.min()) / (dwi.max() - dwi.min()), abs=1e-6)
            assert volume[3, x, y, z] == mask[z, y, x]
        assert adc.min() < 0 and adc.max() > 3000
        for channel in range(3):
            assert (volume[channel].min(), volume[channel].max()) == (0, 1)

    def test_whole_numbers_do_not_overflow(self):
        image = np.array([[[0, 40000, 65535]]], np.uint16)
        assert scaled_volume((image, image, image), image)[0, :, 0, 0] == pytest.approx([0, 40000 / 65535, 1])

    def test_percentiles_are_not_set_by_a_few_voxels(self):
        image = np.random.default_rng(0).uniform(0, 100, (20, 20, 20)).astype(np.float32)
        image[0, 0, :3] = 10_000
        adc = image.copy()
        volume = scaled_volume((image, adc, image), adc, "percentile")
        low, high = np.percentile(image, (0.1, 99.9))
        expected = ((image - low) / (high - low)).clip(0, 1).transpose(2, 1, 0)
        assert volume[0] == pytest.approx(expected, abs=1e-5)
        assert np.array_equal(volume[2], volume[0])
        assert np.array_equal(volume[1], scaled_volume((image, adc, image), adc)[1])

    def test_an_image_of_hardly_more_than_one_value_keeps_its_maximum(self):
        image = np.zeros((20, 20, 20), np.float32)
        image[3, 4, 5] = 7
        volumes = [scaled_volume((image, image, image), image, scaling) for scaling in ("maximum", "percentile")]
        assert np.array_equal(*volumes)


class TestPadding:
    def test_on_both_sides_the_odd_voxel_at_the_end(self):
        volume = np.ones((2, 3, 4, 5), np.float32)
        result = padded(volume, (6, 4, 9))
        assert result.shape == (2, 6, 4, 9)
        assert np.array_equal(np.flatnonzero(result[0].any(axis=(1, 2))), [1, 2, 3])
        assert np.array_equal(np.flatnonzero(result[0].any(axis=(0, 2))), [0, 1, 2, 3])
        assert np.array_equal(np.flatnonzero(result[0].any(axis=(0, 1))), [2, 3, 4, 5, 6])
        assert result.sum() == volume.sum()

    def test_larger_volumes_stay(self):
        volume = np.random.default_rng(0).random((4, 6, 5, 4), np.float32)
        assert np.array_equal(padded(volume, (6, 3, 1)), volume)


class TestFile:
    def test_as_the_published_program_s(self, stage: Stage):
        record, is_new = stage.generate(3, CubesConfig(size=(64, 64, 16)))
        path = stage.cubes / "bat_12_s_64x64x16_3.npy"
        assert is_new
        assert sorted(contents(stage.cubes)) == [path.name, f"records/{path.name}.json"]
        assert path.read_bytes()[:8] == b"\x93NUMPY\x01\x00"
        assert np.load(path).dtype == np.float16
        assert record == read_record(LocalStorage(stage.cubes), path.name, SubsetCubes)

    def test_each_cube_is_a_window_of_the_scaled_volume(self, stage: Stage):
        record, _ = stage.generate()
        cubes = np.load(stage.cubes / NAME.format(0))
        assert cubes.shape == (10, 4, 8, 6, 4)
        assert [case.case_id for case in record.cases] == ["a", "b"]
        number = 0
        for case_id, starts in record.cases:
            t2w, adc, dwi, mask = stage.arrays(case_id)
            scaled = [
                (t2w - t2w.min()) / (t2w.max() - t2w.min()),
                np.clip(adc, 0, 3000) / 3000,
                (dwi - dwi.min()) / (dwi.max() - dwi.min()),
                mask,
            ]
            assert len(starts) == 5
            for x, y, z in starts:
                for channel in range(4):
                    window = scaled[channel][x : x + 8, y : y + 6, z : z + 4]
                    assert np.abs(cubes[number, channel] - window).max() < 1e-6
                number += 1
        assert set(np.unique(cubes[:, 3])) == {0, 1, 2}

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_number_types(self, stage: Stage, dtype: str):
        stage.generate(config=CONFIG.model_copy(update={"dtype": dtype}))
        cubes = np.load(stage.cubes / NAME.format(0))
        stage.generate(config=CONFIG)
        exact = np.load(stage.cubes / NAME.format(0))
        assert cubes.dtype == dtype
        assert np.array_equal(cubes, exact.astype(dtype))

    def test_small_volumes_are_padded_after_scaling(self, tmp_path: Path):
        stage = Stage(tmp_path)
        stage.add("small", size=(5, 6, 3))
        stage.generate()
        cubes = np.load(stage.cubes / NAME.format(0))
        t2w = stage.arrays("small")[0]
        assert np.abs(cubes[0, 0, 1:6, :, :3] - (t2w - t2w.min()) / (t2w.max() - t2w.min())).max() < 1e-6
        assert not cubes[:, :, [0, 6, 7]].any()
        assert not cubes[:, :, :, :, 3].any()

    def test_a_subset_without_cases(self, stage: Stage):
        record, _ = stage.generate(2, CubesConfig())
        path = stage.cubes / "bat_12_s_64x64x16_2.npy"
        for cubes in (np.load(path), np.load(path, mmap_mode="r"), open_cubes(path)):
            assert (cubes.shape, cubes.dtype) == ((0, 4, 64, 64, 16), np.float16)
        assert record.cases == ()
        assert not stage.generate(2, CubesConfig())[1]

    def test_reports_each_case(self, stage: Stage):
        done: list[str] = []
        cut_subset(0, LocalStorage(stage.data), LocalStorage(stage.cubes), CONFIG, done.append)
        assert done == ["a", "b"]

    def test_nothing_is_visible_while_it_is_written(self, stage: Stage):
        cubes = LocalStorage(stage.cubes)
        seen: list[int] = []
        cut_subset(0, LocalStorage(stage.data), cubes, CONFIG, lambda _: seen.append(len(cubes.list())))
        assert seen == [0, 0]


class TestCasesAreIndependent:
    def test_other_cases_do_not_matter(self, stage: Stage):
        before = stage.of_case("b")
        for number, case_id in enumerate(("0", "aa", "z")):
            stage.add(case_id, seed=10 + number)
        assert len(np.load(stage.cubes / NAME.format(0))) == 10
        assert stage.of_case("b").tobytes() == before.tobytes()
        assert len(np.load(stage.cubes / NAME.format(0))) == 25
        for case_id in ("0", "a", "aa"):
            for key in prepared_keys(case_id, 0):
                (stage.data / key).unlink()
        assert stage.of_case("b").tobytes() == before.tobytes()

    def test_nor_does_the_subset(self, stage: Stage):
        stage.add("b", subset=4, seed=2)
        assert stage.of_case("b", 4).tobytes() == stage.of_case("b", 0).tobytes()

    def test_nor_do_threads(self, stage: Stage, tmp_path: Path):
        for subset in range(6):
            stage.add(f"case{subset}", subset, seed=subset)
        alone, together = LocalStorage(tmp_path / "alone"), LocalStorage(tmp_path / "together")
        for subset in range(6):
            stage.generate(subset, output=alone)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda subset: stage.generate(subset, output=together), range(6)))
        assert contents(alone.folder) == contents(together.folder)
        assert len(contents(alone.folder)) == 12


class TestAgain:
    def test_a_second_call_does_nothing(self, stage: Stage):
        record, _ = stage.generate()
        before = traces(stage.cubes)
        assert stage.generate() == (record, False)
        assert traces(stage.cubes) == before

    def test_the_same_content_written_again(self, stage: Stage):
        """The record gets the new versions, once; the cubes stay."""
        record, _ = stage.generate()
        before = LocalStorage(stage.cubes).stat(NAME.format(0))
        stage.add("a", seed=1)
        again, is_new = stage.generate()
        assert not is_new
        assert again.identity() == record.identity()
        assert LocalStorage(stage.cubes).stat(NAME.format(0)) == before
        after = traces(stage.cubes)
        assert stage.generate() == (again, False)
        assert traces(stage.cubes) == after

    @pytest.mark.parametrize(
        "change",
        [{"seed": 1}, {"dtype": "float16"}, {"dtype": "float64"}],
        ids=str,
    )
    def test_other_parameters(self, stage: Stage, change: dict[str, object]):
        stage.generate()
        config = CONFIG.model_copy(update=change)
        assert stage.generate(config=config)[1]
        self.assert_as_fresh(stage, config)

    def test_a_changed_case(self, stage: Stage):
        stage.generate()
        stage.add("a", seed=99)
        assert stage.generate()[1]
        self.assert_as_fresh(stage)

    def test_a_case_that_changes_while_cubes_are_cut(self, stage: Stage):
        """Another run prepares in the same folder: what was read fits to no state of it."""
        data, output = LocalStorage(stage.data), LocalStorage(stage.cubes)

        def change(case_id: str) -> None:
            if case_id == "a":
                stage.add("b", seed=3)

        with pytest.raises(StorageError, match="subset0: changed while its cubes were cut"):
            cut_subset(0, data, output, CONFIG, change)
        assert contents(stage.cubes) == {}
        stage.generate()

    def test_a_new_case(self, stage: Stage):
        stage.generate()
        stage.add("c", seed=3)
        assert stage.generate()[1]
        self.assert_as_fresh(stage)

    def test_a_missing_file(self, stage: Stage):
        stage.generate()
        (stage.cubes / NAME.format(0)).unlink()
        assert stage.generate()[1]
        self.assert_as_fresh(stage)

    def test_another_version_of_the_method(self, stage: Stage, monkeypatch: pytest.MonkeyPatch):
        stage.generate()
        monkeypatch.setattr("zssmnet.preparation.cubes.METHOD", 99)
        assert stage.generate()[1]

    def test_killed_and_started_again_with_either_seed(self, stage: Stage, tmp_path: Path):
        """The files of both seeds have the same size, so only the record can tell them apart."""
        other = CONFIG.model_copy(update={"seed": 1})
        for wanted in (CONFIG, other):
            stage.generate(config=wanted, output=LocalStorage(tmp_path / f"fresh{wanted.seed}"))
            for changes in count():
                stage.generate(config=CONFIG)
                try:
                    stage.generate(config=other, output=MortalStorage(stage.cubes, changes))
                except Killed:
                    left = {finding.kind for finding in verify_stage(LocalStorage(stage.cubes))}
                    assert left <= {"unfinished"}  # no record tells of another file
                    stage.generate(config=wanted)
                    assert contents(stage.cubes) == contents(tmp_path / f"fresh{wanted.seed}")
                else:
                    assert changes >= 2
                    break

    def assert_as_fresh(self, stage: Stage, config: CubesConfig = CONFIG) -> None:
        fresh = stage.cubes.with_name("fresh")
        stage.generate(config=config, output=LocalStorage(fresh))
        assert contents(stage.cubes) == contents(fresh)


class TestCheckPrepared:
    def test_counts_the_cases_of_each_subset(self, stage: Stage):
        assert check_prepared(LocalStorage(stage.data)) == {0: 2, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}
        assert check_prepared(LocalStorage(stage.data), [0]) == {0: 2}

    def test_no_case_and_no_such_subset_are_errors(self, stage: Stage, tmp_path: Path):
        for data, subsets in ((tmp_path / "nowhere", range(6)), (stage.data, [1])):
            with pytest.raises(InputError, match=rf"^{data}: no prepared case in the folders subset0 to subset5"):
                check_prepared(LocalStorage(data), subsets)
        with pytest.raises(InputError, match=r"subsets = \[0, 6\]: name one or more"):
            check_prepared(LocalStorage(stage.data), [0, 6])


class TestBadCase:
    @pytest.mark.parametrize("number", range(4))
    def test_incomplete(self, stage: Stage, number: int):
        key = prepared_keys("b", 0)[number]
        (stage.data / key).unlink()
        error = stage.fault()
        assert (error.case_id, error.file) == ("b", str(stage.data / key))
        assert error.reason.startswith("missing")
        assert error.reason.endswith("prepare the case again")

    def test_ids_that_look_like_channels_are_complete(self, tmp_path: Path):
        stage = Stage(tmp_path)
        for case_id in ("x_0001", "x_0002_0000", "_0002"):
            stage.add(case_id)
        assert prepared_cases(LocalStorage(stage.data), 0) == ["_0002", "x_0001", "x_0002_0000"]
        stage.generate()

    @pytest.mark.parametrize("number", range(4))
    def test_truncated(self, stage: Stage, number: int):
        path = stage.data / prepared_keys("b", 0)[number]
        os.truncate(path, path.stat().st_size - 20)
        error = stage.fault()
        assert (error.case_id, error.file) == ("b", str(path))
        assert "truncated" in error.reason

    @pytest.mark.parametrize("number", range(4))
    def test_sizes_that_differ(self, stage: Stage, number: int):
        path = stage.data / prepared_keys("b", 0)[number]
        write(as_image(np.random.default_rng(0).random((7, 11, 12), np.float32)), path)
        error = stage.fault()
        assert (error.case_id, "has the size" in error.reason) == ("b", True)

    @pytest.mark.parametrize("number", range(3))
    @pytest.mark.parametrize(("value", "reason"), [(7, "constant: all voxels are 7.0"), (np.nan, "not finite")])
    def test_values_that_cannot_be_scaled(self, stage: Stage, number: int, value: float, reason: str):
        path = stage.data / prepared_keys("b", 0)[number]
        write(as_image(np.full(SIZE[::-1], value, np.float32)), path)
        error = stage.fault()
        assert (error.case_id, error.file) == ("b", str(path))
        assert reason in error.reason

    def test_the_file_there_before_stays(self, stage: Stage):
        stage.generate()
        before = contents(stage.cubes)
        stage.add("c", seed=3)
        (stage.data / prepared_keys("c", 0)[2]).write_bytes(b"")
        with pytest.raises(CaseError):
            stage.generate()
        assert contents(stage.cubes) == before

    def test_a_full_disk(self, stage: Stage):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(StorageError, match=r"_0\.npy: cannot be written: File too large"):
                stage.generate()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(stage.cubes) == {}


def saved(path: Path, array: np.ndarray, **options: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **options)
    return path


GOOD = np.random.default_rng(0).random((3, 4, 8, 6, 4), np.float32)


class TestOpen:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_memory_map(self, tmp_path: Path, dtype: str):
        cubes = open_cubes(saved(tmp_path / "a.npy", GOOD.astype(dtype)))
        assert isinstance(cubes, np.memmap)
        assert not cubes.flags.writeable
        assert np.array_equal(cubes, GOOD.astype(dtype))

    @pytest.mark.parametrize(
        ("array", "reason"),
        [
            (GOOD[0], r"has the shape \(4, 8, 6, 4\); expected \(cubes, 4, x, y, z\)"),
            (GOOD[:, :3], r"has the shape \(3, 3, 8, 6, 4\)"),
            (np.float32(1), r"has the shape \(\)"),
            (GOOD.astype(int), "holds int64; expected float16"),
            (GOOD.astype(complex), "holds complex128"),
            (GOOD > 0.5, "holds bool"),
        ],
    )
    def test_another_array(self, tmp_path: Path, array: np.ndarray, reason: str):
        with pytest.raises(CubesError, match=reason):
            open_cubes(saved(tmp_path / "a.npy", array))

    @pytest.mark.parametrize("end", [0, 5, 50, 128, 1000, -1])
    def test_truncated(self, tmp_path: Path, end: int):
        path = saved(tmp_path / "a.npy", GOOD)
        path.write_bytes(path.read_bytes()[:end])
        self.assert_unreadable(path)

    @pytest.mark.parametrize("content", [b"hello\n", b"PK\x03\x04 no archive", b"\x80\x04N."])
    def test_no_array_at_all(self, tmp_path: Path, content: bytes):
        (tmp_path / "a.npy").write_bytes(content)
        self.assert_unreadable(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"(3, 4,", b"(-3,4,"),
            (b"(3, 4,", b"(3; 4,"),
            (b"(3, 4, ", b"(9**9, "),
            (b"{'descr'", b"{{descr'"),
            (b"False", b"'''''"),
            (b"'<f4'", b"'|O8'"),
            (b"'<f4'", b"'xxx'"),
            (b"NUMPY\x01", b"NUMPY\x09"),
        ],
    )
    def test_damaged_header(self, tmp_path: Path, old: bytes, new: bytes):
        path = saved(tmp_path / "a.npy", GOOD)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
        self.assert_unreadable(path)

    def test_python_objects_are_never_unpickled(self, tmp_path: Path):
        self.assert_unreadable(saved(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True))

    def test_an_archive_of_arrays(self, tmp_path: Path):
        with (tmp_path / "a.npy").open("wb") as stream:
            np.savez(stream, GOOD)
        self.assert_unreadable(tmp_path / "a.npy")

    def test_missing(self, tmp_path: Path):
        self.assert_unreadable(tmp_path / "a.npy")

    def assert_unreadable(self, path: Path) -> None:
        with pytest.raises(CubesError, match=r"a\.npy: not a readable file of cubes: .") as caught:
            open_cubes(path)
        assert str(caught.value).isprintable()


class TestFind:
    def test_all_six(self, stage: Stage):
        for subset in range(6):
            stage.generate(subset)
        assert find_cubes(LocalStorage(stage.cubes)) == {subset: NAME.format(subset) for subset in range(6)}

    def test_any_name_of_the_pattern(self, tmp_path: Path):
        storage = LocalStorage(tmp_path)
        for subset in range(6):
            storage.publish_bytes(cubes_key(CubesConfig(), subset), b"")
        for other in (
            "bat_12_s_64x64x16_x.npy",
            "other.npy",
            "bat_12_s_64x64x16_1.npy.bak",
            "deep/bat_9_s_1x1x1_0.npy",
        ):
            storage.publish_bytes(other, b"")
        assert find_cubes(storage)[5] == "bat_12_s_64x64x16_5.npy"

    def test_none(self, tmp_path: Path):
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(CubesError, match=r"no file bat_.*generate cubes first"):
                find_cubes(LocalStorage(folder))

    def test_a_missing_subset(self, stage: Stage):
        for subset in (0, 1, 2, 4, 5):
            stage.generate(subset)
        with pytest.raises(CubesError, match=r"bat_5_s_8x6x4_3\.npy is missing"):
            find_cubes(LocalStorage(stage.cubes))

    def test_several_sets(self, stage: Stage):
        for subset in range(6):
            stage.generate(subset)
        stage.generate(0, CONFIG.model_copy(update={"cubes_per_case": 6}))
        with pytest.raises(CubesError, match=r"several sets of cubes \(bat_5_s_8x6x4, bat_6_s_8x6x4\)"):
            find_cubes(LocalStorage(stage.cubes))


class TestOtherSets:
    def test_sets_made_here_with_another_number_are_removed_foreign_ones_stay(self, stage: Stage):
        other = CONFIG.model_copy(update={"cubes_per_case": 2})
        stage.generate(config=other)
        foreign = saved(stage.cubes / "bat_9_s_8x6x4_0.npy", np.zeros((1, 4, 8, 6, 4)))
        stage.generate()
        assert remove_other_sets(LocalStorage(stage.cubes), CONFIG) == ["bat_2_s_8x6x4_0.npy"]
        assert {path.name for path in stage.cubes.glob("*.npy")} == {NAME.format(0), foreign.name}
        assert stage.generate()[1] is False
        assert remove_other_sets(LocalStorage(stage.cubes), CONFIG) == []
