import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.zssmnet.interruption import Killed, MortalStorage, leave_half_written
from tests.zssmnet.training.examples import cubes_file, cubes_of, small_config, write_cubes
from zssmnet.config import CubesConfig
from zssmnet.errors import ZssmnetError
from zssmnet.preparation.cubes import cut_subset
from zssmnet.preparation.prepare import prepared_keys
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL, PretrainedModel
from zssmnet.report import gallery
from zssmnet.report.gallery import LOSS_CURVES, RESTORED_CUBES, publish_case_pictures, publish_training_pictures
from zssmnet.storage import LocalStorage, sha256_of
from zssmnet.storage.records import Output, Record, publish_record, read_record, remove_record
from zssmnet.storage.verification import verify_stage

CUBES = CubesConfig(cubes_per_case=2, size=(16, 16, 4))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> LocalStorage:
    """Prepared cases: two in subset 0, one in subset 1."""
    data = LocalStorage(tmp_path / "data")
    for subset, case_id in ((0, "10_20"), (0, "10_21"), (1, "30_40")):
        write_case(data, subset, case_id)
    return data


@pytest.fixture
def cubes(tmp_path: Path, data: LocalStorage) -> LocalStorage:
    return cut(data, LocalStorage(tmp_path / "cubes"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been drawn of cases."""
    return record_calls(monkeypatch, "case_montage")


@pytest.fixture
def reports(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "reports")


def write_case(data: LocalStorage, subset: int, case_id: str) -> None:
    """A prepared case whose images rise evenly; its mask is a box of both zones."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (6, 24, 20)), indexing="ij")
    mask = np.zeros((6, 24, 20), np.uint8)
    mask[1:5, 6:12, 5:15], mask[1:5, 12:18, 5:15] = 2, 1
    for key, array in zip(prepared_keys(case_id, subset), (x, 100 * y, z + len(case_id), mask), strict=True):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.5, 3.0))
        with data.publishing(key) as path:
            sitk.WriteImage(image, str(path))


def cut(data: LocalStorage, cubes: LocalStorage, config: CubesConfig = CUBES) -> LocalStorage:
    for subset in range(6):
        cut_subset(subset, data, cubes, config)
    return cubes


def files(storage: LocalStorage) -> dict[str, int]:
    """When each file was written."""
    return {entry.key: storage.local(entry.key).stat().st_mtime_ns for entry in storage.list()}


