"""One epoch of training, its step, one pass of validation."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from zssmnet.corruption import sample_keys
from zssmnet.errors import NonFiniteLossError
from zssmnet.training.batches import Batches
from zssmnet.training.distributed import SINGLE, Group
from zssmnet.training.step import Step

OnStep = Callable[[int, int], None]
OnCheck = Callable[[int, Tensor], None]
CHECK_EVERY = 20
"""Steps between two checks of the loss: each makes a GPU wait for the host."""


@dataclass(frozen=True)
class Validation:
    """Quality of the restored validation cubes.

    Attributes:
        loss: mean squared error, as in training.
        explained: share of the variance of all three images that is restored: 1 for a perfect network, 0 for one that
            predicts the best constant of each channel, below 0 for a worse one. In the recipe `masked` hidden voxels
            alone count, whatever the loss does: what is not hidden could be copied.
        explained_by_channel: the same of T2W, ADC and DWI alone; 0 for one that is constant.
        spread: of T2W, ADC and DWI: standard deviation within a cube, restored by wanted, averaged over the cubes. 0
            for a channel that is restored as a constant; 1 for one that is a constant itself.
    """

    loss: float
    explained: float
    explained_by_channel: tuple[float, float, float]
    spread: tuple[float, float, float]


def train_epoch(
    step: Step,
    optimizer: torch.optim.Optimizer,
    cubes: Batches,
    batch_size: int,
    generator: torch.Generator,
    on_step: OnStep,
    group: Group = SINGLE,
    scaler: GradScaler | None = None,
    on_check: OnCheck | None = None,
    passes: int = 1,
) -> float:
    """The mean loss of a pass over the training cubes in random order, each corrupted anew, in whole batches.

    The host waits for the device only to check the loss now and then; NonFiniteLossError if it is NaN or infinite.

    Args:
        generator: CPU generator of the order and the corruption, the same in all processes.
        on_step: called after each step with the number of steps done and of all steps; a GPU may lag behind.
        group, scaler, passes: see `training_step`.
        on_check: called whenever the loss is checked, with the number of steps done and what the last one restored.
    """
    step.network.train()
    steps = len(cubes) // batch_size
    order = torch.split(torch.randperm(len(cubes), generator=generator)[: steps * batch_size], batch_size)
    keys = torch.split(sample_keys(steps * batch_size, generator), batch_size)
    total, checked = torch.zeros((), device=cubes.device), 0.0
    batches = cubes.batches(map(group.share, order))
    for done, (batch, keys_of_all) in enumerate(zip(batches, keys, strict=True), 1):
        share = len(batch) / batch_size
        loss, restored = training_step(step, optimizer, batch, group.share(keys_of_all), share, group, scaler, passes)
        total += loss * share
        if done % CHECK_EVERY == 0 or done == steps:
            checked = float(group.total(total))
            _check_finite(checked, f"after step {done} of {steps}", scaled=scaler is not None)
            if on_check:
                on_check(done, restored)
        on_step(done, steps)
    return checked / steps


def training_step(
    step: Step,
    optimizer: torch.optim.Optimizer,
    cubes_NCZYX: Tensor,
    keys: Tensor,
    share: float = 1.0,
    group: Group = SINGLE,
    scaler: GradScaler | None = None,
    passes: int = 1,
) -> tuple[Tensor, Tensor]:
    """One step: corrupt, restore, compare, change the weights.

    Args:
        cubes_NCZYX: this process's share of the batch.
        keys: of their corruption.
        share: part of the whole batch that they are.
        group: processes whose gradients are summed.
        scaler: in float16, what the loss is multiplied with, and the gradients divided by: small ones vanish in it. It
            adapts, and leaves out a step whose gradients overflow.
        passes: parts of this share whose gradients are added up one after another: less memory, the same weights.

    Returns:
        The mean loss of these cubes, and the restored images (N, 3, Z, Y, X) of the last pass.
    """
    optimizer.zero_grad(set_to_none=not step.captured)
    whole, length = len(cubes_NCZYX), -(-len(cubes_NCZYX) // passes)
    losses = []
    for part, keys_of_part in zip(torch.split(cubes_NCZYX, length), torch.split(keys, length), strict=True):
        factor = share * len(part) / whole
        scaled = scaler.scale(torch.full((), factor, device=part.device)) if scaler else factor
        loss, restored = step.gradients(part, keys_of_part, scaled)
        losses.append(loss * (len(part) / whole))  # a copy: the next one may overwrite it
    group.sum_gradients(step.network)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return torch.stack(losses).sum(), restored


@torch.no_grad()
def validate(
    step: Step, cubes: Batches, batch_size: int, seed: int, group: Group = SINGLE, *, fill: bool = False
) -> Validation:
    """Validate with all validation cubes, corrupted by ``seed`` alone; NonFiniteLossError if the loss is not finite.

    Args:
        fill: whether to fill up the last batch with cubes that do not count, so that a compiled network or
            convolutions chosen for a shape see one shape only.
    """
    step.network.eval()
    shares: list[tuple[Tensor, Tensor, int]] = []
    for numbers, keys in validation_batches(len(cubes), batch_size, seed):
        places = group.share(torch.arange(batch_size if fill else len(numbers)))
        chosen = places.clamp(max=len(numbers) - 1)
        if counted := int((places < len(numbers)).sum()):
            shares.append((numbers[chosen], keys[chosen], counted))
    figures = torch.zeros(16, device=cubes.device, dtype=torch.float64)
    batches = cubes.batches(numbers for numbers, _, _ in shares)
    for batch, (_, keys, count) in zip(batches, shares, strict=True):
        figures += step.figures(batch, keys, count)
    # the one wait for the device
    loss_sum, *sums = group.total(figures).tolist()
    _check_finite(loss_sum, "in validation")
    return _validation(loss_sum / len(cubes), torch.tensor(sums, dtype=torch.float64).view(5, 3) / len(cubes))


def check_weights(model: nn.Module) -> None:
    """NonFiniteLossError if a weight is NaN or infinite: the last step of an epoch may leave such."""
    broken = torch.stack([~weight.detach().isfinite().all() for weight in model.parameters()]).tolist()
    if any(broken):
        raise NonFiniteLossError(
            f"{sum(broken)} of {len(broken)} tensors of weights are not finite after the last step: training stops, "
            "the last checkpoint is kept; try a smaller learning rate"
        )


def validation_batches(count: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers and corruption keys of the validation cubes, in order."""
    keys = sample_keys(count, torch.Generator().manual_seed(seed))
    return zip(torch.split(torch.arange(count), batch_size), torch.split(keys, batch_size), strict=True)


def _validation(loss: float, means: Tensor) -> Validation:
    """From the loss, and the means of what `statistics` sums."""
    restored_std, target_std, target_mean, mean_square, error = means
    variance = mean_square - target_mean.square()
    variance = torch.where(variance > 1e-12, variance, 0.0)  # rounding leaves some of a constant
    explained = torch.where(variance > 0, 1 - error / variance, 0.0)
    spread = torch.where(target_std > 0, restored_std / target_std, 1.0)
    by_channel, spreads = ((float(t2w), float(adc), float(dwi)) for t2w, adc, dwi in (explained, spread))
    pooled = float(1 - error.sum() / variance.sum()) if variance.any() else 0.0
    return Validation(loss, pooled, by_channel, spreads)


def _check_finite(total: float, where: str, scaled: bool = False) -> None:
    if not math.isfinite(total):
        precision = " or another precision" if scaled else ""
        raise NonFiniteLossError(
            f"the loss is {total} {where}: training stops, the last checkpoint is kept; "
            f"try a smaller learning rate{precision}, and look for odd cubes in the reports"
        )
