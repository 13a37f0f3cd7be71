"""How a machine computes a network: number type, compilation, optimizer. What is learnt and saved is the plain network.

The wrapper around it has no part in checkpoints, so no prefix of one (`module.`, `_orig_mod.`) gets into their names.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zssmnet.config import TrainingConfig
from zssmnet.errors import InputError


class Accelerated(nn.Module):
    """A network whose convolutions are computed in a number type of the machine's choice; its answers are float32.

    Args:
        model: the plain network, which stays as it is, float32 weights and all.
        device: where it lies.
        dtype: number type of its convolutions and of what lies between them.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._device_type = device.type
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, Z, Y, X) to the network's answer, in float32."""
        with torch.autocast(self._device_type, self._dtype, enabled=self._dtype != torch.float32):
            answer: Tensor = self.model(x)
        return answer.float()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Args:
        name: what the recipe asks for.
        local_rank: number of this process on its machine, of several that train together, each on its GPU.

    Raises:
        InputError: ``cuda`` without a usable GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device can be used here; choose --device auto or --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if not local_rank:
        return torch.device("cuda")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def accelerated(model: nn.Module, device: torch.device, recipe: TrainingConfig) -> nn.Module:
    """The network as this machine computes it best, by the recipe; compiled when it is first used."""
    network = Accelerated(model, device, precision(recipe, device))
    if recipe.compile == "cudagraphs":
        network.compile(backend="cudagraphs", dynamic=False)
    elif recipe.compile != "off":
        network.compile(mode=recipe.compile, dynamic=False)
    return network


def precision(recipe: TrainingConfig, device: torch.device) -> torch.dtype:
    """The number type in which convolutions are computed."""
    if recipe.precision == "auto":
        in_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if in_bfloat16 else torch.float32
    return torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32


def make_optimizer(model: nn.Module, device: torch.device, recipe: TrainingConfig) -> torch.optim.SGD:
    """SGD with momentum; on a GPU one kernel updates all weights."""
    fused = True if device.type == "cuda" else None
    return torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, fused=fused)


def machine_free(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state without the choices that were made for one machine, so that another makes its own."""
    groups = [group | dict.fromkeys(_MACHINES_CHOICES) for group in optimizer_state["param_groups"]]
    return optimizer_state | {"param_groups": groups}


def machines_choices(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The choices of this machine, for each group of weights, to be kept when a state is loaded."""
    return [{name: group[name] for name in _MACHINES_CHOICES} for group in optimizer.param_groups]


_MACHINES_CHOICES = ("foreach", "fused")
