"""What is computed from a batch: the gradients of its loss, or the figures of validation; on a GPU as one CUDA graph.

A CUDA graph is recorded once and replayed for every batch: all kernels from the corruption to the gradients, launched
as one. Its inputs, results and gradients lie where they lay when it was recorded. The optimizer is no part of it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from zssmnet.config import CorruptionConfig
from zssmnet.corruption import channels_to_shuffle
from zssmnet.training.loss import Restored, loss_of, restore

log = logging.getLogger(__name__)

Result = TypeVar("Result")
EAGER_CALLS = 3
"""Calls before a function is recorded: cuDNN chooses its algorithms then, and caches are filled."""


class Step:
    """The gradients and the figures of a batch.

    Args:
        network: takes corrupted cubes.
        corruption: the pretext task.
        channel_weights: see `loss_of`.
        captured: whether they are CUDA graphs, and gradients stay where they are from step to step. A batch that does
            not fit them runs as it comes: one of another size, and one in 3,000 in which more channels are shuffled
            than a graph has room for.
    """

    def __init__(
        self,
        network: nn.Module,
        corruption: CorruptionConfig,
        channel_weights: Tensor | None = None,
        *,
        captured: bool = False,
    ) -> None:
        self.network = network
        self.captured = captured
        self._corruption = corruption
        self._channel_weights = channel_weights
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._captured_gradients = Captured(self._add_gradients)
        self._captured_figures = Captured(self._figures)

    def gradients(self, cubes_NCZYX: Tensor, keys_N: Tensor, factor: float | Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradients of the mean loss times a factor to those of the weights.

        Args:
            cubes_NCZYX: on the device.
            keys_N: of their corruption, on the CPU.

        Returns:
            The mean loss and the restored images (N, 3, Z, Y, X); the next call may overwrite both.
        """
        if (shuffled_P := self._room_for(keys_N)) is None:
            return self._add_gradients(cubes_NCZYX, keys_N, factor)
        return self._captured_gradients(cubes_NCZYX, keys_N, torch.as_tensor(factor), shuffled_P)

    def figures(self, cubes_NCZYX: Tensor, keys_N: Tensor, count: int) -> Tensor:
        """Sums of the figures over the first cubes (16,), float64: the loss, then `statistics`."""
        if count < len(keys_N) or (shuffled_P := self._room_for(keys_N)) is None:
            return self._figures(cubes_NCZYX, keys_N, count=count)
        return self._captured_figures(cubes_NCZYX, keys_N, shuffled_P)

    def _room_for(self, keys_N: Tensor) -> Tensor | None:
        """The channels that are shuffled, as an input of the graphs; None where the batch runs as it comes."""
        return channels_to_shuffle(keys_N, self._corruption) if self.captured else None

    def _add_gradients(
        self, cubes_NCZYX: Tensor, keys_N: Tensor, factor: float | Tensor, shuffled_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        shown = restore(self.network, cubes_NCZYX, keys_N, self._corruption, shuffled_P)
        loss = loss_of(shown, self._corruption, self._channel_weights)
        if self.captured:
            add_gradients(loss * factor, self._weights)
        else:
            (loss * factor).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), shown.restored.detach()

    def _figures(
        self, cubes_NCZYX: Tensor, keys_N: Tensor, shuffled_P: Tensor | None = None, count: int | None = None
    ) -> Tensor:
        shown = restore(self.network, cubes_NCZYX, keys_N, self._corruption, shuffled_P).first(count)
        loss = loss_of(shown, self._corruption, self._channel_weights).double().reshape(1) * len(shown.target)
        return torch.cat((loss, statistics(shown, self._corruption.recipe == "masked").flatten()))


def add_gradients(loss: Tensor, weights: Sequence[Tensor]) -> None:
    """As ``backward`` does, but with few kernels for all weights, and without moving gradients that are there."""
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    found = [(weight, one) for weight, one in zip(weights, gradients, strict=True) if one is not None]
    sums = []
    for weight, _ in found:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        sums.append(weight.grad)
    torch._foreach_add_(sums, [one for _, one in found])


class Captured(Generic[Result]):
    """A function of tensors that is a CUDA graph from its fourth call on; each call overwrites the last one's results.

    Inputs of other shapes than the first ones run as they come, and so does everything where recording fails. The first
    input decides the device; the others may lie on the CPU.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._result: Result
        self._eager_calls = 0

    def __call__(self, *inputs: Tensor) -> Result:
        """The function's result."""
        device = inputs[0].device
        if not self._inputs:
            self._inputs = [torch.empty_like(one, device=device) for one in inputs]
        alike = (
            mine.shape == one.shape and mine.dtype == one.dtype for mine, one in zip(self._inputs, inputs, strict=True)
        )
        if not all(alike):
            return self._function(*(one.to(device, non_blocking=True) for one in inputs))
        for mine, one in zip(self._inputs, inputs, strict=True):
            mine.copy_(one, non_blocking=True)
        if self._replay is None and self._eager_calls == EAGER_CALLS:
            self._record()
        if self._replay is None:
            self._eager_calls += 1
            return self._function(*self._inputs)
        self._replay()
        return self._result

    def _record(self) -> None:
        try:
            self._replay, self._result = record(lambda: self._function(*self._inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what PyTorch raises where something cannot be recorded
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("a step is no CUDA graph, and slower: %s; with --compile off this is not tried", reason)


def record(function: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    """Record what a function does on the GPU, without doing it: what does it, and where the result lies then."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread reads cubes meanwhile
        result = function()
    return graph.replay, result


def statistics(shown: Restored, hidden_alone: bool) -> Tensor:
    """Sums over cubes, in float64, for each channel: (5, 3).

    They are of the standard deviation within a cube, restored and wanted, of the target's mean and mean square, and of
    the squared error.
    """
    restored_variance = torch.var(shown.restored.flatten(2).double(), dim=2, correction=0)
    variance, mean = torch.var_mean(shown.target.flatten(2).double(), dim=2, correction=0)
    errors = shown.squared_errors(hidden_alone).double()
    return torch.stack([restored_variance.sqrt(), variance.sqrt(), mean, variance + mean.square(), errors]).sum(dim=1)
