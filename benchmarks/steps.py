"""A training step in many variants: the plain one, each acceleration alone, and all together."""

import itertools
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.random_cubes import Triple, draw_cubes
from zssmnet.config import CorruptionConfig, NetworkConfig, TrainingConfig
from zssmnet.corruption import LAYOUT, corrupt, sample_keys, swap_x_and_z
from zssmnet.training import step as restoring
from zssmnet.training.epoch import CHECK_EVERY, training_step
from zssmnet.training.loss import restoring_network
from zssmnet.training.optimizer import make_optimizer
from zssmnet.training.precision import Compile, accelerated, gpu_settings, is_captured

Channels = tuple[int, int, int, int, int]
POOL = 48


@dataclass(frozen=True)
class Variant:
    """How a step is computed; the default is how one would write it first.

    Attributes:
        channels_last: memory layout of the network and of what it sees.
        tf32: whether float32 products are rounded to it; None: PyTorch as it comes, which rounds those of convolutions
            and does not try cuDNN's algorithms.
        precision: number type of the convolutions.
        fused: one kernel for the optimizer.
        resident: cubes lie on the device; otherwise each batch is gathered on the host and copied from pageable
            memory, while everything waits.
        seldom: the loss is looked at every 20 steps, not at each.
        compile: mode of torch.compile, or `cudagraphs`.
        kernels: whether norms and merging are Triton kernels; None: as `compile` has it.
    """

    channels_last: bool = False
    tf32: bool | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    fused: bool = False
    resident: bool = False
    seldom: bool = False
    compile: Compile = "off"
    kernels: bool | None = None


PLAIN = Variant()
TOGETHER = Variant(True, True, "bfloat16", True, True, True)
ALONE = {
    "channels last": replace(PLAIN, channels_last=True),
    "no TF32": replace(PLAIN, tf32=False),
    "algorithms tried": replace(PLAIN, tf32=True),
    "bfloat16": replace(PLAIN, precision="bfloat16"),
    "bfloat16 and channels last": replace(PLAIN, precision="bfloat16", channels_last=True),
    "fused optimizer": replace(PLAIN, fused=True),
    "cubes on the device": replace(PLAIN, resident=True),
    "loss looked at every 20 steps": replace(PLAIN, seldom=True),
}
MODES: tuple[Compile, ...] = ("cudagraphs", "default", "reduce-overhead")


@dataclass(frozen=True)
class Sizes:
    """What is trained: the real thing, or something tiny."""

    batch: int
    channels: Channels
    size: Triple
    device: str
    steps: int

    def as_json(self) -> dict[str, Any]:
        """In plain values."""
        return asdict(self)

    @classmethod
    def of(cls, reported: dict[str, Any]) -> "Sizes":
        """From what `as_json` gave, or from JSON of it."""
        tuples = {name: tuple(reported[name]) for name in ("channels", "size")}
        return cls(**(reported | tuples))


