"""The parts of `benchmarks.gpu`, each called in a fresh process; they run on a CPU as well, if asked to.

What yields, yields all that it has found so far.
"""

import gc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.corruption import time_shuffling, time_steps
from benchmarks.curves import Course, run
from benchmarks.kernels import where_time_goes
from benchmarks.steps import ALONE, PLAIN, TOGETHER, Compile, Sizes, Step, Variant, measure
from zssmnet.config import CorruptionConfig
from zssmnet.storage import LocalStorage
from zssmnet.training.batches import Batches, ResidentCubes, StreamedCubes
from zssmnet.training.dataset import CubeSet, open_training_data
from zssmnet.training.epoch import CHECK_EVERY, train_epoch
from zssmnet.training.precision import gpu_settings
from zssmnet.training.trainer import fits_in_memory, largest_batch

Told = dict[str, Any]
LARGEST_TRIED = 4096


def corruption(sizes: Told) -> Told:
    """Milliseconds of a batch's corruption on the device, and of one shuffled channel on a core against a loop."""
    asked = Sizes.of(sizes)
    milliseconds = time_steps(asked.batch, 5, asked.device)
    torch.set_num_threads(1)
    loop = time_shuffling(min(asked.batch, 4), 1)
    return {"ms": milliseconds, "cubes_per_second": 1e3 * asked.batch / milliseconds["whole"], "one_core": loop}


def waits(sizes: Told, cubes: str) -> Iterator[Told]:
    """Whether the host waits for the GPU in the steps of `train_epoch`: PyTorch raises an error where it does."""
    asked = Sizes.of(sizes)
    device = torch.device(asked.device)
    training, _ = open_training_data(LocalStorage(Path(cubes)), asked.batch)
    found: Told = {}
    kinds: tuple[tuple[str, type[ResidentCubes] | type[StreamedCubes]], ...] = (
        ("cubes on the device", ResidentCubes),
        ("cubes from disk", StreamedCubes),
    )
    for name, kind in kinds:
        found[name] = _waits_with(kind(training, device), training, asked)
        yield found


def _waits_with(batches: Batches, training: CubeSet, sizes: Sizes) -> Told:
    step = Step(TOGETHER, sizes)
    watched = _WatchedBatches(batches)
    epoch = partial(train_epoch, step.computed, step.optimizer, batch_size=sizes.batch)
    try:
        for batches_now in (batches, watched):  # what is done once only, is done in the first epoch
            epoch(cubes=batches_now, generator=torch.Generator().manual_seed(0), on_step=lambda done, steps: None)
    except RuntimeError as error:
        return {"steps": watched.steps, "error": _first_line(error)}
    finally:
        watched.end()
    return {"steps": watched.steps, "error": None, "watched_by": "PyTorch" if watched.can_see else "nobody (CPU)"}


class _WatchedBatches:
    """Batches that let PyTorch raise an error wherever the host waits, in all steps but the last.

    The last step is left out, as the loss is looked at after it; so there must be fewer steps than between two looks.
    """

    def __init__(self, batches: Batches) -> None:
        self.device = batches.device
        self.can_see = batches.device.type == "cuda"
        self.steps = 0
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Batches`."""
        wanted = list(numbers)
        assert 1 < len(wanted) < CHECK_EVERY
        if self.can_see:
            torch.cuda.set_sync_debug_mode("error")
        for number, batch in enumerate(self._batches.batches(wanted), 1):
            if number == len(wanted):
                self.end()
            yield batch
            if number < len(wanted):
                self.steps = number

    def end(self) -> None:
        """Nothing is watched any more."""
        if self.can_see:
            torch.cuda.set_sync_debug_mode("default")


def steps(sizes: Told) -> Iterator[Told]:
    """The plain step, each acceleration alone, and all together but for compilation."""
    found: Told = {}
    for name, variant in ({"plain": PLAIN} | ALONE | {"all together": TOGETHER}).items():
        found[name] = _measured(variant, Sizes.of(sizes))
        yield found


def compiled(sizes: Told, mode: Compile) -> Told:
    """All together, compiled in a mode."""
    return _measured(replace(TOGETHER, compile=mode), Sizes.of(sizes))


def compiled_curve(sizes: Told, mode: Compile, curve_steps: int) -> list[float]:
    """A loss curve in bfloat16, compiled in a mode."""
    return run(Course(precision="bfloat16", compile=mode), replace(Sizes.of(sizes), steps=curve_steps))


def _measured(variant: Variant, sizes: Sizes) -> Told:
    """Figures of a variant, or why there are none."""
    try:
        return measure(variant, sizes)
    except Exception as error:  # compilers raise what they like; the other variants are to be measured all the same
        return {"error": _first_line(error)}
    finally:
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def profile(sizes: Told) -> Told:
    """Where a step's time goes."""
    return where_time_goes(Sizes.of(sizes))


def curves(sizes: Told, curve_steps: int) -> Iterator[Told]:
    """Loss curves: float32 with two seeds, the other precisions."""
    asked = replace(Sizes.of(sizes), steps=curve_steps)
    courses = {
        "float32": Course(),
        "float32, another seed": Course(seed=1),
        "bfloat16": Course(precision="bfloat16"),
        "TF32": Course(precision="tf32"),
        "float16": Course(precision="float16"),
    }
    found: Told = {}
    for name, course in courses.items():
        found[name] = run(course, asked)
        yield found


def largest(sizes: Told, tried_at_most: int = LARGEST_TRIED) -> Iterator[Told]:
    """The largest batch that fits, in float32 and in bfloat16."""
    asked = Sizes.of(sizes)
    found: Told = {"tried_at_most": tried_at_most}
    for name, variant in (("float32", replace(TOGETHER, precision="float32")), ("bfloat16", TOGETHER)):
        with gpu_settings(bool(variant.tf32)):
            step = Step(variant, asked)
            fits = partial(fits_in_memory, step.network, asked.size, step.device, CorruptionConfig())
            found[name] = _largest(fits, asked.batch, tried_at_most)
        yield found


def _largest(fits: "partial[bool]", first: int, at_most: int) -> int:
    """Doubled until it does not fit, then by bisection."""
    low, high = 0, first
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    if high > at_most:
        return low
    return max(low, largest_batch(lambda batch: batch <= low or fits(batch), high))


def _first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:400]
