import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tests.zssmnet.training.examples import (
    CPU,
    StoppedError,
    WatchedCubes,
    bits,
    cubes_of,
    small_config,
    stopping_at,
    write_cubes,
)
from zssmnet.errors import NonFiniteLossError, StorageError
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage
from zssmnet.training import tensorboard, trainer
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.checkpoint import EpochResult, TrainingState
from zssmnet.training.dataset import CubeSet
from zssmnet.training.epoch import validate
from zssmnet.training.step import Step
from zssmnet.training.tensorboard import LOGGED_EXAMPLES, LOGS, publish_logs, validation_examples
from zssmnet.training.trainer import initial_state

CONFIG = small_config(epochs=3)
VALIDATION = CubeSet([cubes_of(5, seed=9)])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing of ours is left at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.glob("zssmnet-*"))


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "weights")


@pytest.fixture
def cubes(tmp_path: Path) -> LocalStorage:
    return write_cubes(tmp_path / "cubes")


def logs_of(weights: LocalStorage, record: PretrainedModel) -> EventAccumulator:
    folder = weights.folder / "training" / record.run_id / LOGS
    assert all(path.name.startswith("events.out.tfevents.") for path in folder.iterdir())
    return EventAccumulator(str(folder)).Reload()


def scalars(logs: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(event.step, event.value) for event in logs.Scalars(tag)] for tag in logs.Tags()["scalars"]}


def expected(history: tuple[EpochResult, ...]) -> dict[str, list[tuple[int, float]]]:
    """Scalars as a file of events holds them: in float32."""
    columns = {"loss/training": "train_loss", "loss/validation": "validation_loss", "learning rate": "learning_rate"}
    columns |= {"explained variance": "explained"}
    reported = {tag: [(result.epoch, getattr(result, name)) for result in history] for tag, name in columns.items()}
    for number, channel in enumerate(("T2W", "ADC", "DWI")):
        reported[f"spread/{channel}"] = [(result.epoch, result.spread[number]) for result in history]
        each = [(result.epoch, result.explained_by_channel[number]) for result in history]
        reported[f"explained variance/{channel}"] = each
    return {tag: [(epoch, float(np.float32(value))) for epoch, value in values] for tag, values in reported.items()}