class Step:
    """Runs training steps of a variant on random cubes.

    Args:
        variant: how they are computed.
        sizes: of what.
        corruption: the pretext task.
    """

    def __init__(self, variant: Variant, sizes: Sizes, corruption: CorruptionConfig | None = None) -> None:
        self.variant, self.sizes = variant, sizes
        self.device = torch.device(sizes.device)
        self.corruption = corruption or CorruptionConfig()
        self._generator = torch.Generator().manual_seed(0)
        self.recipe = TrainingConfig(precision=variant.precision, compile=variant.compile, batch_size=sizes.batch)
        torch.default_generator.manual_seed(0)
        self.model = restoring_network(NetworkConfig(channels=sizes.channels))
        layout = LAYOUT if variant.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.network = accelerated(self.model, self.device, self.recipe)
        if variant.kernels is not None:
            self.model.fuse(variant.kernels)
        captured = is_captured(self.recipe, self.device)
        self.computed = restoring.Step(self.network, self.corruption, captured=captured)
        self.optimizer = self._make_optimizer()
        self._cubes = draw_cubes(min(POOL, 2 * sizes.batch), sizes.size)
        self._resident = torch.from_numpy(self._cubes).to(self.device) if variant.resident else None
        self._steps = 0

    def __call__(self) -> None:
        """One step."""
        numbers = torch.randint(len(self._cubes), (self.sizes.batch,), generator=self._generator)
        keys = sample_keys(self.sizes.batch, self._generator)
        batch = self._batch(numbers)
        if self.variant.channels_last:
            loss, _ = training_step(self.computed, self.optimizer, batch, keys)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            loss = plain_loss(self.network, batch, keys, self.corruption)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self._steps += 1
        if not self.variant.seldom or self._steps % CHECK_EVERY == 0:
            float(loss.detach())

    def batch(self) -> tuple[Tensor, Tensor]:
        """A batch on the device and its keys."""
        numbers = torch.arange(self.sizes.batch) % len(self._cubes)
        return self._batch(numbers), sample_keys(self.sizes.batch, self._generator)

    def _batch(self, numbers: Tensor) -> Tensor:
        if self._resident is not None:
            return swap_x_and_z(self._resident.index_select(0, numbers.to(self.device, non_blocking=True)))
        gathered: npt.NDArray[np.float16] = self._cubes[numbers.numpy()]
        return swap_x_and_z(torch.from_numpy(gathered).to(self.device))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.variant.fused:
            return make_optimizer(self.model, self.device, self.recipe)
        return torch.optim.SGD(self.model.parameters(), lr=self.recipe.learning_rate, momentum=self.recipe.momentum)


def plain_loss(network: nn.Module, batch: Tensor, keys: Tensor, corruption: CorruptionConfig) -> Tensor:
    """The loss with channels first."""
    corrupted, target = (volume.contiguous() for volume in corrupt(batch, keys, corruption))
    return functional.mse_loss(torch.sigmoid(network(corrupted)), target)


def settle(device: torch.device) -> None:
    """Wait until the work is really done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(variant: Variant, sizes: Sizes, warm_up: int = 3) -> dict[str, Any]:
    """Milliseconds of a step, of its launches on the host, cubes a second, memory, and how long the first step took.

    Memory is what PyTorch has reserved: pools of CUDA graphs are in it. On a GPU, steps that do not wait for each
    other are timed as a row, from one end to the next, by events in the stream; the median of these is what counts.
    """
    with nullcontext() if variant.tf32 is None else gpu_settings(variant.tf32):
        step = Step(variant, sizes)
        start = time.perf_counter()
        step()
        settle(step.device)
        first_s = time.perf_counter() - start
        for _ in range(warm_up - 1):
            step()
        settle(step.device)
        if step.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        milliseconds, whole_s = _timed_row(step, sizes.steps)
        median = statistics.median(milliseconds)
        return {
            "median_ms": median,
            "host_ms": _host_ms(step, 5),
            "ms": milliseconds,
            "cubes_per_second": 1e3 * sizes.batch / median,
            "cubes_per_second_of_all": sizes.batch * sizes.steps / whole_s,
            "first_step_s": first_s,
            "peak_gpu_bytes": torch.cuda.max_memory_reserved() if step.device.type == "cuda" else None,
            "variant": asdict(variant),
        }


def _host_ms(step: Step, count: int) -> float:
    """Milliseconds until a step returns to the host, with nothing before it in the GPU's queue; the median."""
    found = []
    for _ in range(count):
        settle(step.device)
        start = time.perf_counter()
        step()
        found.append(1e3 * (time.perf_counter() - start))
    settle(step.device)
    return statistics.median(found)


def _timed_row(step: Step, count: int) -> tuple[list[float], float]:
    if step.device.type != "cuda":
        ends = [time.perf_counter()]
        for _ in range(count):
            step()
            ends.append(time.perf_counter())
        return [1e3 * (b - a) for a, b in itertools.pairwise(ends)], ends[-1] - ends[0]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    whole_s = time.perf_counter() - start
    return [a.elapsed_time(b) for a, b in itertools.pairwise(events)], whole_s
