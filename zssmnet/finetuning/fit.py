"""The loop of fine-tuning: epochs of some steps each, validation on held-out cases, checkpoints, early stopping."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zssmnet.config import TrainingConfig
from zssmnet.errors import NonFiniteLossError, OutOfMemoryError
from zssmnet.finetuning.loss import WithFrequencies, class_frequencies, segmentation_loss
from zssmnet.finetuning.windows import Labelled, Triple, sample_batch
from zssmnet.handoff.weights import HEADS
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import EpochResult, Progress, TrainingState, publish_best, publish_last, resume
from zssmnet.training.fit import is_finished
from zssmnet.training.optimizer import make_optimizer, make_schedule
from zssmnet.training.precision import accelerated, gpu_settings

log = logging.getLogger(__name__)

OnEpoch = Callable[[Progress], None]
"""Called after each epoch, before its checkpoint is published."""


class FineTuner:
    """A network that learns from labelled cases; windows, their order and their flips follow from the seed alone.

    Attributes:
        network: predicts logits (N, K, Z, Y, X).
        state: what a checkpoint holds.

    Args:
        model: the plain network, on the device on which it learns.
        cases: labelled, none smaller than the window.
        classes: number K of classes, background included.
        recipe: epochs, learning rate, optimizer, schedule, batch, patience, compilation.
        window: size x, y, z in voxels.
        steps: of an epoch.
        head_factor: by how much faster new heads learn than the rest.
        intensity: whether intensities change mildly, see `sample_batch`.
    """

    def __init__(
        self,
        model: nn.Module,
        cases: Sequence[Labelled],
        classes: int,
        recipe: TrainingConfig,
        window: Triple,
        seed: int,
        *,
        steps: int = 1,
        head_factor: float = 1.0,
        intensity: bool = False,
    ) -> None:
        self._device = next(model.parameters()).device
        self._cases, self._recipe, self._window = cases, recipe, window
        self._steps, self._intensity = steps, intensity
        network = accelerated(model, self._device, recipe, recipe.epochs * steps)
        self.network = WithFrequencies(network, class_frequencies(cases, classes)).to(self._device)
        optimizer = make_optimizer(model, self._device, recipe, {HEADS: head_factor})
        schedule = make_schedule(optimizer, recipe)
        self.state = TrainingState(model, optimizer, schedule, torch.Generator().manual_seed(seed), Progress())

    def epoch(self) -> Tensor:
        """Train for an epoch; its mean loss, a scalar on the device, for which nobody has waited."""
        state = self.state
        total = torch.zeros((), device=self._device)
        if not self.network.training:  # to set it takes as long as an optimizer's step
            self.network.train()
        with self.computing():
            for _ in range(self._steps):
                state.optimizer.zero_grad()
                loss = self._loss(self._cases, state.generator, self._intensity)
                loss.backward()  # type: ignore[no-untyped-call]
                state.optimizer.step()
                total += loss.detach()
        state.schedule.step()
        return total / self._steps

    def _loss(self, cases: Sequence[Labelled], generator: torch.Generator, intensity: bool = False) -> Tensor:
        """The loss of a batch of windows."""
        inputs, labels = sample_batch(cases, self._window, self._recipe.batch_size, generator, intensity)
        return segmentation_loss(self.network(inputs.to(self._device)), labels.to(self._device))

    def fit(self, held_out: Sequence[Labelled], workplace: Storage, on_epoch: OnEpoch = lambda progress: None) -> None:
        """Train until the epochs are done or the loss on held-out cases has not improved for ``patience`` epochs.

        Args:
            workplace: where ``last.checkpoint`` and ``best.model`` are published; a last checkpoint there is continued.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; the last checkpoint is kept.
            OutOfMemoryError: a batch does not fit into the GPU's memory.
            CheckpointError: the last checkpoint cannot be used.
        """
        state = self.state
        resume(workplace, state)
        while not is_finished(state.progress, self._recipe):
            rate = float(state.schedule.get_last_lr()[0])
            loss = self.checked(self.epoch())
            result = EpochResult(state.progress.epoch + 1, loss, self._validation_loss(held_out), rate)
            is_best = state.progress.add(result)
            log.info(
                "epoch %d: training loss %.4f, held-out loss %.4f%s",
                result.epoch, loss, result.validation_loss, " (best so far)" if is_best else "",
            )  # fmt: skip
            on_epoch(state.progress)
            publish_last(workplace, state)
            if is_best:
                publish_best(workplace, state)

    def checked(self, loss: Tensor) -> float:
        """The value of a loss; NonFiniteLossError if it is NaN or infinite."""
        if not math.isfinite(value := float(loss)):
            rate = self._recipe.learning_rate
            raise NonFiniteLossError(
                f"fine-tuning at learning rate {rate:g}: the loss is {value}; choose a smaller one"
            )
        return value

    @torch.no_grad()
    def _validation_loss(self, cases: Sequence[Labelled]) -> float:
        """Mean loss on windows of held-out cases, the same ones every time, a batch a case."""
        generator = torch.Generator().manual_seed(self._recipe.validation_seed)
        self.network.eval()
        with self.computing():
            losses = [self._loss([case], generator) for case in cases]
        return self.checked(torch.stack(losses).mean())

    @contextmanager
    def computing(self) -> Iterator[None]:
        """With PyTorch's settings for GPUs; memory that runs out becomes an error of one line."""
        with gpu_settings(tf32=False):
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"a batch of {self._recipe.batch_size} windows of {self._window} voxels does not fit into the "
                    f"memory of {self._device}; choose --preset cpu, or free the memory that other programs have there"
                ) from error