class TestCases:
    def publish(self, data, cubes, reports, subsets=range(6), config: CubesConfig = CUBES) -> list[str]:
        return publish_case_pictures(data, cubes, reports, subsets, config)

    def test_the_first_case_of_each_subset_is_shown(self, data, cubes, reports) -> None:
        keys = self.publish(data, cubes, reports)
        assert keys == ["cases/subset0.png", "cases/subset1.png"]
        assert all(reports.read(key).startswith(PNG) for key in keys)
        assert {entry.key for entry in reports.list("cases")} == set(keys)

    def test_pictures_tell_what_they_show(self, data, cubes, reports, undrawn) -> None:
        self.publish(data, cubes, reports)
        images, mask, starts, size, spacing, title = undrawn[0]
        assert title == "Case 10_20, subset 0 (training)"
        assert (size, spacing) == ((16, 16, 4), (0.5, 0.5, 3.0))
        assert len(starts) == 2
        assert mask.shape == (6, 24, 20)
        assert [float(image[0, 3, 5]) for image in images] == [5, 300, 5]
        for cube, (x, y, z) in zip(np.load(cubes.local("bat_2_s_16x16x4_0.npy")), starts, strict=False):
            np.testing.assert_array_equal(cube[3], mask.transpose(2, 1, 0)[x : x + 16, y : y + 16, z : z + 4])

    def test_a_record_goes_with_each(self, data, cubes, reports, undrawn) -> None:
        (key, _) = self.publish(data, cubes, reports)
        (output,) = read_record(reports, "cases/subset0", Record).outputs
        assert (output.key, output.sha256) == (key, sha256_of(reports.local(key)))

    def test_nothing_is_drawn_twice(self, data, cubes, reports, undrawn) -> None:
        keys, before = self.publish(data, cubes, reports), files(reports)
        left = leave_half_written(reports.folder)
        assert self.publish(data, cut(data, cubes), reports) == keys
        assert not left.exists()
        assert files(reports) == before
        assert len(undrawn) == 2

    def test_what_changed_is_drawn_anew(self, data, cubes, reports, undrawn) -> None:
        self.publish(data, cubes, reports)
        write_case(data, 1, "30_39")
        self.publish(data, cut(data, cubes), reports)
        assert [title for *_, title in undrawn[2:]] == ["Case 30_39, subset 1 (training)"]
        seeded = CUBES.model_copy(update={"seed": 1})
        self.publish(data, cut(data, cubes, seeded), reports, config=seeded)
        assert len(undrawn) == 3 + 2

    def test_what_was_removed_is_drawn_anew(self, data, cubes, reports, undrawn) -> None:
        keys = self.publish(data, cubes, reports)
        png = reports.read(keys[1])
        reports.remove(keys[1])
        assert self.publish(data, cubes, reports) == keys
        assert reports.read(keys[1]) == png

    def test_the_picture_of_an_emptied_subset_is_removed(self, data, cubes, reports, undrawn) -> None:
        self.publish(data, cubes, reports)
        for key in prepared_keys("30_40", 1):
            data.remove(key)
        assert self.publish(data, cut(data, cubes), reports) == ["cases/subset0.png"]
        assert [entry.key for entry in reports.list("cases")] == ["cases/subset0.png"]

    def test_pictures_of_other_subsets_stay(self, data, cubes, reports, undrawn) -> None:
        self.publish(data, cubes, reports)
        assert self.publish(data, cubes, reports, [1]) == ["cases/subset1.png"]
        assert [entry.key for entry in reports.list("cases")] == ["cases/subset0.png", "cases/subset1.png"]

    def test_a_damaged_case_is_one_line(self, data, cubes, reports) -> None:
        path = data.local(prepared_keys("30_40", 1)[2])
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(ZssmnetError) as caught:
            self.publish(data, cubes, reports)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def record_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Arguments of each call of a function that draws; it draws no longer."""
    calls: list[tuple[Any, ...]] = []

    def draw(*arguments: Any) -> bytes:
        calls.append(deepcopy(arguments))  # volumes are views, which end with their images
        return PNG + arguments[-1].encode()

    monkeypatch.setattr(gallery, name, draw)
    return calls


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStorage, LocalStorage]:
    """Cubes, and weights trained on them."""
    root = tmp_path_factory.mktemp("trained")
    cubes, weights = write_cubes(root / "cubes"), LocalStorage(root / "weights")
    train_and_publish(cubes, weights, small_config())
    return cubes, weights


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """How often curves and cubes were drawn."""
    curves, restored = (record_calls(monkeypatch, name) for name in ("loss_curves", "restoration_triptych"))
    return lambda: (len(curves), len(restored))


class TestTraining:
    def test_curves_and_restored_cubes_are_published(self, folders, reports) -> None:
        assert publish_training_pictures(*folders, reports) == [LOSS_CURVES, RESTORED_CUBES]
        outputs = read_record(reports, "training", Record).outputs
        assert [output.sha256 for output in outputs] == [
            sha256_of(reports.local(key)) for key in (LOSS_CURVES, RESTORED_CUBES)
        ]
        assert all(reports.read(output.key).startswith(PNG) for output in outputs)

    def test_they_show_history_and_best_model(self, folders, reports, monkeypatch: pytest.MonkeyPatch) -> None:
        curves, restored = (record_calls(monkeypatch, name) for name in ("loss_curves", "restoration_triptych"))
        publish_training_pictures(*folders, reports)
        record = read_record(folders[1], MODEL, PretrainedModel)
        ((history, best_epoch, title),) = curves
        assert [epoch[2] for epoch in history] == [result.validation_loss for result in record.history]
        assert (best_epoch, title) == (record.best_epoch, f"Pre-training {record.run_id}")
        ((_, images, target, title),) = restored
        assert len(images) == 3  # all validation cubes, so that their error is the validation loss
        assert np.mean((images - target) ** 2) == pytest.approx(record.best_validation_loss, rel=1e-5)
        best = f"Best epoch {record.best_epoch}, validation loss {record.best_validation_loss:.4f}"
        assert title.startswith(f"{best}, explained variance ")

    def test_without_a_model_there_are_none(self, folders, reports, tmp_path: Path) -> None:
        assert publish_training_pictures(folders[0], LocalStorage(tmp_path / "nothing"), reports) == []
        assert not reports.list()

    def test_of_a_model_whose_record_is_still_to_come(self, folders, reports, tmp_path: Path, draws) -> None:
        weights = LocalStorage(tmp_path / "weights")
        for entry in folders[1].list():
            weights.publish_bytes(entry.key, folders[1].read(entry.key))
        publish_training_pictures(folders[0], weights, reports)
        remove_record(weights, MODEL)
        assert publish_training_pictures(folders[0], weights, reports) == [LOSS_CURVES, RESTORED_CUBES]
        assert draws() == (1, 1)

    def test_nothing_is_drawn_twice(self, folders, reports, draws) -> None:
        publish_training_pictures(*folders, reports)
        before = files(reports)
        train_and_publish(*folders, small_config())
        assert publish_training_pictures(*folders, reports) == [LOSS_CURVES, RESTORED_CUBES]
        assert files(reports) == before
        assert draws() == (1, 1)

    def test_killed_at_any_change_no_record_tells_of_another_picture(self, folders, tmp_path: Path, draws) -> None:
        """Pictures of another model replace those that are there."""
        earlier = LocalStorage(tmp_path / "earlier")
        publish_training_pictures(*folders, earlier)
        for key in (LOSS_CURVES, RESTORED_CUBES):
            earlier.publish_bytes(key, b"of another model")
        outputs = tuple(
            Output(key=one.key, size=one.size, sha256=sha256_of(earlier.local(one.key)))
            for one in earlier.list()
            if one.key.endswith(".png")
        )
        publish_record(earlier, "training", Record(method=gallery.METHOD, inputs=(), outputs=outputs))
        for changes in count():
            reports = LocalStorage(shutil.copytree(earlier.folder, tmp_path / f"killed{changes}"))
            try:
                publish_training_pictures(*folders, MortalStorage(reports.folder, changes))
            except Killed:
                assert {finding.kind for finding in verify_stage(reports)} <= {"unfinished"}
                publish_training_pictures(*folders, reports)
                assert not verify_stage(reports)
                assert reports.read(LOSS_CURVES).startswith(PNG)
            else:
                break
        assert changes == 4

    def test_without_their_cubes_there_are_none(self, folders, reports, tmp_path: Path) -> None:
        assert publish_training_pictures(LocalStorage(tmp_path / "nothing"), folders[1], reports) == []

    def test_another_model_is_drawn(self, folders, tmp_path: Path, reports, draws) -> None:
        publish_training_pictures(*folders, reports)
        cubes, weights = write_cubes(tmp_path / "cubes"), LocalStorage(tmp_path / "weights")
        np.save(cubes_file(cubes.folder, 5), cubes_of(3, seed=50))
        train_and_publish(cubes, weights, small_config(epochs=1))
        publish_training_pictures(cubes, weights, reports)
        assert draws() == (2, 2)

    def test_further_epochs_are_drawn_though_the_best_model_is_the_same(
        self, tmp_path: Path, reports, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        curves = record_calls(monkeypatch, "loss_curves")
        record_calls(monkeypatch, "restoration_triptych")
        cubes, weights = write_cubes(tmp_path / "cubes"), LocalStorage(tmp_path / "weights")
        models = []
        for epochs in (2, 3):
            record, _ = train_and_publish(cubes, weights, small_config(epochs=epochs, learning_rate=3.0, seed=1))
            models.append((record.best_epoch, weights.read(MODEL)))
            publish_training_pictures(cubes, weights, reports)
        assert models[0] == models[1]
        assert [len(history) for history, *_ in curves] == [2, 3]

    def test_a_damaged_model_is_not_drawn(self, folders, reports, tmp_path: Path) -> None:
        weights = LocalStorage(tmp_path / "weights")
        for entry in folders[1].list():
            weights.publish_bytes(entry.key, folders[1].read(entry.key))
        weights.local(MODEL).write_bytes(bytes(weights.stat(MODEL).size))
        assert publish_training_pictures(folders[0], weights, reports) == []
        assert [finding.kind for finding in verify_stage(weights) if finding.file == weights.where(MODEL)] == [
            "changed"
        ]