class TestLogs:
    def test_scalars_are_the_history(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        record, _ = train_and_publish(cubes, weights, CONFIG)
        assert len(record.history) == 3
        assert scalars(logs_of(weights, record)) == expected(record.history)

    def test_they_can_be_followed_while_training_goes_on(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        reported: list[int] = []

        def watch(state: TrainingState) -> None:
            (folder,) = weights.folder.glob(f"training/*/{LOGS}")
            reported.append(len(EventAccumulator(str(folder)).Reload().Scalars("loss/validation")))

        train_and_publish(cubes, weights, CONFIG, watch)
        assert reported == [1, 2, 3]

    @pytest.mark.parametrize("stopped", [1, 3])
    def test_of_an_interrupted_run_tell_each_epoch_once(
        self, stopped: int, cubes: LocalStorage, weights: LocalStorage
    ) -> None:
        """The epoch in which it stopped was logged, and is done and logged again."""
        with pytest.raises(StoppedError):
            train_and_publish(cubes, weights, CONFIG, stopping_at(stopped))
        record, _ = train_and_publish(cubes, weights, CONFIG)
        assert scalars(logs_of(weights, record)) == expected(record.history)

    def test_of_a_run_that_goes_on_for_longer(self, cubes: LocalStorage, weights: LocalStorage) -> None:
        record, _ = train_and_publish(cubes, weights, CONFIG)
        longer, _ = train_and_publish(cubes, weights, small_config(epochs=4))
        assert scalars(logs_of(weights, record)) == expected(longer.history)

    def test_nothing_temporary_is_left_after_an_error(
        self, weights: LocalStorage, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def add_scalar(*_: object) -> None:
            assert list(temporary.glob("zssmnet-*"))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
        state = initial_state(CONFIG, CPU)
        state.progress.add(EpochResult(1, 0.2, 0.1, 0.1))
        with pytest.raises(StorageError, match="cannot be written: No space left on device: make room there"):
            publish_logs(weights, state, VALIDATION, CONFIG)
        assert not weights.list()

    def test_continue_those_of_an_earlier_version(self, weights: LocalStorage) -> None:
        """Which wrote ten epochs into a file, the last of them perhaps without a checkpoint."""
        state = initial_state(CONFIG, CPU)
        (weights.folder / LOGS).mkdir(parents=True)
        with SummaryWriter(str(weights.folder / LOGS)) as writer:
            for epoch in (1, 2, 3):
                writer.add_scalar("loss/validation", 0.1 * epoch, epoch)
        (earlier,) = (weights.folder / LOGS).iterdir()
        earlier.rename(earlier.with_name("events.out.tfevents.epoch0000001"))
        for epoch in (1, 2, 3, 4):
            state.progress.add(EpochResult(epoch, 0.2, epoch, 0.1))
            if epoch > 2:
                publish_logs(weights, state, VALIDATION, CONFIG)
        logs = scalars(EventAccumulator(str(weights.folder / LOGS)).Reload())["loss/validation"]
        assert [epoch for epoch, _ in logs] == [1, 2, 3, 4]
        assert [value for _, value in logs[2:]] == [3, 4]

    def test_training_that_fails_at_once_leaves_no_logs(
        self, cubes: LocalStorage, weights: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def train(*_: object) -> float:
            raise NonFiniteLossError

        monkeypatch.setattr(trainer, "train_epoch", train)
        with pytest.raises(NonFiniteLossError):
            train_and_publish(cubes, weights, CONFIG)
        assert not weights.list()


class CountedStorage(LocalStorage):
    """Counts the bytes that are published."""

    published = 0

    @contextmanager
    def publishing(self, key: str) -> Iterator[Path]:
        with super().publishing(key) as path:
            yield path
            CountedStorage.published += path.stat().st_size


def test_what_is_published_grows_as_the_logs_do(tmp_path: Path) -> None:
    """Not with their square: each epoch is published once."""
    ratios = []
    for epochs in (50, 150):
        workplace = CountedStorage(tmp_path / str(epochs))
        CountedStorage.published = 0
        state = initial_state(CONFIG, CPU)
        for epoch in range(1, epochs + 1):
            state.progress.add(EpochResult(epoch, 0.2, 0.1, 0.1, 0.3, (0.1, 0.2, 0.3)))
            publish_logs(workplace, state, VALIDATION, CONFIG)
        files = [path for path in (tmp_path / str(epochs) / LOGS).iterdir() if path.is_file()]
        ratios.append(CountedStorage.published / sum(path.stat().st_size for path in files))
        logs = scalars(EventAccumulator(str(tmp_path / str(epochs) / LOGS)).Reload())
        assert sorted(epoch for epoch, _ in logs["loss/validation"]) == [*range(1, epochs + 1)]
    assert ratios == [1, 1]


class TestPictures:
    def test_come_in_the_first_epoch_and_now_and_then(
        self, cubes: LocalStorage, weights: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tensorboard, "PICTURE_EVERY", 3)
        record, _ = train_and_publish(cubes, weights, CONFIG)
        logs = logs_of(weights, record)
        assert logs.Tags()["images"] == ["restored cubes"]
        first, third = logs.Images("restored cubes")
        assert (first.step, third.step) == (1, 3)
        picture = np.asarray(Image.open(io.BytesIO(first.encoded_image_string)))
        _, _, x, y, _ = VALIDATION.files[0].shape
        assert picture.shape[:2] == (LOGGED_EXAMPLES * 3 * y, 3 * x)
        assert picture.std() > 30

    def test_nothing_changes_in_training(self, tmp_path: Path, weights: LocalStorage) -> None:
        state = initial_state(CONFIG, CPU)
        state.progress.add(EpochResult(1, 0.2, 0.1, 0.1))
        before = bits(state.model.state_dict()), bits(state.generator.get_state()), bits(torch.get_rng_state())
        publish_logs(weights, state, VALIDATION, CONFIG)
        assert (
            bits(state.model.state_dict()),
            bits(state.generator.get_state()),
            bits(torch.get_rng_state()),
        ) == before


class TestExamples:
    @pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])])
    def test_are_spread_over_the_validation_cubes(self, count: int, shown: list[int]) -> None:
        cubes = WatchedCubes(VALIDATION.files)
        examples = validation_examples(initial_state(CONFIG, CPU).model, cubes, CONFIG, count)
        assert cubes.taken == [shown]
        assert examples.target.shape == (len(shown), 3, 4, 16, 16)

    def test_are_corrupted_as_in_validation(self) -> None:
        model = initial_state(CONFIG, CPU).model
        examples = validation_examples(model, VALIDATION, CONFIG, len(VALIDATION))
        step = Step(model, CONFIG.corruption)
        loss = validate(step, StreamedCubes(VALIDATION, CPU), 2, CONFIG.training.validation_seed).loss
        assert torch.mean((examples.restored - examples.target) ** 2).item() == pytest.approx(loss, rel=1e-6)
        few = validation_examples(model, VALIDATION, CONFIG, 2)
        assert torch.equal(few.corrupted, examples.corrupted[[0, 4]])
