"""One process's part in a training: its state, its network, the cubes where it uses them, epoch after epoch."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.amp import GradScaler

from zssmnet.config import CorruptionConfig, PretrainConfig
from zssmnet.corruption import LAYOUT, sample_keys, swap_x_and_z
from zssmnet.errors import InputError, OutOfMemoryError
from zssmnet.mnet.upsampling import WITHOUT_FLOAT64
from zssmnet.training.batches import place_cubes
from zssmnet.training.calibration import calibrate_head, measure_channel_weights
from zssmnet.training.checkpoint import EpochResult, Progress, TrainingState, content_of, load_content, load_weights
from zssmnet.training.dataset import CubeSet
from zssmnet.training.diagnostics import collapsed_channels, warn_if_saturated
from zssmnet.training.distributed import CPU, SINGLE, Group
from zssmnet.training.epoch import OnStep, Validation, check_weights, train_epoch, validate
from zssmnet.training.loss import restoration_loss, restoring_network
from zssmnet.training.optimizer import make_optimizer, make_schedule
from zssmnet.training.precision import Accelerated, accelerated, choose_precision, gpu_settings, is_captured
from zssmnet.training.step import Step


class Trainer:
    """Runs epochs; of several processes all run the same ones, from rank 0's state.

    Args:
        state: the training so far; that of a worker becomes rank 0's.
        group: the processes that train together.

    Raises:
        OutOfMemoryError: the network or the cubes do not fit into the GPU's memory.
    """

    def __init__(
        self,
        state: TrainingState,
        training: CubeSet,
        validation: CubeSet,
        config: PretrainConfig,
        group: Group = SINGLE,
    ) -> None:
        if group.size > 1:
            content = group.broadcast(content_of(state))
            if group.rank:
                load_content(state, content)
        self._state, self._config, self._group = state, config, group
        self._size = training.size
        self._device = device = next(state.model.parameters()).device
        self._precision = choose_precision(config.training, device)
        cubes_on = CPU if device.type in WITHOUT_FLOAT64 else device  # corruption and figures need it
        steps = config.training.epochs * (len(training) // config.training.batch_size)
        weights = state.progress.channel_weights
        self._new_step = partial(
            Step,
            accelerated(state.model, device, config.training, steps),
            config.corruption,
            torch.tensor(weights, device=cubes_on) if weights else None,
            captured=is_captured(config.training, device),
        )
        self._step = self._new_step()
        self._before: Validation | None = None
        with self._computing():
            where = config.training.cubes_in
            self._training = place_cubes(training, cubes_on, where)
            is_same = validation is training
            self._validation = self._training if is_same else place_cubes(validation, cubes_on, where)

    def epoch(self, on_step: OnStep = lambda done, steps: None) -> EpochResult:
        """Train for one epoch, step the schedule, validate; before the first one, too, to see what it changes.

        Raises:
            NonFiniteLossError: the loss or a weight is NaN or infinite.
            OutOfMemoryError: a batch does not fit into the GPU's memory.
            InputError: Apple's GPUs lack an operation, or memory.
        """
        state, recipe, is_first = self._state, self._config.training, not self._state.progress.epoch
        learning_rate = float(state.schedule.get_last_lr()[0])
        before = self._before or self.validate()
        with self._computing():
            loss = train_epoch(
                self._step,
                state.optimizer,
                self._training,
                recipe.batch_size,
                state.generator,
                on_step,
                self._group,
                state.scaler if self._precision == "float16" else None,
                warn_if_saturated if is_first and not self._group.rank else None,
                recipe.accumulate,
            )
        state.schedule.step()
        check_weights(state.model)
        found = self._before = self.validate()
        return EpochResult(
            epoch=state.progress.epoch + 1,
            train_loss=loss,
            validation_loss=found.loss,
            learning_rate=learning_rate,
            explained=found.explained,
            spread=found.spread,
            explained_by_channel=found.explained_by_channel,
            collapsed=collapsed_channels(before, found),
        )

    def validate(self) -> Validation:
        """Validate with all validation cubes, corrupted in the same way every time; errors as in `epoch`."""
        recipe, cubes = self._config.training, self._validation
        fill = recipe.compile not in ("auto", "off") or self._device.type == "cuda"
        with self._computing():
            return validate(self._step, cubes, recipe.batch_size, recipe.validation_seed, self._group, fill=fill)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """In the recipe's precision; PyTorch's error of memory becomes one with advice, after trying what fits."""
        recipe = self._config.training
        with gpu_settings(self._precision == "tf32", recipe.deterministic):
            try:
                yield
                return
            except torch.OutOfMemoryError:
                pass  # the error refers to what the step had in memory: try only when it is gone
            except RuntimeError as error:  # what Apple's GPUs lack: an operation, or memory
                if self._device.type not in WITHOUT_FLOAT64:
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise InputError(f"{reason}; choose --device cpu, or a smaller --batch-size") from error
            torch.compiler.reset()  # graphs keep their memory
            self._state.optimizer.zero_grad(set_to_none=True)
            self._step = self._new_step()
            plain = Accelerated(self._state.model, self._device, self._precision)  # each try would compile another
            tried = partial(fits_in_memory, plain, self._size, self._device, self._config.corruption)
            of_a_rank = -(-recipe.batch_size // self._group.size)
            largest = largest_batch(tried, below=-(-of_a_rank // recipe.accumulate))
        advice = (
            f"{largest} at a time would: choose --accumulate {-(-of_a_rank // largest)}, which gives the same weights"
            if largest
            else "nor does one cube: choose fewer --channels"
        )
        raise OutOfMemoryError(
            f"a batch of {recipe.batch_size} cubes does not fit into the memory of {self._device}; {advice}"
        )


def initial_state(
    config: PretrainConfig, device: torch.device, initial: Path | None = None, cubes: CubeSet | None = None
) -> TrainingState:
    """A new run.

    Args:
        initial: file of the weights to begin with; None draws them from the seed.
        cubes: training cubes, on which the loss's weights are measured and a new head is calibrated, if the recipe asks
            for it.
    """
    recipe = config.training
    model = restoring_network(config.network, config.corruption.zone_task.share > 0, recipe.seed)
    if initial:
        load_weights(model, initial)
    model.to(memory_format=LAYOUT)  # type: ignore[call-overload]
    if recipe.calibrated_head and cubes and not initial:
        calibrate_head(model, cubes, config)
    model.to(device)
    optimizer = make_optimizer(model, device, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = measure_channel_weights(cubes) if recipe.loss_weighting == "variance" and cubes else None
    progress = Progress(channel_weights=weights)
    return TrainingState(
        model, optimizer, make_schedule(optimizer, recipe), generator, progress, GradScaler(device.type)
    )


def largest_batch(fits: Callable[[int], bool], below: int) -> int:
    """The largest batch that fits, by bisection; 0 if none does."""
    return bisect_left(range(1, below), True, key=lambda batch: not fits(batch))


def fits_in_memory(
    network: nn.Module, size: tuple[int, int, int], device: torch.device, corruption: CorruptionConfig, batch: int
) -> bool:
    """Whether a training step with a batch of this size fits, tried with empty cubes; the weights do not change."""
    network.train()
    tries_algorithms = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # for a shape that is seen once it takes longer than all else
    try:
        cubes = swap_x_and_z(torch.zeros(batch, 4, *size, device=device))
        loss = restoration_loss(network, cubes, sample_keys(batch, torch.Generator()), corruption)
        loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.backends.cudnn.benchmark = tries_algorithms
        network.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True
