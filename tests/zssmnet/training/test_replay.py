"""A step is fit for CUDA graphs: it keeps nothing that the next one overwrites, and its weights stay where they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported

from tests.zssmnet.training.examples import CPU, bits, cubes_of, small_config
from tests.zssmnet.training.replay import MovedError, Replay, what_keeps_it_from_being_recorded
from zssmnet.mnet import MNet
from zssmnet.training import epoch
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.dataset import CubeSet
from zssmnet.training.optimizer import make_optimizer
from zssmnet.training.precision import Accelerated
from zssmnet.training.step import Step

CUBES = StreamedCubes(CubeSet([cubes_of(7)]), CPU)
OnStep = Callable[[nn.Module], None]


class Trained:
    """Two epochs of three steps, each with its validation, of a network of two convolutions.

    Args:
        backend: of `torch.compile`.
        loss_scale: initial one of float16's scaler; 1: no scaler.
        on_step: what is done after each step.
    """

    def __init__(self, backend: Any, loss_scale: float = 1.0, on_step: OnStep = lambda network: None) -> None:
        torch.compiler.reset()
        torch.manual_seed(3)
        layers = (nn.Conv3d(6, 4, 3, padding=1), nn.LeakyReLU(0.01), nn.Conv3d(4, 3, 3, padding=1))
        network = Accelerated(nn.Sequential(*layers).to(memory_format=torch.channels_last_3d), CPU, "float32")
        network.compile(backend=backend, dynamic=False)
        config = small_config()
        optimizer, generator = make_optimizer(network, CPU, config.training), torch.Generator().manual_seed(0)
        scaler = torch.amp.GradScaler("cpu", init_scale=loss_scale)
        self.shown: list[Tensor] = []
        self.figures: list[float] = []
        for _ in range(2):
            self.figures.append(
                epoch.train_epoch(
                    Step(network, config.corruption),
                    optimizer,
                    CUBES,
                    2,
                    generator,
                    lambda done, steps: on_step(network),
                    scaler=scaler if loss_scale != 1 else None,
                    on_check=lambda step, restored: self.shown.append(restored),
                )
            )
            validation = epoch.validate(Step(network, config.corruption), CUBES, 2, seed=1, fill=True)
            self.figures += [validation.loss, validation.explained, *validation.spread]
        self.weights = network.model.state_dict()


@pytest.fixture(autouse=True)
def checked_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "CHECK_EVERY", 1)


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_replayed_steps_are_computed_ones_to_the_last_bit(loss_scale: float) -> None:
    replay = Replay()
    replayed, computed = Trained(replay, loss_scale), Trained("aot_eager", loss_scale)
    assert replay.graphs == 3  # training forward and backward, validation
    assert bits(replayed.weights) == bits(computed.weights)
    assert replayed.figures == computed.figures
    assert len(replayed.shown) == 6
    assert all(torch.equal(one, other) for one, other in zip(replayed.shown, computed.shown, strict=True))


def test_gradients_that_are_kept_are_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would be if they were set to zero instead of given back: the next ones lie where they lay."""
    zero_grad = torch.optim.Optimizer.zero_grad
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, **_: zero_grad(self, set_to_none=False))
    replayed, computed = Trained(Replay()), Trained("aot_eager")
    assert bits(replayed.weights) != bits(computed.weights)


def test_predictions_that_are_kept_are_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "sigmoid", lambda prediction: prediction)
    replayed, computed = Trained(Replay()), Trained("aot_eager")
    assert bits(replayed.weights) == bits(computed.weights)
    assert not all(torch.equal(one, other) for one, other in zip(replayed.shown, computed.shown, strict=True))


def test_weights_that_move_are_noticed() -> None:
    def move(network: nn.Module) -> None:
        for weight in network.parameters():
            weight.data = weight.data.clone()

    Trained("aot_eager", on_step=move)
    with pytest.raises(MovedError):
        Trained(Replay(), on_step=move)


@pytest.mark.long
def test_the_network_can_be_recorded_as_a_gpu_computes_it() -> None:
    network = Accelerated(MNet(6, 3, (2, 2, 2, 2, 2)), CPU, "float32")
    assert what_keeps_it_from_being_recorded(network, 2, 6, 16, 16, 16) == []


class Halved(nn.Conv3d):
    """Halves what it gets, in a way that is given."""

    def __init__(self, halve: Callable[[Tensor], Tensor]) -> None:
        super().__init__(6, 3, 1)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.halve(x))


def test_a_tensor_of_the_host_keeps_a_network_from_being_recorded() -> None:
    assert what_keeps_it_from_being_recorded(Halved(lambda x: x / 2), 1, 6, 4, 4, 4) == []
    on_host = Halved(lambda x: x / torch.full((), 2.0, device="cpu"))
    assert set(what_keeps_it_from_being_recorded(on_host, 1, 6, 4, 4, 4)) == {"on cpu"}


def test_a_look_at_a_value_keeps_a_network_from_being_recorded() -> None:
    with pytest.raises(Unsupported):
        what_keeps_it_from_being_recorded(Halved(lambda x: x / (2 if x.sum() > 0 else 2.0)), 1, 6, 4, 4, 4)
