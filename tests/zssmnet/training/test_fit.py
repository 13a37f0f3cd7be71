import logging
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.zssmnet.training.examples import (
    CPU,
    StoppedError,
    WatchedCubes,
    bits,
    cubes_of,
    saturate,
    small_config,
    stop,
    stopping_at,
)
from zssmnet.config import TrainingConfig
from zssmnet.corruption import sample_keys
from zssmnet.errors import CollapsedError, InputError, NonFiniteLossError
from zssmnet.storage import LocalStorage
from zssmnet.training import epoch, fit, trainer
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.checkpoint import BEST, LAST, Progress, TrainingState
from zssmnet.training.dataset import CubeSet
from zssmnet.training.diagnostics import training_warnings
from zssmnet.training.epoch import Validation, validate
from zssmnet.training.fit import is_finished
from zssmnet.training.loss import restoration_loss
from zssmnet.training.precision import choose_device
from zssmnet.training.step import Step
from zssmnet.training.trainer import initial_state

TRAINING, VALIDATION = CubeSet([cubes_of(5)]), CubeSet([cubes_of(3, seed=9)])
CONFIG = small_config(epochs=4, learning_rate=3.0)
"""Its validation loss falls in the epochs 1 and 2, and not afterwards."""
FALLING = [1 / epoch for epoch in range(1, 41)]


def run(folder: Path, config=CONFIG, training: CubeSet = TRAINING, **others: Any) -> TrainingState:
    return fit.fit(training, VALIDATION, config, LocalStorage(folder), **others)


