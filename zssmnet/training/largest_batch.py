"""Which batch fits into a device's memory: found by trying, as only the device knows."""

from collections.abc import Callable

import torch
from torch import nn

from zssmnet.config import CorruptionConfig
from zssmnet.corruption import sample_keys, swap_x_and_z
from zssmnet.training.loss import restoration_loss


def largest_batch(fits: Callable[[int], bool], below: int) -> int:
    """The largest batch that fits, by bisection; 0 if none does.

    Args:
        fits: whether so many cubes fit.
        below: a batch that does not.
    """
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fits_in_memory(
    network: nn.Module,
    size: tuple[int, int, int],
    device: torch.device,
    corruption: CorruptionConfig,
    batch: int,
) -> bool:
    """Whether a training step with so many cubes fits, tried with empty ones; the weights stay as they are.

    Args:
        network: restores images, on the device, as it is trained; a compiled one is compiled for each batch.
        size: size of a cube x, y, z in voxels.
        device: whose memory is asked for.
        corruption: the pretext task.
        batch: number of cubes.
    """
    network.train()
    try:
        cubes = swap_x_and_z(torch.zeros(batch, 4, *size, device=device))
        loss = restoration_loss(network, cubes, sample_keys(batch, torch.Generator()), corruption)
        loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return False
    finally:
        network.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.compiler.reset()  # graphs keep their memory
            torch.cuda.empty_cache()
    return True
