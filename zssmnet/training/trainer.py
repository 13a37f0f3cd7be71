"""One process's part in a training: its state, its network, the cubes where it uses them, epoch after epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from zssmnet.config import PretrainConfig
from zssmnet.errors import OutOfMemoryError
from zssmnet.mnet import MNet
from zssmnet.training.acceleration import accelerated, make_optimizer
from zssmnet.training.batches import feed_of
from zssmnet.training.checkpoint import EpochResult, Progress, TrainingState, content_of, load_weights, restore
from zssmnet.training.dataset import CubeSet
from zssmnet.training.epoch import OnStep, Validation, check_weights, train_epoch, validate
from zssmnet.training.largest_batch import fits_in_memory, largest_batch
from zssmnet.training.loss import LAYOUT
from zssmnet.training.team import ALONE, Team

INPUT_CHANNELS = 6
"""Three images and three zones."""
OUTPUT_CHANNELS = 3


class Learner:
    """Runs epochs; in a team all members run the same ones, from the leader's state.

    Args:
        state: the training so far; that of a follower becomes its leader's.
        training, validation: the cubes.
        config: everything that decides the weights.
        team: the processes that train together.

    Raises:
        OutOfMemoryError: the network or the cubes do not fit into the GPU's memory.
    """

    def __init__(
        self,
        state: TrainingState,
        training: CubeSet,
        validation: CubeSet,
        config: PretrainConfig,
        team: Team = ALONE,
    ) -> None:
        if team.size > 1:
            content = team.hand_round(content_of(state))
            if team.rank:
                restore(state, content)
        self._device = next(state.model.parameters()).device
        self._network = accelerated(state.model, self._device, config.training)
        self._state = state
        self._config = config
        self._team = team
        self._size = training.size
        where = config.training.cubes_in
        with self._telling_what_fits():
            self._training = feed_of(training, self._device, where)
            self._validation = self._training if validation is training else feed_of(validation, self._device, where)

    def epoch(self, on_step: OnStep = lambda done, steps: None) -> EpochResult:
        """Train for one epoch, step the schedule, validate.

        Raises:
            NonFiniteLossError: the loss or a weight is NaN or infinite.
            OutOfMemoryError: a batch does not fit into the GPU's memory.
        """
        state, recipe = self._state, self._config.training
        learning_rate = float(state.schedule.get_last_lr()[0])
        with self._telling_what_fits():
            loss = train_epoch(
                self._network,
                state.optimizer,
                self._training,
                recipe.batch_size,
                self._config.corruption,
                state.generator,
                on_step,
                self._team,
            )
        state.schedule.step()
        check_weights(state.model)
        found = self.validate()
        return EpochResult(state.progress.epoch + 1, loss, found.loss, learning_rate, found.explained, found.spread)

    def validate(self) -> Validation:
        """Validate with all validation cubes, corrupted in the same way every time.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            OutOfMemoryError: a batch does not fit into the GPU's memory.
        """
        recipe, corruption = self._config.training, self._config.corruption
        with self._telling_what_fits():
            return validate(
                self._network, self._validation, recipe.batch_size, corruption, recipe.validation_seed, self._team
            )

    @contextmanager
    def _telling_what_fits(self) -> Iterator[None]:
        """PyTorch's error becomes one that says what to do, after trying what fits."""
        try:
            yield
            return
        except torch.OutOfMemoryError:
            pass  # the error holds on to what the step had in memory: try only when it is gone
        size, batch = self._team.size, self._config.training.batch_size
        tried = partial(fits_in_memory, self._network, self._size, self._device, self._config.corruption)
        largest = size * largest_batch(tried, below=-(-batch // size))
        advice = (
            f"{largest} would: choose --batch-size {largest}"
            if largest
            else "nor does one cube: choose fewer --channels"
        )
        raise OutOfMemoryError(f"a batch of {batch} cubes does not fit into the memory of {self._device}; {advice}")


def initial_state(config: PretrainConfig, device: torch.device, initial: Path | None = None) -> TrainingState:
    """A new run: weights from the file ``initial``, if there is one; all else from the seed."""
    recipe = config.training
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # the CPU's alone: the weights are drawn there
        model = MNet(INPUT_CHANNELS, OUTPUT_CHANNELS, config.network.channels, config.network.merge)
    if initial:
        load_weights(model, initial)
    model.to(device, memory_format=LAYOUT)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, device, recipe)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=recipe.halve_every, gamma=0.5)
    return TrainingState(model, optimizer, schedule, torch.Generator().manual_seed(recipe.seed), Progress())
