"""The optimizer and its learning rate, and the optimizer's state in checkpoints."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zssmnet.config import TrainingConfig

MACHINE_CHOICES = ("foreach", "fused")
"""Options of an optimizer that each machine chooses for itself; checkpoints hold None."""


def make_optimizer(
    model: nn.Module, device: torch.device, recipe: TrainingConfig, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """SGD with momentum, as published, or AdamW; one kernel updates all weights where that is faster.

    Args:
        factors: by how much faster than the rest weights learn whose names begin so.
    """
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "fused": True if device.type == "cuda" or recipe.optimizer == "adamw" else None,
    }
    groups = _groups(model, recipe.learning_rate, factors or {})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), **options)
    return torch.optim.SGD(groups, momentum=recipe.momentum, **options)


def _groups(model: nn.Module, rate: float, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The weights by learning rate, those of the rest first."""
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, weight in model.named_parameters():
        factor = next((factor for start, factor in factors.items() if name.startswith(start)), 1.0)
        by_factor.setdefault(factor, []).append(weight)
    return [{"params": weights, "lr": rate * factor} for factor, weights in by_factor.items() if weights]


def make_schedule(optimizer: torch.optim.Optimizer, recipe: TrainingConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate, epoch by epoch: halved now and then, as published, or a cosine after a linear warm-up."""
    if recipe.schedule == "halving":
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=recipe.halve_every, gamma=0.5)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: cosine_factor(epoch, recipe))


def cosine_factor(epoch: int, recipe: TrainingConfig) -> float:
    """Share of the learning rate in an epoch, counted from 0: rises over the warm-up, then falls, but never to 0."""
    if epoch < recipe.warm_up_epochs:
        return (epoch + 1) / (recipe.warm_up_epochs + 1)
    done = (epoch - recipe.warm_up_epochs) / (max(recipe.epochs - recipe.warm_up_epochs, 0) + 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1 - 1e-3)))


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state without the machine's choices."""
    state = optimizer.state_dict()
    groups = [group | dict.fromkeys(MACHINE_CHOICES) for group in state["param_groups"]]
    return state | {"param_groups": groups}


def load_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state, but keep this machine's choices; values are not checked.

    Buffers get their weights' strides: checkpoints are contiguous, weights channels-last. A fused step needs equal
    strides: CUDA's refuses others, the CPU's pairs each weight with the wrong momentum.
    """
    groups = [
        group | {name: ours[name] for name in MACHINE_CHOICES}
        for group, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(saved | {"param_groups": groups})
    for weight, buffers in optimizer.state.items():
        for name, buffer in buffers.items():
            if isinstance(buffer, Tensor) and buffer.shape == weight.shape:
                buffers[name] = torch.empty_like(weight).copy_(buffer)  # preserves the weight's strides
