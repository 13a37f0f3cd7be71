"""The Triton kernels against PyTorch's own, in Triton's interpreter, and counted without values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from zssmnet.mnet import MNet
from zssmnet.mnet.fused import absolute_difference, fused_norm_and_activate

LAST = torch.channels_last_3d
SHAPES = [(2, 8, 4, 6, 8), (3, 5, 3, 7, 9), (1, 1, 2, 3, 3), (2, 33, 1, 5, 7)]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as Python computes them, where there is no GPU (see conftest); several programs to a cube."""
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's wheels for CPUs come without it")
    from zssmnet.mnet import norm_kernels

    monkeypatch.setattr(norm_kernels, "TILE", 512)


def plain(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return functional.leaky_relu(functional.instance_norm(features, weight=weight, bias=bias, eps=eps), 0.01)


def computed(way: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, exact: bool) -> list[Tensor]:
    """The activated features and the gradients of the features, the weight and the bias; `exact`: in float64."""
    generator = torch.Generator().manual_seed(0)
    features, gradient = ((3 * torch.randn(shape, generator=generator) + 5).to(dtype) for _ in range(2))
    weight, bias = (torch.rand(shape[1], generator=generator) - 0.3 for _ in range(2))
    if exact:
        features, gradient, weight, bias = (one.double() for one in (features, gradient, weight, bias))
    features = features.to(DEVICE).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = (one.to(DEVICE).requires_grad_() for one in (weight, bias))
    activated = way(features, weight, bias, 1e-5)
    activated.backward(gradient.to(DEVICE))
    return [activated.detach(), *(one.grad for one in (features, weight, bias) if one.grad is not None)]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-5), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_pytorchs_within_rounding(
    shape: tuple[int, ...], dtype: torch.dtype, rounding: float
) -> None:
    here, exact = (computed(fused_norm_and_activate, shape, dtype, False), computed(plain, shape, dtype, True))
    assert len(here) == 4
    assert [one.dtype for one in here] == [dtype, dtype, torch.float32, torch.float32]
    assert here[0].is_contiguous(memory_format=LAST)
    for one, other in zip(here, exact, strict=True):
        assert (one.double() - other).abs().max() <= rounding * other.abs().max()


@pytest.mark.usefixtures("interpreter")
def test_features_far_from_zero_keep_their_precision() -> None:
    """A mean that is 10,000 times the deviation: sums of squares would lose all of it."""
    features = (torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)) + 1e4).contiguous(
        memory_format=LAST
    )
    features, ones, zeros = features.to(DEVICE), torch.ones(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    exact = plain(features.double(), ones.double(), zeros.double(), 1e-5)
    assert (fused_norm_and_activate(features, ones, zeros, 1e-5) - exact).abs().max() < 1e-2


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_absolute_difference_is_pytorchs_and_so_are_its_gradients(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    shape, results = (2, 5, 3, 7, 11), []
    one, other, gradient = (torch.randn(shape, generator=draw).mul(4).round().to(dtype) for _ in range(3))
    assert (one == other).any()  # where the gradient is 0
    for way in (absolute_difference, lambda one, other: (one - other).abs()):
        pair = [x.to(DEVICE).contiguous(memory_format=LAST).requires_grad_() for x in (one, other)]
        result = way(*pair)
        result.backward(gradient.to(DEVICE), retain_graph=True)
        torch.cat((result, result * 2), dim=1).sum().backward()  # a gradient whose voxels lie apart
        results.append([result, *(x.grad for x in pair)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


class Convolutions(TorchDispatchMode):
    """Counts convolutions by their axes, and copies."""

    def __init__(self) -> None:
        super().__init__()
        self.axes: list[int] = []
        self.norms = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.convolution.default:
            self.axes.append(args[0].ndim - 2)
            given = given.contiguous(memory_format=LAST if given.ndim == 5 else torch.channels_last)  # as cuDNN's
        self.norms += function is torch.ops.zssmnet.norm_and_activate.default
        return given


@pytest.mark.parametrize("fused", [False, True])
def test_with_the_channels_last_convolutions_within_slices_are_those_of_images(fused: bool) -> None:
    """On `meta`, which has shapes and strides alone: as on a GPU."""
    with torch.device("meta"):
        network = MNet(6, 3, (2, 2, 2, 2, 2)).to(memory_format=LAST)  # type: ignore[call-overload]
        cubes = torch.empty(2, 6, 8, 16, 16).contiguous(memory_format=LAST)
    if fused:
        network.fuse()
    with Convolutions() as counted:
        network(cubes)
    assert (counted.axes.count(2), counted.axes.count(3)) == ((42, 43) if fused else (1, 84))
    assert counted.norms == (84 if fused else 0)
