"""What a training step asks of a GPU's memory, by the operations that it calls: no GPU is needed.

    python -m benchmarks.traffic --json traffic.json

The step runs on PyTorch's device `meta`, where tensors have shapes and no values, and every operation is written down:
the bytes that it reads and writes, and its kernels. Convolutions are in bfloat16 and channels last, as on a GPU.
Assumptions: what an operation reads comes from memory and what it writes goes there, nothing stays in a cache; a
convolution whose input or gradient has its channels first copies it; a batch norm reads what it normalises twice,
forward and backward; an operation is one kernel, a batch norm and a convolution's backward pass two.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.kernels import forward_gflop
from benchmarks.results import Results
from benchmarks.steps import Sizes
from zssmnet.config import NetworkConfig, TrainingConfig
from zssmnet.corruption import LAYOUT
from zssmnet.training.loss import restoring_network
from zssmnet.training.optimizer import make_optimizer

CARDS = {"H100": (3.35, 989), "A100": (2.04, 312), "RTX 4090": (1.01, 165)}
"""Bandwidth in TB/s and dense bfloat16 in TFLOP/s, as the manufacturer tells."""
LAUNCH_US = 25.0
"""Of the host, for a kernel of an uncompiled step, autograd and Python included: 22 to 29 on the hosts of two H100s."""
KINDS = {
    "convolutions": ("convolution",),
    "norms and activations": ("batch_norm", "leaky_relu", "norm_and_activate"),
    "copies: layouts, number types": ("copy", "clone"),
    "pooling": ("max_pool",),
    "up-sampling": ("upsample", "lerp", "stack", "bmm", "mm"),
    "merging and concatenation": ("cat", "sub", "abs", "sgn", "neg", "absolute_difference"),
    "optimizer": ("_foreach", "_fused"),
}
FREE = ("empty", "detach", "lift_fresh", "_unsafe_view")
"""Operations that move nothing, besides views."""
TWO_KERNELS = ("convolution_backward",)


@dataclass
class Traffic:
    """Bytes and kernels, by kind of operation."""

    bytes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kernels: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, moved: float, kernels: int = 1) -> None:
        """Write an operation down."""
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "others")
        self.bytes[kind] += moved
        self.kernels[kind] += kernels

    def told(self) -> dict[str, Any]:
        """In plain values."""
        return {"bytes": dict(self.bytes), "kernels": dict(self.kernels)}


class _Autocast(TorchFunctionMode):
    """What autocast does on a GPU to MNet's operations: there is none for tensors without values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.conv2d, torch.conv3d):
            x, weight, *rest = args
            rest = [one.bfloat16() if isinstance(one, Tensor) else one for one in rest]
            args = (x.bfloat16(), weight.bfloat16(), *rest)
        elif function is functional.interpolate:
            args = (args[0].float(), *args[1:])
        return function(*args, **(kwargs or {}))


class _Counting(TorchDispatchMode):
    """Writes down every operation that moves something."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if function.is_view or name.startswith(FREE):
            return given
        taken = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        moved = sum(map(_bytes, taken)) + sum(_bytes(one) for one in tree_leaves(given) if isinstance(one, Tensor))
        if name == "copy_":
            moved -= _bytes(args[0])  # is only written
        if "norm" in name:
            moved += sum(_bytes(one) for one in taken if one.ndim > 3)
        if "convolution" in name:
            self._copy_to_channels_last(taken[: 2 if "backward" in name else 1])
            given = _channels_last(given)
        self.traffic.add(name, moved, 2 if name.endswith(TWO_KERNELS) or "norm" in name else 1)
        return given

    def _copy_to_channels_last(self, tensors: list[Tensor]) -> None:
        for one in tensors:
            if not one.is_contiguous(memory_format=_format(one)):
                self.traffic.add("copy", 2 * _bytes(one))


def _bytes(tensor: Tensor) -> int:
    """Of its elements that lie in memory: an expanded one lies there once."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride else 1
    return elements * tensor.element_size()


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else LAYOUT


def _channels_last(given: Any) -> Any:
    """A convolution's results as cuDNN gives them."""
    if isinstance(given, Tensor):
        return given.contiguous(memory_format=_format(given)) if given.ndim > 3 else given
    return type(given)(_channels_last(one) if isinstance(one, Tensor) else one for one in given)


def step_traffic(sizes: Sizes, fused: bool = False) -> Traffic:
    """Of the second of two steps, which has momentum; `fused`: with norms of our own, as in CUDA graphs."""
    with torch.device("meta"):
        network = restoring_network(NetworkConfig(channels=sizes.channels))
        shape = (sizes.batch, network.in_channels, *sizes.size[::-1])
        corrupted = torch.empty(shape).contiguous(memory_format=LAYOUT)
        target = corrupted[:, : network.num_classes].contiguous(memory_format=LAYOUT)
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]
    if fused:
        network.fuse()
    optimizer = make_optimizer(network, torch.device("meta"), TrainingConfig())
    optimizer.param_groups[0]["foreach"] = True
    for _ in range(2):
        with _Counting() as counting:
            optimizer.zero_grad(set_to_none=True)
            with _Autocast():
                logits = network(corrupted)
            loss = (torch.sigmoid(logits.float()) - target).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return counting.traffic


def roofline(traffic: Traffic, sizes: Sizes) -> list[tuple[str, ...]]:
    """For each card the milliseconds that computing, memory and launches take at least."""
    gflop = 3 * forward_gflop(sizes) * sizes.batch  # forward, and the two of the gradients
    rows: list[tuple[str, ...]] = []
    for card, (bandwidth, peak) in CARDS.items():
        computing = gflop / peak
        moving, fused = (
            1e-9 * amount / bandwidth for amount in (sum(traffic.bytes.values()), traffic.bytes["convolutions"])
        )
        launching = 1e-3 * LAUNCH_US * sum(traffic.kernels.values())
        rows.append((card, *(f"{one:.1f} ms" for one in (computing, moving, fused, launching))))
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=24, help="cubes in a step (default: 24)")
    parser.add_argument("--channels", type=int, nargs=5, default=[32, 48, 64, 80, 96], help="of the five levels")
    parser.add_argument("--size", type=int, nargs=3, default=[64, 64, 16], help="of a cube x, y, z (default: 64 64 16)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    sizes = Sizes(options.batch, tuple(options.channels), tuple(options.size), "meta", 1)
    told = {"batch": sizes.batch, "channels": list(sizes.channels), "size": list(sizes.size), "precision": "bfloat16"}
    results = Results("traffic", told, options.json)
    for name, fused in (("uncompiled", False), ("as a CUDA graph", True)):
        traffic = step_traffic(sizes, fused)
        results.add(name, traffic.told())
        rows = [
            (kind, f"{traffic.bytes[kind] / 1e9:.1f} GB", str(traffic.kernels[kind]))
            for kind in sorted(traffic.bytes, key=lambda kind: -traffic.bytes[kind])
        ]
        rows.append(("together", f"{sum(traffic.bytes.values()) / 1e9:.1f} GB", str(sum(traffic.kernels.values()))))
        title = f"What a step of {sizes.batch} cubes moves, {name}"
        results.table(title, ("operations", "memory", "kernels"), rows)
        head = ("card", "computing", "memory", "memory of the convolutions alone", "launches from Python")
        results.table(f"What a step takes at least, {name}", head, roofline(traffic, sizes))


if __name__ == "__main__":
    main()
