"""Trilinear up-sampling (align_corners false). On a GPU it is three products with the weights of one axis each.

PyTorch's own kernel runs there in float32 whatever the features are, and so does what takes its result; it has the
channels first, and adds gradients up in no fixed order. Products keep the features' dtype, layout and order: a step at
full width moves 9 GB less. On a CPU the kernel is faster.
"""

from functools import cache
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from zssmnet.mnet.norm import is_channels_last

WITHOUT_FLOAT64 = ("mps",)
"""Kinds of devices that have no float64."""


def upsample_like(features: Tensor, skip: Tensor) -> Tensor:
    """Up-sample (N, C, Z, Y, X) to the Z, Y, X of `skip`."""
    size = skip.shape[2:]
    if features.device.type == "cpu":
        return functional.interpolate(features, size=size, mode="trilinear", align_corners=False)
    return upsample_by_products(features, size)


def upsample_by_products(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same in the features' dtype and memory layout, which is channels first or last.

    Args:
        features: (N, C, Z, Y, X).
        size: Z, Y, X of the result.
    """
    last = is_channels_last(features)
    values, first_axis = (features.permute(0, 2, 3, 4, 1), 1) if last else (features.contiguous(), 2)
    # A compiler looks through the cache, with a warning: what it compiles makes the weights itself.
    weights_of = linear_weights.__wrapped__ if torch.compiler.is_compiling() else linear_weights
    for axis, length in enumerate(size, first_axis):
        if values.shape[axis] != length:
            values = _multiply(values, axis, weights_of(values.shape[axis], length, values.dtype, values.device))
    return values.permute(0, 4, 1, 2, 3) if last else values


def _multiply(values: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Replace the values along an axis of a contiguous tensor by their products with the rows of `weights`."""
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    if not after:
        return functional.linear(values, weights)
    lines = values.reshape(prod(before), values.shape[axis], prod(after))
    return torch.bmm(weights.expand(len(lines), -1, -1), lines).view(*before, len(weights), *after)


@cache
def linear_weights(taken: int, given: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of `taken` input values along an axis for each of `given` output values: (given, taken).

    From n to 2 n they are 1/4 and 3/4, which all dtypes hold.
    """
    with torch.inference_mode(False):  # kept for trainings, too
        exact = torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64
        one_by_one = torch.eye(taken, dtype=exact, device=device)[None]
        rows = functional.interpolate(one_by_one, size=given, mode="linear", align_corners=False)[0]
        return rows.T.contiguous().to(dtype)
