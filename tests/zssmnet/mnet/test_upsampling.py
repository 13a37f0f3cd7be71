"""Up-sampling by products, as a GPU does it, is PyTorch's trilinear one."""

import pytest
import torch
from torch.nn import functional

from zssmnet.mnet.upsampling import linear_weights, upsample_by_products, upsample_like

SIZES = [
    ((4, 8, 8), (8, 16, 16)),
    ((8, 6, 5), (8, 12, 10)),
    ((4, 5, 6), (9, 11, 6)),
    ((1, 3, 2), (2, 7, 4)),
    ((7,) * 3, (7,) * 3),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("taken", "given"), SIZES)
def test_values_and_gradients_are_those_of_interpolate(taken: tuple[int, ...], given: tuple[int, ...], layout) -> None:
    features = torch.rand(2, 3, *taken, dtype=torch.float64).contiguous(memory_format=layout)
    gradient = torch.rand(2, 3, *given, dtype=torch.float64)
    found = []
    for way in (upsample_by_products, lambda x, size: upsample_like(x, gradient)):
        leaf = features.clone().requires_grad_()
        larger = way(leaf, given)
        larger.backward(gradient)
        found.append((larger.detach(), leaf.grad))
    assert found[0][0].is_contiguous(memory_format=layout)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [4, 8, 32])
def test_doubling_takes_a_quarter_and_three_quarters_which_bfloat16_holds(length: int) -> None:
    weights = linear_weights(length, 2 * length, torch.bfloat16, torch.device("cpu"))
    assert set(weights.flatten().tolist()) == {0.0, 0.25, 0.75, 1.0}
    assert (weights.sum(dim=1) == 1).all()
    features = torch.rand(1, 2, length, length, length).bfloat16()
    larger = upsample_by_products(features, (2 * length,) * 3)
    assert larger.dtype == torch.bfloat16
    exact = functional.interpolate(features.float(), scale_factor=2, mode="trilinear")
    assert (larger.float() - exact).abs().max() <= 3 * 2**-9  # rounded once an axis, by half of 2**-8 at most


def test_weights_drawn_in_inference_serve_training() -> None:
    linear_weights.cache_clear()
    with torch.inference_mode():
        upsample_by_products(torch.rand(1, 1, 2, 2, 2), (4, 4, 4))
    features = torch.rand(1, 1, 2, 2, 2, requires_grad=True)
    upsample_by_products(features, (4, 4, 4)).sum().backward()
    torch.testing.assert_close(features.grad, torch.full((1, 1, 2, 2, 2), 8.0))
