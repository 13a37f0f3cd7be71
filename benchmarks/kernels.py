"""Where a step's time goes: convolutions, norms and activations, copies into another layout, the rest."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import GIB
from benchmarks.steps import TOGETHER, Sizes, Step, settle
from zssmnet.config import NetworkConfig
from zssmnet.corruption import corrupt
from zssmnet.mnet.blocks import ConvNormAct
from zssmnet.training.loss import restoring_network
from zssmnet.training.optimizer import make_optimizer
from zssmnet.training.precision import gpu_settings

KINDS = (
    ("convolutions", ("conv",)),
    ("norms and activations", ("batch_norm", "instance_norm", "leaky_relu", "norm_and_activate")),
    ("pooling and up-sampling", ("max_pool", "upsample", "aten::bmm", "aten::mm")),
    ("copies: layouts, number types", ("aten::copy_", "aten::clone", "aten::contiguous")),
    ("optimizer", ("_fused_sgd", "_foreach", "Optimizer")),
)
"""What is found first in an operation's name decides."""
OTHERS = "others"
PASSES = 13
"""Times that a feature goes through memory in a norm and its activation: the norm reads twice and writes, the
activation reads and writes; backward the activation reads two tensors and writes, the norm reads two tensors twice and
writes.
"""
PEAK_BFLOAT16_TFLOPS = (
    ("H100 PCIe", 756),
    ("H100", 989),
    ("H200", 989),
    ("A100", 312),
    ("L40S", 362),
    ("RTX 4090", 165),
)
"""Dense bfloat16, as the manufacturer tells, by a part of the card's name."""
UNKNOWN_CARDS = ("H100 NVL",)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def peak_tflops(card: str) -> float | None:
    """The card's peak in bfloat16, or None if its name is not known here."""
    if any(name in card for name in UNKNOWN_CARDS):
        return None
    return next((peak for name, peak in PEAK_BFLOAT16_TFLOPS if name in card), None)


def forward_gflop(sizes: Sizes) -> float:
    """Of the network's convolutions, for one cube; a multiplication and an addition are two."""
    with torch.device("meta"):
        network = restoring_network(NetworkConfig(channels=sizes.channels))
        cube = torch.empty(1, network.in_channels, *sizes.size[::-1])
    with FlopCounterMode(display=False) as counter:
        network(cube)
    return float(counter.get_flop_counts()["Global"][torch.ops.aten.convolution]) / 1e9


def where_time_goes(sizes: Sizes, steps: int = 3) -> dict[str, Any]:
    """A step's time by kind of operation, as the profiler sees it, and what norms achieve of the bandwidth."""
    with gpu_settings(bool(TOGETHER.tf32)):
        step = Step(TOGETHER, sizes)
        step()
        corruption_ms, _ = _profiled(lambda: _corrupted(step), steps, step.device)
        pair = _corrupted(step)
        optimizer = make_optimizer(step.model, step.device, step.recipe)
        network_ms, waits = _profiled(lambda: _network_step(step, pair, optimizer), steps, step.device)
        feature_bytes = _normed_bytes(step, pair[0])
    by_kind: dict[str, float] = defaultdict(float)
    for name, milliseconds in network_ms.items():
        by_kind[_kind(name)] += milliseconds
    norms_s = by_kind["norms and activations"] / 1e3
    return {
        "corruption_ms": sum(corruption_ms.values()),
        "network_ms": sum(network_ms.values()),
        "by_kind_ms": dict(by_kind),
        "largest_operations_ms": dict(Counter(network_ms).most_common(20)),
        "waits_of_the_host": waits,
        "normed_bytes": feature_bytes,
        "norms_gb_per_s": PASSES * feature_bytes / norms_s / 1e9 if norms_s else None,
        "copy_gb_per_s": copy_bandwidth(step.device),
    }


def copy_bandwidth(device: torch.device) -> float:
    """GB/s, read and written, of a plain copy in the device's memory: what memory gives at best."""
    source = torch.zeros(GIB if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        settle(device)
        seconds.append(_seconds_of_copies(source, target))
    return 2 * 5 * source.nbytes / min(seconds) / 1e9


def _seconds_of_copies(source: Tensor, target: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(5):
        target.copy_(source)
    settle(source.device)
    return time.perf_counter() - start


def _corrupted(step: Step) -> tuple[Tensor, Tensor]:
    batch, keys = step.batch()
    return corrupt(batch, keys, step.corruption)


def _network_step(step: Step, pair: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss = functional.mse_loss(torch.sigmoid(step.network(pair[0])), pair[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _profiled(work: Callable[[], object], steps: int, device: torch.device) -> tuple[dict[str, float], dict[str, int]]:
    """Milliseconds a step of each operation's own kernels, and how often the host waited in all steps."""
    on_gpu = device.type == "cuda"
    work()
    settle(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            work()
        settle(device)
    found: dict[str, float] = defaultdict(float)
    waits = Counter[str]()
    for event in profiler.key_averages():
        if event.key in WAITS:
            waits[event.key] += event.count
        if event.device_type == DeviceType.CPU:
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found[event.key] += microseconds / 1e3 / steps
    return dict(found), dict(waits)


def _normed_bytes(step: Step, corrupted: Tensor) -> int:
    """Bytes of all features that are normalised in one pass."""
    sizes: list[int] = []

    def note(module: nn.Module, taken: object, given: Tensor) -> None:
        sizes.append(given.nbytes)

    norms = [module for module in step.model.modules() if isinstance(module, ConvNormAct)]
    hooks = [norm.register_forward_hook(note) for norm in norms]
    with torch.no_grad():
        step.network(corrupted)
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def _kind(operation: str) -> str:
    return next((kind for kind, names in KINDS if any(name in operation for name in names)), OTHERS)
