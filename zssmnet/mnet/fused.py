"""Norm with activation, and merging by absolute difference, as Triton kernels that keep the channels last.

Operators of PyTorch, so that they have names in profiles and can be counted on the device `meta`, without Triton.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

SLOPE = 0.01
"""Of LeakyReLU below zero."""
LAST = torch.channels_last_3d
_HAS_TRITON = find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_CHANNELS = 256


def can_fuse(*features: Tensor) -> bool:
    """Whether the kernels can compute with these: alike, channels last, on a GPU with Triton, or counted on `meta`."""
    first = features[0]
    there = first.device.type == "meta" or (first.device.type == "cuda" and _HAS_TRITON)
    return there and all(
        one.dtype == first.dtype in _DTYPES
        and one.shape == first.shape
        and one.shape[1] <= _MOST_CHANNELS
        and one.is_contiguous(memory_format=LAST)
        for one in features
    )


def fused_norm_and_activate(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `zssmnet.mnet.norm.norm_and_activate`; moments are in float32.

    Args:
        features: (N, C, Z, Y, X), channels last, of at most 256 channels, float32, bfloat16 or float16.
        weight, bias: (C,), float32.
    """
    activated: Tensor = _norm(features, weight, bias, eps)[0]
    return activated


def absolute_difference(one: Tensor, other: Tensor) -> Tensor:
    """Of features (N, C, Z, Y, X) that lie in memory alike, channels last."""
    difference: Tensor = _difference(one, other)
    return difference


@torch.library.custom_op("zssmnet::norm_and_activate", mutates_args=())
def _norm(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The activated features; each cube's mean and 1 / standard deviation (2, N, C)."""
    from zssmnet.mnet import norm_kernels

    return norm_kernels.forward(features, weight, bias, eps, SLOPE)


@torch.library.custom_op("zssmnet::norm_and_activate_backward", mutates_args=())
def _norm_backward(
    gradient: Tensor, features: Tensor, moments: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The features' gradient; each cube's part of the gradients of weight and bias (2, N, C)."""
    from zssmnet.mnet import norm_kernels

    return norm_kernels.backward(gradient, features, moments, weight, bias, SLOPE)


@torch.library.custom_op("zssmnet::absolute_difference", mutates_args=())
def _difference(one: Tensor, other: Tensor) -> Tensor:
    from zssmnet.mnet import merge_kernels

    return merge_kernels.forward(one, other)


@torch.library.custom_op("zssmnet::absolute_difference_backward", mutates_args=())
def _difference_backward(gradient_VC: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    from zssmnet.mnet import merge_kernels

    return merge_kernels.backward(gradient_VC, one, other)


@_norm.register_fake
def _(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), weight.new_empty(2, *features.shape[:2])


@_norm_backward.register_fake
def _(gradient: Tensor, features: Tensor, moments: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), torch.empty_like(moments)


@_difference.register_fake
def _(one: Tensor, other: Tensor) -> Tensor:
    return torch.empty_like(one)


@_difference_backward.register_fake
def _(gradient_VC: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(one), torch.empty_like(one)


def _keep_for_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, weight, bias, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(features, output[1], weight, bias)


def _gradients_of_norm(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor, None]:
    of_features, of_cubes = _norm_backward(gradient.contiguous(memory_format=LAST), *ctx.saved_tensors)
    of_weight, of_bias = of_cubes.sum(dim=1)
    return of_features, of_weight, of_bias, None


def _keep_for_difference(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients_of_difference(ctx: Any, gradient: Tensor) -> Any:
    gradient_VC = gradient.permute(0, 2, 3, 4, 1).flatten(0, 3)  # a view of what concatenation takes apart
    if gradient_VC.stride(1) != 1:
        gradient_VC = gradient_VC.contiguous()
    return _difference_backward(gradient_VC, *ctx.saved_tensors)


_norm.register_autograd(_gradients_of_norm, setup_context=_keep_for_norm)
_difference.register_autograd(_gradients_of_difference, setup_context=_keep_for_difference)
