import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zssmnet.training.examples import COUNTS, SIZE, cubes_file, cubes_of, write_cubes
from zssmnet.corruption import swap_x_and_z
from zssmnet.errors import CubesError
from zssmnet.mnet import MNet
from zssmnet.training.dataset import CubesDataset, CubeSet, open_training_data


def refusal(cubes, batch_size: int = 2) -> str:
    """The message with which a folder is refused: one line that begins with the folder's name."""
    with pytest.raises(CubesError) as caught:
        open_training_data(cubes, batch_size)
    message = str(caught.value)
    assert message.startswith(cubes.uri)
    assert "\n" not in message
    return message


class TestCubeSet:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_several_files_are_one_row_of_cubes(self, dtype: str) -> None:
        files = [cubes_of(count, seed=count, size=(5, 4, 3), dtype=dtype) for count in (2, 0, 1, 4)]
        cubes, together = CubeSet(files), np.concatenate(files)
        assert len(cubes) == 7
        numbers = torch.tensor([6, 0, 2, 1, 3, 2])
        batch = cubes.batch(numbers).numpy()  # files are x, y, z; batches z, y, x
        assert batch.dtype == dtype
        np.testing.assert_array_equal(batch, together[numbers].transpose(0, 1, 4, 3, 2))

    def test_no_cubes_at_all(self) -> None:
        assert len(CubeSet([cubes_of(0)])) == 0

    def test_files_stay_on_disk_and_are_not_written_to(self, tmp_path: Path) -> None:
        training, _ = open_training_data(write_cubes(tmp_path), 2)
        assert all(isinstance(file, np.memmap) for file in training.files)
        batch = training.batch(torch.tensor([0]))
        batch += 1
        np.testing.assert_array_equal(np.load(cubes_file(tmp_path, 0)), cubes_of(2))


class TestOpening:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_subsets_0_to_4_are_for_training_and_5_for_validation(self, tmp_path: Path, dtype: str) -> None:
        opened = open_training_data(write_cubes(tmp_path, dtype=dtype), 5)
        expected = [cubes_of(count, subset, dtype=dtype) for subset, count in enumerate(COUNTS)]
        for cubes, files in zip(opened, (expected[:5], expected[5:]), strict=True):
            np.testing.assert_array_equal(swap_x_and_z(cubes.batch(torch.arange(len(cubes)))), np.concatenate(files))

    def test_files_of_further_subsets_are_none_of_the_six(self, tmp_path: Path) -> None:
        np.save(cubes_file(tmp_path, 10), cubes_of(4, size=(3, 3, 3)))
        training, validation = open_training_data(write_cubes(tmp_path), 2)
        assert (len(training), len(validation)) == (5, 3)

    @pytest.mark.parametrize(
        "size", [(16, 16, 2), (16, 16, 1), (32, 16, 1), (16, 32, 1), (31, 31, 1), (15, 16, 8), (16, 15, 8), (2, 2, 2)]
    )
    def test_cubes_too_small_for_the_network_are_refused_and_no_others(self, tmp_path: Path, size) -> None:
        cubes = write_cubes(tmp_path, size=size)
        x, y, z = size
        try:
            MNet(6, 3, (1, 1, 1, 1, 1))(torch.zeros(1, 6, z, y, x))
        except ValueError:
            assert f"cubes of {x} x {y} x {z} voxels are too small" in refusal(cubes)
        else:
            open_training_data(cubes, 2)


