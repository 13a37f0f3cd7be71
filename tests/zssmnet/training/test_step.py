"""A step as one CUDA graph computes what a plain one does, and the same kernels whatever was drawn."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.zssmnet.training import replay
from tests.zssmnet.training.examples import CPU, bits, cubes_of, small_config
from zssmnet.config import CorruptionConfig
from zssmnet.corruption import channels_to_shuffle, sample_keys, swap_x_and_z
from zssmnet.training import step as step_module
from zssmnet.training.batches import StreamedCubes
from zssmnet.training.dataset import CubeSet
from zssmnet.training.epoch import train_epoch, training_step, validate
from zssmnet.training.loss import restoring_network
from zssmnet.training.optimizer import make_optimizer
from zssmnet.training.step import Captured, Step
from zssmnet.training.trainer import initial_state

CUBES = StreamedCubes(CubeSet([cubes_of(7)]), CPU)


def trained(captured: bool, corruption: CorruptionConfig) -> tuple[Any, list[float], list[Tensor]]:
    """Weights, losses and figures, and gradients after an epoch of three steps, and its validation."""
    config = small_config()
    state = initial_state(config, CPU)
    step = Step(state.model, corruption, captured=captured)
    loss = train_epoch(step, state.optimizer, CUBES, 2, state.generator, lambda *_: None)
    found = validate(step, CUBES, 2, 1, fill=True)
    figures = [loss, found.loss, found.explained, *found.explained_by_channel, *found.spread]
    return state.model.state_dict(), figures, [one.grad for one in state.model.parameters() if one.grad is not None]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Recording on a CPU, at the second call; what was recorded."""
    found: list[str] = []

    def record(function):
        found.append("graph")
        return replay.record(function)

    monkeypatch.setattr(step_module, "record", record)
    monkeypatch.setattr(step_module, "EAGER_CALLS", 1)
    yield found


@pytest.mark.parametrize("recipe", ["reference", "per-channel", "masked"])
def test_a_replayed_step_is_a_computed_one_to_the_last_bit(recipe: Any, recorded: list[str]) -> None:
    corruption = small_config().corruption.model_copy(update={"recipe": recipe})
    (weights, figures, gradients), (same, alike, equal) = (trained(one, corruption) for one in (True, False))
    assert recorded == ["graph", "graph"]  # training and validation
    assert bits(weights) == bits(same)
    assert figures == alike
    assert bits(gradients) == bits(equal)


def test_a_batch_that_has_no_room_in_the_graph_runs_as_it_comes(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([True, True, False] * 100)
    monkeypatch.setattr(
        step_module,
        "channels_to_shuffle",
        lambda keys, config: channels_to_shuffle(keys, config) if next(drawn) else None,
    )
    (weights, figures, _), (same, alike, _) = (trained(one, small_config().corruption) for one in (True, False))
    assert recorded == ["graph", "graph"]
    assert bits(weights) == bits(same)
    assert figures == alike


def test_what_cannot_be_recorded_runs_as_it_comes_with_one_warning(
    recorded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    doubled = Captured(lambda one: one * 2 if float(one.sum()) > 0 else one)
    assert [doubled(torch.full((2,), value)).tolist() for value in (1.0, 2.0, -3.0)] == [[2, 2], [4, 4], [-3, -3]]
    assert recorded == ["graph"]
    assert caplog.text.count("a step is no CUDA graph") == 1


def test_gradients_stay_where_they_are() -> None:
    config = small_config()
    state = initial_state(config, CPU)
    step, places = Step(state.model, config.corruption, captured=True), []
    for _ in range(2):
        train_epoch(step, state.optimizer, CUBES, 2, state.generator, lambda *_: None)
        places.append([one.grad.data_ptr() for one in state.model.parameters() if one.grad is not None])
    assert places[0] == places[1]


class InDoublePrecision(nn.Module):
    """A network whose rounding does not hide what is compared."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.model(x.double())
        return answer


@pytest.mark.parametrize("captured", [False, True])
def test_accumulated_gradients_give_the_weights_of_the_whole_batch(captured: bool) -> None:
    """Three parts of five cubes: two, two and one."""
    config, found = small_config(), []
    keys, cubes = sample_keys(5, torch.Generator().manual_seed(0)), swap_x_and_z(torch.from_numpy(cubes_of(5)))
    for passes in (1, 3):
        state = initial_state(config, CPU)
        network = InDoublePrecision(state.model)
        optimizer = make_optimizer(network, CPU, config.training)
        loss, _ = training_step(
            Step(network, config.corruption, captured=captured), optimizer, cubes, keys, passes=passes
        )
        found.append([loss, *(weight.detach() for weight in network.parameters())])
    assert found[0][0].dtype == torch.float64
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)


class Kernels(TorchDispatchMode):
    """What a step launches: names and shapes; and what it copies from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[str, list[tuple[int, ...]]]] = []
        self.copied: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if not function.is_view:
            self.launched.append((function.__name__, [tuple(one.shape) for one in tensors]))
        if any(one.device.type == "cpu" and one.ndim for one in tensors):
            self.copied.append(function.__name__)
        return given


@pytest.mark.parametrize("steps", [4, pytest.param(50, marks=pytest.mark.long)])
def test_all_steps_launch_the_same_kernels_and_copy_nothing_from_the_host(steps: int) -> None:
    """On `meta`, which has no values to look at, with channels drawn as in training."""
    config, generator = small_config(), torch.Generator().manual_seed(0)
    network = restoring_network(config.network).to("meta")
    network.fuse()
    step = Step(network, config.corruption, captured=True)
    cubes = swap_x_and_z(torch.empty(8, 4, 16, 16, 4, device="meta"))
    seen, counts = [], set()
    while len(seen) < steps + 1:
        keys = sample_keys(8, generator)
        shuffled = channels_to_shuffle(keys, config.corruption)
        if shuffled is None:
            continue
        counts.add(int((shuffled < 32).sum()))
        inputs = (cubes, keys.to("meta"), torch.empty((), device="meta"), shuffled.to("meta"))
        with Kernels() as kernels:
            step._add_gradients(*inputs)
        seen.append(kernels)
    seen = seen[1:]  # the first one makes the gradients
    assert len(counts) > 2  # other numbers of shuffled channels
    assert all(one.launched == seen[0].launched for one in seen)
    assert not any(one.copied for one in seen)
