"""The parts of `benchmarks.gpu_check`, each called in a fresh process; they run on a CPU as well, if asked to.

What yields, yields all that it has found so far.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.epochs import configuration
from benchmarks.gpu_parts import _measured
from benchmarks.kernels import copy_bandwidth
from benchmarks.random_cubes import PICAI, write_set
from benchmarks.steps import PLAIN, TOGETHER, Sizes, settle
from zssmnet.config import NetworkConfig, PretrainConfig
from zssmnet.corruption import LAYOUT
from zssmnet.errors import NonFiniteLossError, OutOfMemoryError
from zssmnet.storage import LocalStorage
from zssmnet.training.dataset import open_training_data
from zssmnet.training.loss import restoring_network
from zssmnet.training.precision import choose_device
from zssmnet.training.trainer import Trainer, initial_state

Told = dict[str, Any]


def bandwidth(sizes: Told) -> Told:
    """GB/s of a plain copy, and microseconds of the host and the device for a kernel that does nothing."""
    device = torch.device(Sizes.of(sizes).device)
    one, count = torch.zeros(1, device=device), 2000
    settle(device)
    start = time.perf_counter()
    for _ in range(count):
        one.add_(1)
    launched = time.perf_counter() - start
    settle(device)
    return {
        "copy_gb_per_s": copy_bandwidth(device),
        "launch_host_us": 1e6 * launched / count,
        "launch_and_run_us": 1e6 * (time.perf_counter() - start) / count,
    }


def convolutions(sizes: Told) -> Iterator[Told]:
    """Milliseconds of each convolution's shape, within slices as one of images and of volumes, forward and backward."""
    asked = Sizes.of(sizes)
    device, found = torch.device(asked.device), dict[str, Any]()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for (shape, kernel), count in sorted(_convolutions(asked).items(), key=lambda one: -_values(one[0][0])):
        x = torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=LAYOUT)
        weight = torch.randn(kernel, dtype=dtype, device=device).contiguous(memory_format=LAYOUT)
        padding = [length // 2 for length in kernel[2:]]
        ways = {"3d": (functional.conv3d, x, weight, padding)}
        if kernel[2] == 1:
            images = x.transpose(1, 2).flatten(0, 1)
            ways["2d"] = (functional.conv2d, images, weight[:, :, 0], padding[1:])
        name = f"{'x'.join(map(str, shape))} * {'x'.join(map(str, kernel))}"
        found[name] = {"count": count} | {way: _convolution_ms(device, *one) for way, one in ways.items()}
        yield found


class _Convolutions(TorchDispatchMode):
    """Shapes of volumes and kernels that are convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.seen[tuple(args[0].shape), tuple(args[1].shape)] += 1
        return function(*args, **(kwargs or {}))


def _convolutions(sizes: Sizes) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    with torch.device("meta"):
        network = restoring_network(NetworkConfig(channels=sizes.channels))
        x = torch.empty(sizes.batch, network.in_channels, *sizes.size[::-1])
    with _Convolutions() as noted:
        network(x)  # channels first, so that all are of volumes
    return noted.seen


def _values(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _convolution_ms(
    device: torch.device, convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, padding: list[int]
) -> Told:
    torch.backends.cudnn.benchmark = True
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    result = convolve(x, weight, padding=padding)
    gradient = torch.ones_like(result)
    return {
        "forward_ms": _ms(device, lambda: convolve(x, weight, padding=padding)),
        "backward_ms": _ms(device, lambda: torch.autograd.grad(result, (x, weight), gradient, retain_graph=True)),
    }


def _ms(device: torch.device, work: Callable[[], object], repeat: int = 10) -> float:
    for _ in range(2):
        work()
    settle(device)
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    settle(device)
    return 1e3 * (time.perf_counter() - start) / repeat


def steps(sizes: Told) -> Iterator[Told]:
    """PyTorch as it comes, the step as it was, with kernels of our own, as a CUDA graph, and both."""
    yield from _steps(Sizes.of(sizes))


def eighth(sizes: Told) -> Iterator[Told]:
    """The same with the cubes that one of eight GPUs has."""
    asked = Sizes.of(sizes)
    yield from _steps(replace(asked, batch=max(1, asked.batch // 8)))


def _steps(sizes: Sizes) -> Iterator[Told]:
    variants = {
        "PyTorch as it comes": PLAIN,
        "as it was": TOGETHER,
        "graph and kernels": replace(TOGETHER, compile="cudagraphs"),
        "kernels": replace(TOGETHER, kernels=True),
        "graph": replace(TOGETHER, compile="cudagraphs", kernels=False),
    }
    found: Told = {}
    for name, variant in variants.items():
        found[name] = _measured(variant, sizes)
        yield found


def trainer(sizes: Told) -> Iterator[Told]:
    """200 steps and 50 validations of the trainer, as a CUDA graph and as it was, scaled to PI-CAI's epoch."""
    asked, found = Sizes.of(sizes), dict[str, Any]()
    steps, validations = (10, 3) if asked.device == "cpu" else (200, 50)
    with TemporaryDirectory() as folder:
        write_set(Path(folder), steps * asked.batch, validations * asked.batch, asked.size)
        for mode in ("cudagraphs", "off"):
            trained = _trainer(_config(asked, compile=mode), Path(folder))
            found[mode] = _epochs(trained, asked, steps, validations)
            yield found


def _epochs(trained: Trainer, sizes: Sizes, steps: int, validations: int) -> Told:
    ends: list[float] = []
    device = torch.device(sizes.device)

    def note(done: int, of: int) -> None:
        if done in (1, of):
            settle(device)
            ends.append(time.perf_counter())

    start = time.perf_counter()
    first = trained.epoch(lambda done, of: note(done, of))
    first_step_s = ends[0] - start
    ends.clear()
    trained.epoch(note)
    step_s = (ends[1] - ends[0]) / (steps - 1)
    start = time.perf_counter()
    trained.validate()
    validation_s = (time.perf_counter() - start) / validations
    training_cubes, validation_cubes = PICAI
    return {
        "first_step_s": first_step_s,
        "step_ms": 1e3 * step_s,
        "validation_ms": 1e3 * validation_s,
        "epoch_as_large_as_picai_s": training_cubes / sizes.batch * step_s
        + validation_cubes / sizes.batch * validation_s,
        "loss": first.train_loss,
        "reserved_gpu_bytes": torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
    }


def resumed(sizes: Told) -> Told:
    """Hashes of the weights after 20 steps, and after 10 and 10 more in a new process, with `deterministic`."""
    asked, found = Sizes.of(sizes), dict[str, Any]()
    steps = 2 if asked.device == "cpu" else 10
    with TemporaryDirectory() as folder:
        write_set(Path(folder) / "cubes", steps * asked.batch, asked.batch, asked.size)
        for mode in ("off", "cudagraphs"):
            told = [str(folder), mode, str(asked.batch), asked.device, ",".join(map(str, asked.channels))]
            runs = [["whole", "2"], ["parts", "1"], ["parts", "2"]]
            start = time.perf_counter()
            hashes = [_hash_after(*told, *run) for run in runs]
            found[mode] = {"whole": hashes[0], "in_parts": hashes[2], "equal": hashes[0] == hashes[2]}
            found[mode]["seconds"] = time.perf_counter() - start
    return found


def _hash_after(*told: str) -> str:
    code = "import sys; from benchmarks.gpu_check_parts import train_and_hash; print(train_and_hash(*sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *told], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def train_and_hash(folder: str, mode: str, batch: str, device: str, channels: str, name: str, epochs: str) -> str:
    """The hash of the weights after so many epochs, continued where the run of this name stopped."""
    from zssmnet.training.fit import fit

    numbers = [int(one) for one in channels.split(",")]
    choices: Told = {"compile": mode, "device": device, "deterministic": True, "epochs": int(epochs)}
    config = configuration(int(batch), numbers, **choices)
    data = open_training_data(LocalStorage(Path(folder) / "cubes"), int(batch))
    (workplace := Path(folder) / f"{name} {mode}").mkdir(exist_ok=True)
    state = fit(*data, config, LocalStorage(workplace))
    digest = hashlib.sha256()
    for weight in state.model.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def refused(sizes: Told) -> Iterator[Told]:
    """After capture: another learning rate takes effect, too large a batch is one line, a NaN ends the run."""
    asked, found = Sizes.of(sizes), dict[str, Any]()
    with TemporaryDirectory() as folder:
        write_set(Path(folder), 8 * asked.batch, asked.batch, asked.size)
        trained = _trainer(_config(asked, compile="cudagraphs"), Path(folder))
        trained.epoch()
        state = trained._state
        before = [one.detach().clone() for one in state.model.parameters()]
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0
        trained.epoch()
        found["a learning rate of 0 changes nothing"] = all(map(torch.equal, before, state.model.parameters()))
        yield found
        with torch.no_grad():
            next(iter(state.model.parameters())).fill_(torch.nan)
        found["a NaN"] = _error(trained.epoch, NonFiniteLossError)
        yield found
        if asked.device == "cuda":
            large = replace(asked, batch=2 * asked.batch)
            again = _trainer(_config(large, compile="cudagraphs"), Path(folder))
            again.epoch()
            found["twice the batch"] = "trained"
            yield found
            torch.cuda.set_per_process_memory_fraction(0.02)
            found["too little memory"] = _error(again.epoch, OutOfMemoryError)
            yield found


def _error(work: Callable[[], object], kind: type[Exception]) -> str:
    try:
        work()
    except kind as error:
        return str(error)
    return "no error"


def compiled(sizes: Told, cache: str) -> Told:
    """The step compiled, with an empty cache."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    return _measured(replace(TOGETHER, compile="reduce-overhead"), Sizes.of(sizes))


def compiled_again(sizes: Told, cache: str) -> Told:
    """The same with the cache that `compiled` left."""
    return compiled(sizes, cache)


def _config(sizes: Sizes, **recipe: Any) -> PretrainConfig:
    return configuration(sizes.batch, list(sizes.channels), device=sizes.device, epochs=10, **recipe)


def _trainer(config: PretrainConfig, folder: Path) -> Trainer:
    training, validation = open_training_data(LocalStorage(folder), config.training.batch_size)
    return Trainer(initial_state(config, choose_device(config.training.device)), training, validation, config)