class TestRefusals:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        tmp_path.joinpath("notes.txt").touch()
        assert "generate cubes first" in refusal(write_cubes(tmp_path, counts=()))

    @pytest.mark.parametrize("subset", range(6))
    def test_a_missing_subset(self, tmp_path: Path, subset: int) -> None:
        cubes = write_cubes(tmp_path)
        cubes_file(tmp_path, subset).unlink()
        assert f"bat_12_s_16x16x4_{subset}.npy is missing" in refusal(cubes)

    def test_several_sets_of_cubes(self, tmp_path: Path) -> None:
        write_cubes(tmp_path, size=(16, 16, 8))
        assert "several sets of cubes (bat_12_s_16x16x4, bat_12_s_16x16x8)" in refusal(write_cubes(tmp_path))

    def test_too_few_cubes_for_a_batch(self, tmp_path: Path) -> None:
        message = refusal(write_cubes(tmp_path), batch_size=6)
        assert "5 training cubes do not fill one batch of 6; choose a smaller --batch-size" in message

    def test_no_cube_to_validate_with(self, tmp_path: Path) -> None:
        message = refusal(write_cubes(tmp_path, counts=(2, 2, 2, 2, 2, 0)))
        assert "bat_12_s_16x16x4_5.npy holds no cube, so nothing can be validated" in message

    def test_all_validation_cubes_constant(self, tmp_path: Path) -> None:
        cubes = write_cubes(tmp_path)
        constant = cubes_of(3)
        constant[:, :3] = np.array([0.1, 0.2, 0.3])[:, None, None, None]  # the mask may vary
        np.save(cubes_file(tmp_path, 5), constant)
        assert "bat_12_s_16x16x4_5.npy: all validation cubes are constant, so nothing can be" in refusal(cubes)
        constant[2, 1, 0, 0, 0] = 0.5
        np.save(cubes_file(tmp_path, 5), constant)
        open_training_data(cubes, 2)

    @pytest.mark.parametrize(
        ("subset", "value", "found"), [(0, 1800, "images of 0 to 1800, not scaled"), (5, -0.5, "images of -0.5 to 1,")]
    )
    def test_images_of_another_scale(self, subset: int, value: float, found: str, tmp_path: Path) -> None:
        cubes, odd = write_cubes(tmp_path), cubes_of(1)
        odd[0, :3, 0, 0, :3] = [0, 1, value]
        np.save(cubes_file(tmp_path, subset), odd)
        assert refusal(cubes).startswith(f"{cubes_file(tmp_path, subset)}: {found}")

    @pytest.mark.parametrize(
        ("other", "found"),
        [
            (cubes_of(1, size=(16, 16, 8)), "16 x 16 x 8 voxels in float32"),
            (cubes_of(1, dtype="float16"), "16 x 16 x 4 voxels in float16"),
        ],
    )
    def test_one_file_unlike_the_others(self, tmp_path: Path, other: np.ndarray, found: str) -> None:
        cubes = write_cubes(tmp_path)
        np.save(cubes_file(tmp_path, 4), other)
        message = refusal(cubes)
        assert message.startswith(f"{cubes_file(tmp_path, 4)}: cubes of {found}, but those of bat_12_s_16x16x4_0.npy")

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (np.zeros((2, 3, *SIZE), np.float32), "has the shape (2, 3, 16, 16, 4)"),
            (np.zeros((2, *SIZE), np.float32), "has the shape (2, 16, 16, 4)"),
            (np.float32(1), "has the shape ()"),
            (np.zeros((2, 4, *SIZE), np.int16), "holds int16"),
            (np.zeros((2, 4, *SIZE), np.complex64), "holds complex64"),
            (np.full((2, 4, *SIZE), None), "not a readable file of cubes"),
        ],
    )
    def test_arrays_that_are_no_cubes(self, tmp_path: Path, content: np.ndarray, found: str) -> None:
        cubes = write_cubes(tmp_path)
        np.save(cubes_file(tmp_path, 3), content)
        assert refusal(cubes).startswith(f"{cubes_file(tmp_path, 3)}: {found}")

    @pytest.mark.parametrize("kept", [0, 5, 60, 0.5])
    def test_truncated_files(self, tmp_path: Path, kept: float) -> None:
        cubes, file = write_cubes(tmp_path), cubes_file(tmp_path, 5)
        whole = file.read_bytes()
        file.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
        assert refusal(cubes).startswith(f"{file}: not a readable file of cubes")


class TestCubesDataset:
    @pytest.mark.parametrize("part", [slice(0, 3), slice(None), slice(None, None, -2), slice(-2, None), slice(3, 3)])
    def test_a_slice_is_a_batch(self, tmp_path: Path, part: slice) -> None:
        write_cubes(tmp_path, dtype="float16")
        cubes = CubesDataset(tmp_path)
        whole = torch.stack([cubes[number] for number in range(len(cubes))])
        expected = whole[list(range(len(cubes))[part])]
        assert cubes[part].dtype == torch.float32
        assert torch.equal(cubes[part], expected)

    @pytest.mark.parametrize("subsets", [[7], [], [0, 6], [-1], "05", [1.5], 5, [[0]]])
    def test_subsets_that_there_are_not_are_named(self, tmp_path: Path, subsets: Any) -> None:
        write_cubes(tmp_path)
        with pytest.raises(CubesError, match=r"^subsets = .*: name one or more of the subsets 0 to 5$") as caught:
            CubesDataset(tmp_path, subsets)
        assert repr(subsets) in str(caught.value)

    @pytest.mark.parametrize("subsets", [np.array([1, 0]), torch.tensor([1, 0]), {0, 1}, iter([0, 1])])
    def test_subsets_may_come_in_any_iterable(self, tmp_path: Path, subsets: Any) -> None:
        write_cubes(tmp_path)
        cubes = CubesDataset(tmp_path, subsets)
        assert len(copy.copy(cubes)) == len(cubes) == len(CubesDataset(tmp_path, [0, 1]))

    @pytest.mark.parametrize("index", [[0, 1], np.array([0, 1]), torch.tensor([0, 1]), 1.0, None])
    def test_what_is_no_index_is_a_type_error_as_of_any_sequence(self, tmp_path: Path, index: Any) -> None:
        write_cubes(tmp_path)
        with pytest.raises(TypeError, match="integer"):
            CubesDataset(tmp_path)[index]
