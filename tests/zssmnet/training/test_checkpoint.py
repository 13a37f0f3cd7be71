import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zssmnet.training.examples import CPU, bits, cubes_of, small_config
from zssmnet import load_pretrained
from zssmnet.config import CorruptionConfig, NetworkConfig, PretrainConfig
from zssmnet.corruption import sample_keys, swap_x_and_z
from zssmnet.errors import CheckpointError, InputError
from zssmnet.storage import LocalStorage
from zssmnet.training.checkpoint import (
    BEST,
    LAST,
    EpochResult,
    Progress,
    TrainingState,
    check_best,
    load_checkpoint,
    publish_best,
    publish_last,
    resume,
)
from zssmnet.training.epoch import training_step
from zssmnet.training.step import Step
from zssmnet.training.trainer import initial_state


def state_after(losses: list[float], config: PretrainConfig | None = None) -> TrainingState:
    """A run after epochs with these validation losses, its optimizer and generator no longer new."""
    state = initial_state(config or small_config(), CPU)
    for number, loss in enumerate(losses, 1):
        for weight in state.model.parameters():
            weight.grad = torch.rand(weight.shape, generator=state.generator)
        state.optimizer.step()
        state.schedule.step()
        state.progress.add(EpochResult(number, 2 * loss, loss, 0.1))
    return state


def contents(state: TrainingState) -> dict[str, Any]:
    return {
        "weights": bits(state.model.state_dict()),
        "optimizer": bits(state.optimizer.state_dict()),
        "schedule": state.schedule.state_dict(),
        "generator": bits(state.generator.get_state()),
        "progress": state.progress,
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish_best(LocalStorage(folder), state_after([3, 1]))
    publish_last(LocalStorage(folder), state_after([3, 1, 2]))
    return folder


@pytest.fixture
def workplace(published: Path, tmp_path: Path) -> LocalStorage:
    """A run's folder after three epochs, of which the second was the best."""
    return LocalStorage(shutil.copytree(published, tmp_path / "run"))


def change(workplace: LocalStorage, **changes: Any) -> None:
    torch.save(torch.load(workplace.local(LAST), weights_only=True) | changes, workplace.local(LAST))


def refusal(workplace: LocalStorage, config: PretrainConfig | None = None) -> str:
    """The message with which a checkpoint is refused: one line that names it and says what to do."""
    with pytest.raises(CheckpointError) as caught:
        resume(workplace, initial_state(config or small_config(), CPU))
    message = str(caught.value)
    assert message.startswith(workplace.where(LAST))
    assert message.endswith("to start anew")
    assert "\n" not in message
    assert len(message) < 500
    return message


class TestProgress:
    def test_best_is_the_lowest_and_of_equals_the_first(self) -> None:
        progress = Progress()
        losses = [3.0, 2.0, 2.0, 2.5, 1.0]
        assert [progress.add(EpochResult(i, 0, loss, 0)) for i, loss in enumerate(losses, 1)] == [
            *(True, True, False, False, True)
        ]
        assert (progress.epoch, progress.best_epoch, progress.best_loss) == (5, 5, 1.0)


class TestBestModel:
    def test_holds_what_the_published_program_does_on_the_cpu(self, tmp_path: Path) -> None:
        state = state_after([2, 1])
        publish_best(LocalStorage(tmp_path), state)
        content = torch.load(tmp_path / BEST, weights_only=True)
        assert list(content) == ["epoch", "state_dict", "optimizer_state_dict"]
        assert content["epoch"] == 2
        assert bits(content["state_dict"]) == bits(state.model.state_dict())
        assert bits(content["optimizer_state_dict"]) == bits(state.optimizer.state_dict())
        assert {tensor.device for tensor in content["state_dict"].values()} == {CPU}

    @pytest.mark.parametrize("merge", ["sub", "sum", "cat"])
    def test_all_but_the_heads_are_loaded_for_the_next_step(self, tmp_path: Path, merge: Any) -> None:
        network = NetworkConfig(channels=(2, 3, 4, 5, 6), merge=merge)
        state = state_after([1], small_config().model_copy(update={"network": network}))
        publish_best(LocalStorage(tmp_path), state)
        loaded = load_pretrained(tmp_path / BEST, num_classes=2, merge=merge).state_dict()
        trained = state.model.state_dict()
        assert loaded.keys() == trained.keys()
        same = {name for name in loaded if torch.equal(loaded[name], trained[name])}
        assert same == {name for name in loaded if not name.startswith("outputs.")}

    def test_names_and_shapes_are_those_of_published_checkpoints(self, tmp_path: Path, golden: Path) -> None:
        publish_best(LocalStorage(tmp_path), initial_state(PretrainConfig(), CPU))
        weights = torch.load(tmp_path / BEST, weights_only=True)["state_dict"]
        expected = json.loads((golden / "mnet_state_dict.json").read_text())
        assert [(name, list(weight.shape)) for name, weight in weights.items()] == list(expected.items())


class TestLastCheckpoint:
    def test_brings_everything_back(self, workplace: LocalStorage) -> None:
        state = initial_state(small_config(seed=5), CPU)
        resume(workplace, state)
        assert contents(state) == contents(state_after([3, 1, 2]))
        assert (state.progress.best_epoch, state.progress.best_loss) == (2, 1)

    def test_takes_part_in_what_follows(self, workplace: LocalStorage) -> None:
        state = initial_state(small_config(seed=5), CPU)
        resume(workplace, state)
        assert state.progress.add(EpochResult(4, 0, 1.5, 0.1)) is False
        assert state.progress.add(EpochResult(5, 0, 0.5, 0.1)) is True

    def test_of_the_best_epoch_brings_its_model_back(self, tmp_path: Path) -> None:
        workplace, state = LocalStorage(tmp_path), state_after([3, 2])
        publish_best(workplace, state)
        expected = (tmp_path / BEST).read_bytes()
        publish_last(workplace, state)
        for found in (None, b"of epoch 1"):
            (tmp_path / BEST).unlink()
            if found:
                (tmp_path / BEST).write_bytes(found)
            resume(workplace, initial_state(small_config(), CPU))
            assert (tmp_path / BEST).read_bytes() == expected

    def test_without_the_best_model(self, workplace: LocalStorage) -> None:
        workplace.remove(BEST)
        assert "the best model, best.model, is gone from its folder" in refusal(workplace)


class TestBestModelReadBack:
    @pytest.fixture
    def progress(self) -> Progress:
        return state_after([3, 1, 2]).progress

    def refusal(self, workplace: LocalStorage, progress: Progress) -> str:
        with pytest.raises(CheckpointError) as caught:
            check_best(workplace, progress)
        assert str(caught.value).startswith(workplace.where(BEST))
        assert str(caught.value).endswith("to start anew")
        return str(caught.value)

    def test_as_it_was_published(self, workplace: LocalStorage, progress: Progress) -> None:
        check_best(workplace, progress)

    def test_of_another_epoch(self, workplace: LocalStorage) -> None:
        assert "is not the model of epoch 1" in self.refusal(workplace, state_after([1, 2]).progress)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_that_is_not_finite(self, value: float, workplace: LocalStorage, progress: Progress) -> None:
        content = torch.load(workplace.local(BEST), weights_only=True)
        content["state_dict"]["outputs.5.weight"][1] = value
        torch.save(content, workplace.local(BEST))
        assert "1 of 343 tensors are not finite" in self.refusal(workplace, progress)

    @pytest.mark.parametrize(
        "content", [{}, {"epoch": 2}, {"epoch": 2, "state_dict": {}}, {"epoch": 2, "state_dict": 3}]
    )
    def test_without_weights(self, content: dict, workplace: LocalStorage, progress: Progress) -> None:
        torch.save(content, workplace.local(BEST))
        assert "is not the model of epoch 2" in self.refusal(workplace, progress)


@pytest.mark.parametrize("name", [LAST, BEST])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_wrong_bit_in_a_weight_is_found(name: str, place: float, workplace: LocalStorage) -> None:
    """PyTorch alone would load it."""
    path = workplace.local(name)
    data = bytearray(path.read_bytes())
    tensor = max(torch.load(path, weights_only=True)["state_dict"].values(), key=torch.Tensor.numel).numpy().tobytes()
    where = data.index(tensor) + int(place * len(tensor))
    data[where] ^= 0x10
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match="not a readable checkpoint; remove it to start anew"):
        load_checkpoint(path)


