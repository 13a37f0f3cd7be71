"""Apple's GPUs: what is refused, and the network on a device without float64, with the cubes on the CPU.

No such GPU is here. PyTorch's device `meta`, whose tensors have no values, stands in for it.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.zssmnet.training.examples import cubes_of, small_config
from zssmnet.errors import ConfigError, InputError
from zssmnet.mnet import MNet, upsampling
from zssmnet.training import trainer
from zssmnet.training.checkpoint import content_of, load_content
from zssmnet.training.dataset import CubeSet
from zssmnet.training.precision import choose_compile, choose_precision, is_captured
from zssmnet.training.tensorboard import validation_examples
from zssmnet.training.trainer import Trainer, initial_state

META = torch.device("meta")
TRAINING, VALIDATION = CubeSet([cubes_of(5)]), CubeSet([cubes_of(3, seed=9)])


class StandIn(TorchDispatchMode):
    """Refuses float64 on the device; what is copied from there to the CPU is zeros."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there = any(one.device == META for one in tree_leaves(args) if isinstance(one, Tensor))
        if (
            function is torch.ops.aten._to_copy.default
            and there
            and (kwargs or {}).get("device") == torch.device("cpu")
        ):
            return torch.zeros(args[0].shape, dtype=(kwargs or {}).get("dtype") or args[0].dtype)
        given = function(*args, **(kwargs or {}))
        for one in tree_leaves(given):
            if isinstance(one, Tensor) and one.device == META and one.dtype == torch.float64:
                raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {function}")
        return given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("precision", value) for value in ("tf32", "bfloat16", "float16")),
        *(("compile", value) for value in ("cudagraphs", "default", "reduce-overhead", "max-autotune")),
        ("deterministic", True),
    ],
)
def test_what_it_lacks_is_refused_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"device = 'mps' has no {name} = {value!r}; choose another device, or lea"
    ) as caught:
        small_config(device="mps", **{name: value})
    assert "\n" not in str(caught.value)


def test_it_computes_in_float32_as_it_comes() -> None:
    for config in (small_config(device="mps"), small_config(device="mps", precision="float32", compile="off")):
        device = torch.device("mps")
        assert choose_precision(config.training, device) == "float32"
        assert choose_compile(config.training, device, 10**6) == "off"
        assert not is_captured(config.training, device)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The device `meta` without float64; it knows no autocast, which float32 does not need."""
    for module in (trainer, upsampling):
        monkeypatch.setattr(module, "WITHOUT_FLOAT64", ("meta",))
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: pytest.fail() if enabled else nullcontext())
    return StandIn()


@pytest.mark.parametrize("weighting", ["equal", "variance"])
def test_cubes_are_corrupted_on_the_cpu_and_the_network_is_on_the_device(weighting: str, stand_in: StandIn) -> None:
    config = small_config(loss_weighting=weighting)
    state = initial_state(config, META, cubes=TRAINING)
    places = []
    state.model.register_forward_hook(lambda _, inputs, output: places.append((inputs[0].device, output.device)))
    with stand_in:
        result = Trainer(state, TRAINING, VALIDATION, config).epoch()
    assert set(places) == {(META, META)}
    assert len(places) == 2 + 2 * 2  # steps of training; batches of validation, before and after
    moved = [weight for weight, buffers in state.optimizer.state.items() if buffers]
    assert moved
    assert {weight.device for weight in moved} == {META}
    assert result.spread == (0.0, 0.0, 0.0)  # of zeros, all that the device has answered


def test_pictures_are_made_of_cubes_on_the_cpu(stand_in: StandIn) -> None:
    config = small_config()
    with stand_in:
        shown = validation_examples(initial_state(config, META).model, VALIDATION, config, 2)
    assert {one.device.type for one in (shown.corrupted, shown.restored, shown.target)} == {"cpu"}


def test_an_operation_that_it_lacks_is_one_line(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("The operator 'aten::max_pool3d' is not implemented for the MPS device.\nMore of it")

    monkeypatch.setattr(MNet, "forward", missing)
    config = small_config()
    with (
        pytest.raises(
            InputError, match=r"^The operator 'aten::max_pool3d' .* device\.; choose --device cpu, or a smal"
        ),
        stand_in,
    ):
        Trainer(initial_state(config, META), TRAINING, VALIDATION, config).epoch()


def test_its_checkpoints_are_read_on_a_cpu() -> None:
    config = small_config()
    with StandIn():
        content = content_of(initial_state(config, META))
    assert {one.device.type for one in content["state_dict"].values()} == {"cpu"}
    load_content(initial_state(config, torch.device("cpu")), content)
