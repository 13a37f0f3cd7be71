"""Three ways of computing instance norm and LeakyReLU are one: PyTorch's, in values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zssmnet.mnet import norm
from zssmnet.mnet.norm import LARGE, ByLines, by_batch_norm, by_moments, norm_and_activate

LAST = torch.channels_last_3d
SHAPES = [(2, 8, 4, 16, 16), (3, 5, 3, 7, 9), (1, 1, 2, 16, 3), (2, 4, 1, 1, 2), (1, 3, 1, 2, 1)]


def plain(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return functional.leaky_relu(functional.instance_norm(features, weight=weight, bias=bias, eps=eps), 0.01)


def computed(
    way: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, shift: float = 1.0
) -> list[Tensor]:
    """The activated features and the gradients of the features, the weight and the bias."""
    generator = torch.Generator().manual_seed(0)
    features, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    features = (2 * features + shift).to(dtype).contiguous(memory_format=LAST).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias = (one.to(wide).requires_grad_() for one in (weight, bias))
    activated = way(features, weight, bias, 1e-5)
    activated.backward(gradient.to(dtype))
    return [activated.detach(), *(one.grad for one in (features, weight, bias))]


@pytest.mark.parametrize("way", [by_batch_norm, by_moments, ByLines.apply])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_double_precision_all_agree(way, shape: tuple[int, ...]) -> None:
    for one, other in zip(computed(way, shape, torch.float64), computed(plain, shape, torch.float64), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_a_batch_norm_it_is_pytorchs_to_the_last_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for one, other in zip(computed(by_batch_norm, shape, dtype), computed(plain, shape, dtype), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("way", [by_moments, ByLines.apply])
def test_features_far_from_zero_keep_their_precision(way, dtype: torch.dtype, tolerance: float) -> None:
    """A cube of 65,536 voxels whose mean is 10 times their deviation: sums are not rounded once for each voxel."""
    shape = (2, 4, 16, 64, 64)
    here, exact = (computed(one, shape, kind, 20.0) for one, kind in ((way, dtype), (plain, torch.float64)))
    if dtype == torch.bfloat16:  # of the rounded features
        exact = computed(lambda x, *others: plain(x.bfloat16().double(), *others), shape, torch.float64, 20.0)
    for one, other in zip((here[0], *here[2:]), (exact[0], *exact[2:]), strict=True):
        assert (one.double() - other).abs().max() < tolerance * 10 * other.abs().max()


def test_the_channels_stay_last() -> None:
    features = torch.rand(2, 4, 16, 32, 32).contiguous(memory_format=LAST).requires_grad_()
    assert features[0].numel() == LARGE
    activated = norm_and_activate(features, torch.ones(4), torch.zeros(4), 1e-5)
    assert activated.is_contiguous(memory_format=LAST)
    activated.square().sum().backward()
    assert features.grad is not None and features.grad.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize(("size", "by_lines"), [((16, 32, 32), True), ((4, 16, 16), False)])
def test_only_large_features_with_the_channels_last_are_computed_by_lines(
    size: tuple[int, ...], by_lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(norm, "by_batch_norm", lambda *_: called.append("batch norm"))
    monkeypatch.setattr(norm.ByLines, "apply", lambda *_: called.append("lines"))
    features = torch.rand(1, 4, *size)
    for layout in (features, features.contiguous(memory_format=LAST)):
        norm_and_activate(layout, torch.ones(4), torch.zeros(4), 1e-5)
    assert called == ["batch norm", "lines" if by_lines else "batch norm"]
