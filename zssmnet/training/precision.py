"""Device, precision and compilation of a network."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zssmnet.config import TrainingConfig
from zssmnet.errors import InputError
from zssmnet.mnet import MNet

log = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Compile = Literal["off", "cudagraphs", "default", "reduce-overhead", "max-autotune"]
AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""dtype of the convolutions, for the precisions with another one than float32."""
COMPILED_FROM = 10_000
"""Steps of a training from which ``auto`` compiles on a GPU. Compiling takes about two minutes; a step of 24 cubes then
takes 41 ms instead of 70 to 100 (H100).
"""


class Accelerated(nn.Module):
    """A network under autocast; its weights and predictions are float32.

    It is not saved, so that no prefix (`module.`, `_orig_mod.`) gets into a checkpoint's names.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._device_type = device.type
        self._dtype = AUTOCAST.get(precision)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, Z, Y, X) to the network's prediction, in float32."""
        with torch.autocast(self._device_type, self._dtype, enabled=self._dtype is not None):
            prediction: Tensor = self.model(x)
        return prediction.float()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``mps``; ``auto`` is never ``mps``.

    Args:
        local_rank: number of this process on its machine, of several that train together, each on its GPU. Where each
            sees one GPU alone, as some schedulers arrange it, that is its own.

    Raises:
        InputError: ``cuda`` or ``mps`` without a usable GPU, or fewer GPUs than processes.
    """
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("no Apple GPU (mps) can be used here; choose --device auto or --device cpu")
        return torch.device("mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device can be used here; choose --device auto or --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if not local_rank or visible == 1:
        return torch.device("cuda")
    if local_rank >= visible:
        raise InputError(
            f"process {local_rank} of this machine (LOCAL_RANK) needs a GPU of its own, and it sees {visible}; start "
            "as many processes as there are GPUs, or let each see one alone"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def accelerated(model: nn.Module, device: torch.device, recipe: TrainingConfig, steps: int = 0) -> nn.Module:
    """The network as this machine computes it best, by the recipe; compiled when it is first used.

    Args:
        steps: of the whole training, see `choose_compile`.
    """
    network = Accelerated(model, device, choose_precision(recipe, device))
    if is_captured(recipe, device) and isinstance(model, MNet):
        model.fuse()
    if (mode := choose_compile(recipe, device, steps)) != "off":
        network.compile(mode=mode, dynamic=False)
    return network


def choose_precision(recipe: TrainingConfig, device: torch.device) -> Precision:
    """The precision of convolutions; ``auto`` is bfloat16 on GPUs that support it, else float32."""
    if recipe.precision != "auto":
        return recipe.precision
    in_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if in_bfloat16 else "float32"


def is_captured(recipe: TrainingConfig, device: torch.device) -> bool:
    """Whether steps are CUDA graphs (`zssmnet.training.step`): asked for, and on such a GPU."""
    return recipe.compile == "cudagraphs" and device.type == "cuda"


def choose_compile(recipe: TrainingConfig, device: torch.device, steps: int) -> Compile:
    """The mode of torch.compile, of which ``cudagraphs`` is none (see `is_captured`).

    ``auto`` is ``reduce-overhead`` on a GPU, where it works and the steps of the whole training are many, else ``off``.
    """
    if recipe.compile != "auto":
        return "off" if recipe.compile == "cudagraphs" else recipe.compile
    pays = device.type == "cuda" and steps >= COMPILED_FROM
    return "reduce-overhead" if pays and _can_compile(device) else "off"


def _can_compile(device: torch.device) -> bool:
    """Try it: Triton, a C compiler, Python's headers or support of this GPU may be missing."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # compilers raise what they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning(
            "the network is not compiled, so that training takes about twice as long: torch.compile does not work here "
            "(%s); with --compile off this is not tried",
            reason,
        )
        return False
    log.info("the network is compiled for this GPU when it is first used: the first step takes a minute or two")
    return True


@contextmanager
def gpu_settings(tf32: bool, deterministic: bool = False) -> Iterator[None]:
    """PyTorch's settings for GPUs. cuDNN tries which of its algorithms is the fastest, since shapes are fixed.

    Args:
        tf32: whether factors of float32 products are rounded to TF32, as in convolutions by PyTorch's default.
        deterministic: only algorithms that give the same bits in every process; none are tried, as the fastest is
            another one now and then.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    chosen: list[tuple[Any, str, bool | str]]
    chosen = [(cudnn, "allow_tf32", tf32), (products, "allow_tf32", tf32)]
    try:
        [getattr(one, name) for one, name, _ in chosen]
    except RuntimeError:  # a program has used PyTorch's new way to set it, after which the old one cannot be read
        conv, rounded = cudnn.conv, "tf32" if tf32 else "ieee"  # type: ignore[attr-defined]
        chosen = [(conv, "fp32_precision", rounded), (products, "fp32_precision", rounded)]
    chosen += [(cudnn, "benchmark", not deterministic), (cudnn, "deterministic", deterministic)]
    before = [getattr(one, name) for one, name, _ in chosen]
    try:
        for one, name, value in chosen:
            setattr(one, name, value)
        yield
    finally:
        for (one, name, _), former in zip(chosen, before, strict=True):
            setattr(one, name, former)