def test_checkpoints_of_earlier_versions_go_on(workplace: LocalStorage) -> None:
    """They tell nothing of explained variance and spread."""
    reported = {"train_loss": 0.5, "validation_loss": 0.25, "learning_rate": 0.1}
    change(workplace, history=[{"epoch": epoch, **reported} for epoch in (1, 2, 3)], best_epoch=1, best_loss=0.25)
    state = initial_state(small_config(), CPU)
    resume(workplace, state)
    assert state.progress.history == [EpochResult(epoch, 0.5, 0.25, 0.1, None, None) for epoch in (1, 2, 3)]


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_folder_in_its_place_is_known_before_any_epoch(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: is a folder, and a file of this name is to be written; move it"):
        resume(LocalStorage(tmp_path), initial_state(small_config(), CPU))


class TestRefusals:
    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
    def test_truncated(self, workplace: LocalStorage, kept: float) -> None:
        whole = workplace.read(LAST)
        workplace.local(LAST).write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
        assert "not a readable checkpoint" in refusal(workplace)

    @pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x04", bytes(5000), b"c__main__\nnothing\n."])
    def test_no_checkpoint(self, workplace: LocalStorage, content: bytes) -> None:
        workplace.local(LAST).write_bytes(content)
        assert "not a readable checkpoint" in refusal(workplace)

    @pytest.mark.parametrize("seed", range(10))
    def test_damaged_bytes_never_end_in_another_error(self, workplace: LocalStorage, seed: int) -> None:
        """Where damage meets the values of a tensor alone it may go unseen."""
        damaged = bytearray(workplace.read(LAST))
        rng = np.random.default_rng(seed)
        for position in rng.integers(0, len(damaged), 200):
            damaged[position] ^= rng.integers(1, 256)
        workplace.local(LAST).write_bytes(damaged)
        try:
            resume(workplace, initial_state(small_config(), CPU))
        except CheckpointError as error:
            assert "\n" not in str(error)

    def test_something_else(self, workplace: LocalStorage) -> None:
        torch.save([1, 2], workplace.local(LAST))
        assert "holds a list, not a checkpoint" in refusal(workplace)

    def test_of_another_shape(self, workplace: LocalStorage) -> None:
        other = small_config().model_copy(update={"network": NetworkConfig(channels=(3, 3, 3, 3, 3))})
        message = refusal(workplace, other)
        assert "does not fit: Error(s) in loading state_dict for MNet: size mismatch for down11" in message

    @pytest.mark.parametrize(
        "part",
        ["state_dict", "optimizer_state_dict", "schedule_state_dict", "generator_state", "history", "best_loss"],
    )
    def test_without_a_part(self, workplace: LocalStorage, part: str) -> None:
        content = torch.load(workplace.local(LAST), weights_only=True)
        del content[part]
        torch.save(content, workplace.local(LAST))
        assert f"does not fit: lacks '{part}'" in refusal(workplace)

    @pytest.mark.parametrize(
        "part", ["state_dict", "optimizer_state_dict", "schedule_state_dict", "generator_state", "history"]
    )
    @pytest.mark.parametrize("value", [None, 5, [5], torch.zeros(3)])
    def test_with_a_part_of_another_kind(self, workplace: LocalStorage, part: str, value: object) -> None:
        change(workplace, **{part: value})
        refusal(workplace)

    def test_code_is_never_run(self, workplace: LocalStorage, tmp_path: Path) -> None:
        torch.save({"epoch": _Code(tmp_path / "ran")}, workplace.local(LAST))
        assert "not a readable checkpoint" in refusal(workplace)
        assert not (tmp_path / "ran").exists()

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"nothing\.model: not a readable checkpoint"):
            load_checkpoint(tmp_path / "nothing.model")


