"""The loop of fine-tuning: epochs of some steps each, validation on held-out cases, checkpoints, early stopping."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zssmnet.config import TrainingConfig
from zssmnet.errors import NonFiniteLossError, OutOfMemoryError
from zssmnet.finetuning.loss import WithFrequencies, class_frequencies, segmentation_loss
from zssmnet.finetuning.windows import Labelled, Triple, sample_batch
from zssmnet.handoff.weights import HEADS
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import LAST, EpochResult, Progress, TrainingState, publish_best, publish_last, resume
from zssmnet.training.fit import is_finished
from zssmnet.training.optimizer import make_optimizer, make_schedule
from zssmnet.training.precision import accelerated, choose_precision, gpu_settings, is_captured
from zssmnet.training.step import Captured, add_gradients

log = logging.getLogger(__name__)

OnEpoch = Callable[[Progress], None]
"""Called after each epoch, before its checkpoint is published."""


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned.

    Attributes:
        training: epochs, learning rate, optimizer, schedule, batch, patience, device, precision.
        window: size x, y, z in voxels.
        steps: of an epoch.
        head_factor: by how much faster new heads learn than the rest.
        intensity: whether intensities change mildly, see `sample_batch`.
    """

    training: TrainingConfig
    window: Triple
    steps: int = 1
    head_factor: float = 1.0
    intensity: bool = False


class FineTuner:
    """A network that learns from labelled cases; windows, their order and their flips follow from the seed alone.

    Attributes:
        network: predicts logits (N, K, Z, Y, X), in the recipe's precision.
        state: what a checkpoint holds.

    Args:
        model: the plain network, on the device on which it learns.
        cases: labelled, none smaller than the recipe's window.
        classes: number K of classes, background included.
    """

    def __init__(self, model: nn.Module, cases: Sequence[Labelled], classes: int, recipe: Recipe, seed: int) -> None:
        self._device = next(model.parameters()).device
        self._cases, self._recipe = cases, recipe
        steps = recipe.training.epochs * recipe.steps
        self.network = WithFrequencies(
            accelerated(model, self._device, recipe.training, steps), class_frequencies(cases, classes)
        ).to(self._device)
        optimizer = make_optimizer(model, self._device, recipe.training, {HEADS: recipe.head_factor})
        schedule = make_schedule(optimizer, recipe.training)
        generator = torch.Generator().manual_seed(seed)
        self.state = TrainingState(model, optimizer, schedule, generator, Progress())
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        captured = is_captured(recipe.training, self._device)
        self._gradients = Captured(self._add_gradients) if captured else self._add_gradients

    def epoch(self) -> Tensor:
        """Train for an epoch; its mean loss, a scalar on the device, for which nobody has waited."""
        recipe, state = self._recipe, self.state
        total = torch.zeros((), device=self._device)
        self.network.train()
        with self.computing():
            for _ in range(recipe.steps):
                inputs, labels = sample_batch(
                    self._cases, recipe.window, recipe.training.batch_size, state.generator, recipe.intensity
                )
                state.optimizer.zero_grad(set_to_none=False)
                total += self._gradients(inputs.to(self._device), labels.to(self._device))
                state.optimizer.step()
        state.schedule.step()
        return total / recipe.steps

    def _add_gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = segmentation_loss(self.network(inputs), labels)
        add_gradients(loss, self._weights)
        return loss.detach()

    def fit(self, held_out: Sequence[Labelled], workplace: Storage, on_epoch: OnEpoch = lambda progress: None) -> None:
        """Train until the epochs are done or the loss on held-out cases has not improved for ``patience`` epochs.

        Args:
            workplace: where ``last.checkpoint`` and ``best.model`` are published; a last checkpoint there is continued.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; the last checkpoint is kept.
            OutOfMemoryError: a batch does not fit into the GPU's memory.
            CheckpointError: the last checkpoint cannot be used.
        """
        state, training = self.state, self._recipe.training
        if workplace.stat(LAST):
            resume(workplace, state)
        while not is_finished(state.progress, training):
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
            rate = self._recipe.training.learning_rate
            raise NonFiniteLossError(f"fine-tuning at learning rate {rate:g}: the loss is {value}")
        return value

    @torch.no_grad()
    def _validation_loss(self, cases: Sequence[Labelled]) -> float:
        """Mean loss on windows of held-out cases, the same ones every time, a batch a case."""
        recipe, losses = self._recipe, []
        generator = torch.Generator().manual_seed(recipe.training.validation_seed)
        self.network.eval()
        with self.computing():
            for case in cases:
                inputs, labels = sample_batch([case], recipe.window, recipe.training.batch_size, generator)
                losses.append(segmentation_loss(self.network(inputs.to(self._device)), labels.to(self._device)))
        return self.checked(torch.stack(losses).mean())

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In the recipe's precision; memory that runs out becomes an error of one line."""
        training = self._recipe.training
        with gpu_settings(choose_precision(training, self._device) == "tf32"):
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"a batch of {training.batch_size} windows of {self._recipe.window} voxels does not fit into the "
                    f"memory of {self._device}; choose a smaller --batch-size, or fewer --channels"
                ) from error
