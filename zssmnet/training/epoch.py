"""One epoch of training, one pass of validation."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zssmnet.config import CorruptionConfig
from zssmnet.corruption import sample_keys
from zssmnet.errors import NonFiniteLossError
from zssmnet.training.data import CubeSet
from zssmnet.training.restoration import restoration_loss

OnStep = Callable[[int, int], None]
LOOK_EVERY = 20
"""Steps between two looks at the loss: a look makes a GPU wait for the host."""


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cubes: CubeSet,
    batch_size: int,
    corruption: CorruptionConfig,
    generator: torch.Generator,
    device: torch.device,
    on_step: OnStep,
) -> float:
    """One pass over the training cubes in random order, each corrupted anew; a last partial batch is dropped.

    Args:
        generator: CPU generator of the order and the corruption.
        on_step: called after each step with the number of steps done and of all steps.

    Returns:
        The mean loss.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    model.train()
    order = torch.randperm(len(cubes), generator=generator)
    steps = len(cubes) // batch_size
    total = torch.zeros((), device=device)
    for step in range(steps):
        indices = order[step * batch_size : (step + 1) * batch_size]
        keys = sample_keys(batch_size, generator)
        optimizer.zero_grad(set_to_none=True)
        loss = restoration_loss(model, cubes.batch(indices).to(device), keys.to(device), corruption)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
            _check_finite(total, f"after step {step + 1} of {steps}")
            on_step(step + 1, steps)
    return float(total) / steps


@torch.no_grad()
def validate(
    model: nn.Module,
    cubes: CubeSet,
    batch_size: int,
    corruption: CorruptionConfig,
    seed: int,
    device: torch.device,
) -> float:
    """The mean loss over all validation cubes, corrupted in the same way every time: by ``seed`` alone.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    model.eval()
    total = torch.zeros((), device=device, dtype=torch.float64)
    for indices, keys in validation_batches(len(cubes), batch_size, seed):
        loss = restoration_loss(model, cubes.batch(indices).to(device), keys.to(device), corruption)
        total += loss.double() * len(indices)
    _check_finite(total, "in validation")
    return float(total) / len(cubes)


def validation_batches(count: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers and corruption keys of the validation cubes, in order."""
    keys = sample_keys(count, torch.Generator().manual_seed(seed))
    for start in range(0, count, batch_size):
        indices = torch.arange(start, min(start + batch_size, count))
        yield indices, keys[indices]


def _check_finite(total: Tensor, where: str) -> None:
    if not math.isfinite(float(total)):
        raise NonFiniteLossError(
            f"the loss is {float(total)} {where}: training stops, the last checkpoint is kept; "
            "try a smaller learning rate, and look for odd cubes in the reports"
        )