class _Code:
    """What a pickle can do: calling anything on loading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


class TestMemoryLayout:
    """Checkpoints are contiguous, weights channels-last; a fused step takes each momentum with its weight's strides."""

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_a_fused_step_after_resuming_is_the_uninterrupted_one(self, optimizer: str, tmp_path: Path) -> None:
        config = small_config(optimizer=optimizer).model_copy(
            update={"network": NetworkConfig(channels=(4, 6, 8, 10, 12))}
        )
        workplace = LocalStorage(tmp_path)
        uninterrupted = fused_state(config)
        for seed in (0, 1):
            step(uninterrupted, seed)
        uninterrupted.schedule.step()
        uninterrupted.progress.add(EpochResult(1, 0.2, 0.1, 0.1))
        publish_last(workplace, uninterrupted)
        resumed = fused_state(config)
        resume(workplace, resumed)
        strides = [
            (buffer.stride(), weight.stride())
            for weight, buffers in resumed.optimizer.state.items()
            for buffer in buffers.values()
            if buffer.shape == weight.shape
        ]
        assert strides
        assert all(of_buffer == of_weight for of_buffer, of_weight in strides)
        for state in (uninterrupted, resumed):
            step(state, 2)
        assert bits(resumed.model.state_dict()) == bits(uninterrupted.model.state_dict())
        assert bits(resumed.optimizer.state_dict()) == bits(uninterrupted.optimizer.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_of_biases_from_an_earlier_version_is_kept_and_moves_nothing(optimizer: str, tmp_path: Path) -> None:
    """Biases before norms were trained once, by gradients that were zero but for rounding."""
    config, workplace = small_config(optimizer=optimizer, weight_decay=0.1), LocalStorage(tmp_path)
    publish_last(workplace, state_after([0.1], config))
    resumed = initial_state(config, CPU)
    resume(workplace, resumed)
    named = dict(resumed.model.named_parameters())
    biases = {name for name in named if name.endswith("conv.bias")}
    assert biases <= {name for name in named if resumed.optimizer.state[named[name]]}
    before = {name: (bits(weight), bits(resumed.optimizer.state[weight])) for name, weight in named.items()}
    step(resumed, 0)
    changed = {name for name, w in named.items() if (bits(w), bits(resumed.optimizer.state[w])) != before[name]}
    assert changed == {name for name in named if name not in biases and not name.startswith("outputs.")} | {
        "outputs.0.weight"
    }


def fused_state(config: PretrainConfig) -> TrainingState:
    """As on a GPU, where one kernel updates all weights."""
    state = initial_state(config, CPU)
    state.optimizer.param_groups[0]["fused"] = True
    return state


def step(state: TrainingState, seed: int) -> None:
    cubes = swap_x_and_z(torch.from_numpy(cubes_of(2, seed, (32, 32, 8))))
    keys = sample_keys(2, torch.Generator().manual_seed(seed))
    training_step(Step(state.model, CorruptionConfig()), state.optimizer, cubes, keys)
