from pathlib import Path

import numpy as np
import pytest
import torch

from tests.zssmnet.training.examples import CPU, WatchedCubes, cubes_of, write_cubes
from zssmnet.corruption import swap_x_and_z
from zssmnet.errors import CubesError
from zssmnet.storage import LocalStorage
from zssmnet.training import dataset
from zssmnet.training.batches import (
    BATCHES_AHEAD,
    ResidentCubes,
    StreamedCubes,
    place_cubes,
    resident_bytes,
)
from zssmnet.training.dataset import CubeSet, open_training_data

FEEDS = [StreamedCubes, ResidentCubes]
NUMBERS = [torch.tensor(some) for some in ([6, 0, 2], [1], [3, 2, 2, 5], [4, 6])]


class TestBatches:
    @pytest.mark.parametrize("kind", FEEDS)
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_are_the_cubes_with_these_numbers_to_the_last_bit_of_float32(self, kind, dtype: str) -> None:
        files = [cubes_of(count, seed=count, size=(5, 4, 3), dtype=dtype) for count in (2, 0, 1, 4)]
        together = swap_x_and_z(torch.from_numpy(np.concatenate(files)).float())
        feed = kind(CubeSet(files), CPU)
        assert len(feed) == 7
        batches = list(feed.batches(NUMBERS))
        assert [torch.equal(batch.float(), together[some]) for batch, some in zip(batches, NUMBERS, strict=True)] == [
            True
        ] * len(NUMBERS)

    @pytest.mark.parametrize("kind", FEEDS)
    def test_more_cubes_than_are_brought_in_at_once(self, kind) -> None:
        cubes = cubes_of(150, size=(2, 2, 2))
        (batch,) = kind(CubeSet([cubes[:70], cubes[70:]]), CPU).batches([torch.arange(149, -1, -1)])
        np.testing.assert_array_equal(swap_x_and_z(batch), cubes[::-1])

    def test_are_read_ahead_but_not_far(self) -> None:
        cubes = WatchedCubes([cubes_of(20, size=(2, 2, 2))])
        batches = StreamedCubes(cubes, CPU).batches(torch.split(torch.arange(20), 1))
        for done in range(1, 12):
            next(batches)
            assert len(cubes.taken) <= done + BATCHES_AHEAD
        batches.close()
        assert len(cubes.taken) <= 11 + BATCHES_AHEAD

    def test_an_error_of_reading_comes_where_its_batch_would_have_come(self) -> None:
        batches = StreamedCubes(CubeSet([cubes_of(3, size=(2, 2, 2))]), CPU).batches(
            [torch.tensor([0]), torch.tensor([7]), torch.tensor([1])]
        )
        next(batches)
        with pytest.raises(IndexError):
            next(batches)


class TestResidence:
    def test_takes_seven_bytes_a_voxel_of_float16_and_thirteen_of_more(self) -> None:
        sizes = {dtype: resident_bytes(CubeSet([cubes_of(2, size=(4, 4, 2), dtype=dtype)])) for dtype in DTYPES}
        assert sizes == {"float16": 7 * 64, "float32": 13 * 64, "float64": 13 * 64}

    def test_all_of_pi_cai_takes_8_3_gb(self) -> None:
        one = CubeSet([np.broadcast_to(np.float16(0), (18_000, 4, 64, 64, 16))])
        assert resident_bytes(one) == 18_000 * 64 * 64 * 16 * 7 < 8.3e9

    @pytest.mark.parametrize("value", [0.5, -1.0, 256.0, np.nan, np.inf])
    def test_a_zone_that_is_no_byte_is_refused(self, value: float, tmp_path: Path) -> None:
        write_cubes(tmp_path)
        (file,) = tmp_path.glob("*_3.npy")
        cubes = np.load(file)
        cubes[0, 3, 1, 1, 1] = value
        np.save(file, cubes)
        training, _ = open_training_data(LocalStorage(tmp_path), 2)
        with pytest.raises(CubesError, match=r"bat_12_s_16x16x4_\d.npy: masks hold values that are no whole numbers"):
            ResidentCubes(training, CPU)

    @pytest.mark.parametrize(
        ("where", "kind"), [("auto", StreamedCubes), ("host", StreamedCubes), ("device", ResidentCubes)]
    )
    def test_on_a_cpu_cubes_stay_on_disk_unless_told_otherwise(self, where, kind) -> None:
        assert isinstance(place_cubes(CubeSet([cubes_of(2)]), CPU, where), kind)


class TestPages:
    def test_are_given_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 60 MB that are read, no more than some batches count as memory of this process."""
        monkeypatch.setattr(dataset, "MAPPED_BYTES", 4 * 2**20)
        storage = write_cubes(tmp_path, (60, 60, 60, 60, 60, 60), size=(32, 32, 8), dtype="float32")
        training, _ = open_training_data(storage, 2)
        before = mapped_kb()
        for some in torch.split(torch.arange(len(training)), 10):
            training.batch(some)
        assert sum(file.nbytes for file in training.files) > 39e6
        assert mapped_kb() - before < 16_000


DTYPES = ["float16", "float32", "float64"]


def mapped_kb() -> int:
    """File pages that count as memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc/self/status here: memory of mapped files is not known")
    return int(status.read_text().partition("RssFile:")[2].split()[0])