def everything(state: TrainingState, folder: Path) -> dict[str, Any]:
    """All that training leaves, bit for bit."""
    return {
        "weights": bits(state.model.state_dict()),
        "optimizer": bits(state.optimizer.state_dict()),
        "schedule": state.schedule.state_dict(),
        "generator": bits(state.generator.get_state()),
        "progress": state.progress,
        "files": {path.name: path.read_bytes() for path in folder.iterdir()},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    left = everything(run(folder), folder)
    assert left["progress"].best_epoch == 2
    assert set(left["files"]) == {LAST, BEST}
    return left


class TestResuming:
    """An interrupted run ends where an uninterrupted one ends, bit for bit."""

    @pytest.mark.parametrize("done", [2, *(pytest.param(done, marks=pytest.mark.long) for done in (1, 3, 4))])
    def test_after_any_epoch(self, done: int, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        run(tmp_path, small_config(epochs=done, learning_rate=3.0))
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    def test_after_every_epoch(self, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        for done in (1, 2, 3):
            run(tmp_path, small_config(epochs=done, learning_rate=3.0))
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    @pytest.mark.parametrize("stopped", [2, *(pytest.param(stopped, marks=pytest.mark.long) for stopped in (1, 3))])
    def test_before_an_epochs_checkpoint(self, stopped: int, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        with pytest.raises(StoppedError):
            run(tmp_path, on_epoch=stopping_at(stopped))
        published = torch.load(tmp_path / LAST, weights_only=True)["epoch"] if stopped > 1 else 0
        assert published == stopped - 1  # so that what the epoch was to report is reported again
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    def test_in_the_midst_of_an_epoch(
        self, tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(epoch, "CHECK_EVERY", 1)
        steps: list[tuple[int, int]] = []

        def stopping_in_third_epoch(*step: int) -> None:
            steps.append(step)  # type: ignore[arg-type]
            if len(steps) == 5:
                raise StoppedError

        with pytest.raises(StoppedError):
            run(tmp_path, on_step=stopping_in_third_epoch)
        assert steps[-1] == (1, 2)
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    @pytest.mark.parametrize("publish", ["publish_last", "publish_best"])
    def test_at_publishing(
        self, publish: str, tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In epoch 2, the best: killed before the checkpoint, or between it and the best model."""
        run(tmp_path, small_config(epochs=1, learning_rate=3.0))
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(fit, publish, stop)
            run(tmp_path)
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    def test_between_checkpoint_and_best_model_with_nothing_left_to_do(
        self, tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        two = small_config(epochs=2, learning_rate=3.0)
        run(tmp_path, small_config(epochs=1, learning_rate=3.0))
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(fit, "publish_best", stop)
            run(tmp_path, two)
        run(tmp_path, two)
        assert (tmp_path / BEST).read_bytes() == uninterrupted["files"][BEST]

    def test_a_finished_run_does_nothing(self, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        run(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert everything(run(tmp_path, on_epoch=stop, on_step=stop), tmp_path) == uninterrupted
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    def test_says_where_it_continues(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "zssmnet"):
            best = run(tmp_path, small_config(epochs=1, learning_rate=3.0)).progress.best_loss
            run(tmp_path)
        assert caplog.messages[0].startswith("epoch 1 of 1: training loss 0.1")
        assert caplog.messages[1] == f"continuing after epoch 1, best validation loss {best:.5f}"
        assert [line.split(":")[0] for line in caplog.messages[2:]] == [f"epoch {n} of 4" for n in (2, 3, 4)]


class TestSeeds:
    def test_one_seed_one_result(self, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        torch.manual_seed(123)
        random.seed(123)
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    def test_another_seed_another_network_order_and_corruption(self) -> None:
        one, other = (initial_state(small_config(seed=seed), CPU) for seed in (0, 1))
        pairs = zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True)
        alike = [name for (name, weight), other_weight in pairs if torch.equal(weight, other_weight)]
        assert all(".norm." in name for name in alike)
        assert not torch.equal(one.generator.get_state(), other.generator.get_state())

    def test_the_global_generators_are_left_alone(self, tmp_path: Path) -> None:
        def left_alone(folder: Path) -> bool:
            before = torch.get_rng_state(), random.getstate()
            run(folder, small_config(epochs=1))
            assert torch.equal(torch.get_rng_state(), before[0])
            return random.getstate() == before[1]

        # threads of Prefect's client, which other tests have started, use Python's at any time
        assert any(left_alone(tmp_path / str(number)) for number in range(5))

    @pytest.mark.parametrize("seed", [0, 7])
    def test_validation_has_a_seed_of_its_own(self, tmp_path: Path, seed: int) -> None:
        config = small_config(epochs=1, seed=seed, validation_seed=3)
        state = run(tmp_path, config)
        for validation_seed in (3, 4):
            loss = validate(
                Step(state.model, config.corruption), StreamedCubes(VALIDATION, CPU), 3, validation_seed
            ).loss
            recorded = state.progress.history[0].validation_loss
            assert (loss == pytest.approx(recorded, rel=1e-6)) == (validation_seed == 3)


def test_the_recipe_is_sgd_with_momentum_and_without_weight_decay(tmp_path: Path) -> None:
    """Two epochs of MNet against v <- 0.9 v + g, w <- w - rate v, written down."""
    config = small_config(epochs=2, halve_every=1)
    state = run(tmp_path, config)
    expected = initial_state(config, CPU)
    weights = [weight for name, weight in expected.model.named_parameters() if not is_unused(name)]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for rate in (0.1, 0.05):
        order = torch.randperm(5, generator=expected.generator)
        for step in range(2):
            cubes, keys = TRAINING.batch(order[2 * step : 2 * step + 2]), sample_keys(2, expected.generator)
            gradients = torch.autograd.grad(restoration_loss(expected.model, cubes, keys, config.corruption), weights)
            with torch.no_grad():
                for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient)
                    weight.add_(velocity, alpha=-rate)
    for (name, weight), other in zip(state.model.named_parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(weight, other), name


def is_unused(name: str) -> bool:
    """Whether pre-training leaves a parameter as it was: of a head for deep supervision, or a bias before a norm."""
    return name.endswith("conv.bias") or (name.startswith("outputs.") and not name.startswith("outputs.0."))


class TestInitialWeights:
    def test_come_from_the_file_and_all_else_from_the_seed(self, tmp_path: Path) -> None:
        run(tmp_path, small_config(epochs=1))
        state, fresh = initial_state(CONFIG, CPU, tmp_path / BEST), initial_state(CONFIG, CPU)
        assert bits(state.model.state_dict()) == bits(torch.load(tmp_path / BEST)["state_dict"])
        assert state.optimizer.state_dict() == fresh.optimizer.state_dict()
        assert state.schedule.state_dict() == fresh.schedule.state_dict()
        assert torch.equal(state.generator.get_state(), fresh.generator.get_state())
        assert state.progress == fresh.progress

    def test_a_run_that_goes_on_needs_them_no_more(self, tmp_path: Path) -> None:
        initial = tmp_path / "first" / BEST
        run(tmp_path / "first", small_config(epochs=1))
        expected = everything(run(tmp_path / "whole", initial=initial), tmp_path / "whole")
        run(tmp_path / "parts", small_config(epochs=2, learning_rate=3.0), initial=initial)
        assert everything(run(tmp_path / "parts", initial=initial), tmp_path / "parts") == expected

    def test_a_file_s_loss_is_that_of_its_epoch_exactly(self, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
        (tmp_path / BEST).write_bytes(uninterrupted["files"][BEST])
        assert fit.evaluate(tmp_path / BEST, VALIDATION, CONFIG) == uninterrupted["progress"].best_loss

    def test_of_a_model_that_has_diverged_it_is_infinite(self, tmp_path: Path) -> None:
        run(tmp_path, small_config(epochs=1))
        content = torch.load(tmp_path / BEST)
        next(iter(content["state_dict"].values())).fill_(math.nan)
        torch.save(content, tmp_path / BEST)
        assert fit.evaluate(tmp_path / BEST, VALIDATION, CONFIG) == math.inf


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[float]]]:
    """Training without a network: ``quick(folder, losses, **recipe)`` gives the learning rates of the epochs."""

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, *_: object) -> float:
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        return 0.5

    def train_with(folder: Path, losses: list[float], **recipe: Any) -> list[float]:
        rates.clear()
        monkeypatch.setattr(trainer, "train_epoch", train)
        ones = (1.0, 1.0, 1.0)
        monkeypatch.setattr(
            trainer, "validate", lambda *_, **__: Validation(losses[len(progress.history)], 0.5, ones, ones)
        )
        progress = Progress()
        monkeypatch.setattr(trainer, "Progress", lambda channel_weights: progress)
        run(folder, small_config(**recipe))
        assert [result.validation_loss for result in progress.history] == losses[: progress.epoch]
        return list(rates)

    rates: list[float] = []
    yield train_with


class TestSchedule:
    def test_the_rate_is_halved_every_twelve_epochs_exactly(self, tmp_path: Path, quick) -> None:
        rates = quick(tmp_path, FALLING, epochs=26, halve_every=TrainingConfig().halve_every)
        assert rates == [0.1] * 12 + [0.05] * 12 + [0.025] * 2

    def test_interruptions_do_not_change_it(self, tmp_path: Path, quick) -> None:
        rates = [quick(tmp_path, FALLING, epochs=epoch, halve_every=3) for epoch in range(1, 11)]
        assert rates == [[0.1 * 0.5 ** (epoch // 3)] for epoch in range(10)]

    def test_history_tells_the_rate_of_each_epoch(self, uninterrupted: dict[str, Any]) -> None:
        reported = [(result.epoch, result.learning_rate) for result in uninterrupted["progress"].history]
        assert reported == [(1, 3.0), (2, 3.0), (3, 1.5), (4, 1.5)]


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("losses", "patience", "epochs"),
        [
            ([5, 4, 4.5, 4.1, 4.2, 1], 3, 5),  # best in 2, and three epochs without a better one
            ([5, 5, 5, 5], 2, 3),  # the same is not better
            ([5, 6, 4, 6, 3, 6, 6, 1], 2, 7),  # patience begins anew with each best
            ([1, 2, 3], 1, 2),
            ([3, 2, 1, 9, 9], 20, 5),
        ],
    )
    @pytest.mark.parametrize("interrupted", [False, True])
    def test_stops_after_patience_without_a_better_loss(
        self, losses: list[float], patience: int, epochs: int, interrupted: bool, tmp_path: Path, quick
    ) -> None:
        longest = len(losses)
        done = 0
        for until in range(1, longest + 1) if interrupted else [longest]:
            done += len(quick(tmp_path, losses, epochs=until, patience=patience))
        assert done == epochs
        assert quick(tmp_path, losses, epochs=longest, patience=patience) == []

    @pytest.mark.parametrize(
        ("done", "best", "finished"), [(0, 0, False), (9, 9, False), (10, 10, True), (9, 6, True), (9, 7, False)]
    )
    def test_the_end(self, done: int, best: int, finished: bool) -> None:
        progress = Progress([None] * done, best, 1.0)  # type: ignore[list-item]
        assert is_finished(progress, TrainingConfig(epochs=10, patience=3)) == finished


class TestLossThatIsNotFinite:
    def test_the_last_good_checkpoint_stays_and_training_can_go_on_from_it(
        self, tmp_path: Path, uninterrupted: dict[str, Any]
    ) -> None:
        array = cubes_of(5)

        def spoil(state: TrainingState) -> None:
            array[:, 0, 3, 3, 3] = math.nan if state.progress.epoch == 3 else array[:, 0, 3, 3, 3]

        with pytest.raises(NonFiniteLossError, match="the loss is nan after step 2 of 2"):
            run(tmp_path, training=CubeSet([array]), on_epoch=spoil)
        assert {path.name for path in tmp_path.iterdir()} == {LAST, BEST}
        assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 3
        assert (tmp_path / BEST).read_bytes() == uninterrupted["files"][BEST]
        assert everything(run(tmp_path), tmp_path) == uninterrupted

    def test_a_huge_learning_rate(self, tmp_path: Path) -> None:
        with pytest.raises(NonFiniteLossError, match=r"^the loss is nan .*; try a smaller learning rate, .*$"):
            run(tmp_path, small_config(learning_rate=1e30))
        assert not list(tmp_path.iterdir())


class TestWhere:
    """An error tells the epoch, and where training can go on from."""

    def test_in_the_first_epoch(self, tmp_path: Path) -> None:
        with pytest.raises(NonFiniteLossError, match=r"reports \(epoch 1; there is no checkpoint yet\)$"):
            run(tmp_path, small_config(learning_rate=1e30))

    def test_in_validation_after_good_epochs(self, tmp_path: Path) -> None:
        array = cubes_of(3, seed=9)

        def spoil(state: TrainingState) -> None:
            array[2] = math.nan if state.progress.epoch == 2 else array[2]

        with pytest.raises(NonFiniteLossError) as caught:
            fit.fit(TRAINING, CubeSet([array]), CONFIG, LocalStorage(tmp_path), spoil)
        where = f"(epoch 3; last checkpoint: {tmp_path / LAST}, of epoch 2)"
        assert str(caught.value).startswith("the loss is nan in validation: training stops")
        assert str(caught.value).endswith(where)
        assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 2

    def test_weights_that_are_not_finite_though_the_loss_is(self, tmp_path: Path) -> None:
        with pytest.raises(NonFiniteLossError, match=r"1 of \d+ tensors of weights are not finite .* \(epoch 1; "):
            run(
                tmp_path / "run", initial=initial(tmp_path, lambda weights: weights["outputs.3.weight"].fill_(math.inf))
            )
        assert not (tmp_path / "run").exists()


def initial(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A file of the weights that ``CONFIG`` begins with, changed."""
    weights = initial_state(CONFIG, CPU).model.state_dict()
    change(weights)
    torch.save({"state_dict": weights}, folder / "initial.model")
    return folder / "initial.model"


class TestCollapse:
    @pytest.mark.parametrize(
        ("head", "channels"),
        [
            ((100.0, 100.0, 100.0), "T2W, ADC, DWI"),
            ((-25.0, -25.0, -25.0), "T2W, ADC, DWI"),
            ((0.1, 0.1, -25.0), "DWI"),
            ((100.0, 0.1, 0.1), "T2W"),
        ],
        ids=["bright", "dark", "dark DWI", "bright T2W"],
    )
    def test_of_any_channel_dark_or_bright_ends_training_within_an_epoch(
        self, head: tuple[float, float, float], channels: str, tmp_path: Path
    ) -> None:
        """The head's weights are those of logits; nothing is published, and nothing is kept that began so."""
        initial_weights = initial(tmp_path, partial(saturate, head=head))
        for _ in range(2):  # the second run finds nothing done
            with pytest.raises(CollapsedError) as caught:
                run(tmp_path / "run", small_config(epochs=1), initial=initial_weights)
            assert str(caught.value) == (
                f"the network restores a constant for {channels}, and epoch 1 changed nothing: it cannot learn that "
                "any more; train anew with a smaller learning_rate or another --seed"
            )
        assert not list((tmp_path / "run").glob("*.*"))

    @pytest.mark.parametrize("head", [(-25.0, -25.0, -25.0), (0.1, -25.0, 0.1)])
    def test_in_the_course_of_training_too(self, head: tuple[float, float, float], tmp_path: Path) -> None:
        def collapse(state: TrainingState) -> None:
            if state.progress.epoch == 2:
                saturate(state.model.state_dict(), head)

        with pytest.raises(CollapsedError, match=r"and epoch 4 changed nothing: .*; the best model so far is kept"):
            run(tmp_path / "run", small_config(epochs=6), on_epoch=collapse)
        assert torch.load(tmp_path / "run" / LAST, weights_only=True)["epoch"] == 3
        with pytest.raises(CollapsedError, match="and epoch 4 changed nothing"):  # resumed, it finds the same
            run(tmp_path / "run", small_config(epochs=6))

    def test_a_learning_rate_too_small_for_the_weights_is_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        progress = run(tmp_path, small_config(epochs=4, learning_rate=1e-30)).progress
        assert len({result.validation_loss for result in progress.history}) == 1
        (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
        assert warning.startswith("epoch 2: the validation loss is that of the epoch before to the last digit: the wei")
        assert "at the learning rate 1e-30 it cannot improve" in warning

    @pytest.mark.parametrize("rate", [0.01, 0.1, 1.0, 10.0])
    def test_young_networks_are_left_alone(self, rate: float, tmp_path: Path) -> None:
        progress = run(tmp_path, small_config(epochs=3, learning_rate=rate)).progress
        assert progress.epoch == 3
        assert all(training_warnings(progress.history[:done], 2) == {} for done in (1, 2, 3))


class TestMemory:
    def test_cubes_are_taken_a_batch_at_a_time(self, tmp_path: Path) -> None:
        training = WatchedCubes(TRAINING.files)
        run(tmp_path, small_config(epochs=1), training)
        assert [len(batch) for batch in training.taken] == [2, 2]


class TestDevice:
    @pytest.mark.parametrize(
        ("name", "has_gpu", "device"),
        [
            ("auto", False, "cpu"),
            ("auto", True, "cuda"),
            ("cpu", True, "cpu"),
            ("cuda", True, "cuda"),
            ("mps", False, "mps"),
        ],
    )
    def test_choice(self, name: str, has_gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert choose_device(name) == torch.device(device)

    @pytest.mark.parametrize(("name", "called"), [("cuda", "CUDA device"), ("mps", r"Apple GPU \(mps\)")])
    def test_no_gpu_where_one_is_asked_for(
        self, name: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(InputError, match=rf"^no {called} can be used here; choose --device auto or --device cpu$"):
            run(tmp_path, small_config(device=name))
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
class TestCuda:
    def test_learns_as_the_cpu_does(self, tmp_path: Path) -> None:
        there, here = (
            run(tmp_path / device, small_config(epochs=1, device=device, precision="float32"))
            for device in ("cpu", "cuda")
        )
        assert next(here.model.parameters()).is_cuda
        assert bits(here.generator.get_state()) == bits(there.generator.get_state())
        for name in ("train_loss", "validation_loss"):
            expected = getattr(there.progress.history[0], name)
            assert getattr(here.progress.history[0], name) == pytest.approx(expected, rel=1e-2)

    def test_files_hold_cpu_tensors_and_the_cpu_can_go_on(self, tmp_path: Path) -> None:
        state = run(tmp_path, small_config(epochs=1, device="cuda"))
        content = torch.load(tmp_path / BEST, weights_only=True)
        assert all(not tensor.is_cuda for tensor in content["state_dict"].values())
        assert bits(content["state_dict"]) == bits(state.model.state_dict())
        continued = run(tmp_path, small_config(epochs=2))
        assert continued.progress.history[:1] == state.progress.history
        assert continued.progress.epoch == 2

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_goes_on_from_a_checkpoint(self, optimizer: Any, tmp_path: Path) -> None:
        """The fused optimizer demands that a buffer lies in memory as its weight does."""
        whole = run(tmp_path / "whole", small_config(epochs=2, device="cuda", optimizer=optimizer))
        run(tmp_path / "parts", small_config(epochs=1, device="cuda", optimizer=optimizer))
        parts = run(tmp_path / "parts", small_config(epochs=2, device="cuda", optimizer=optimizer))
        for weight, buffers in parts.optimizer.state.items():
            assert all(one.stride() == weight.stride() for one in buffers.values() if one.shape == weight.shape)
        one, other = (state.progress.history[1] for state in (whole, parts))
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-2)

    def test_the_gpus_global_generator_is_left_alone(self, tmp_path: Path) -> None:
        before = torch.cuda.get_rng_state()
        run(tmp_path, small_config(epochs=1, device="cuda"))
        assert torch.equal(torch.cuda.get_rng_state(), before)
