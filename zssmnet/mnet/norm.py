"""Affine instance norm and LeakyReLU in one, in four ways of computing the same: each is the fastest somewhere.

Its input is a convolution's output and is needed again backward, its output is the next convolution's input: two
features a layer stay in memory. All features are (N, C, Z, Y, X).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zssmnet.mnet.fused import SLOPE, can_fuse, fused_norm_and_activate

LARGE = 2**16
"""Values of a cube's features from which on `ByLines` pays: it makes some calls more."""


def norm_and_activate(features: Tensor, weight: Tensor, bias: Tensor, eps: float, fused: bool = False) -> Tensor:
    """Normalise each channel of each cube by its own mean and variance, scale and shift it, apply LeakyReLU(0.01).

    Args:
        features: (N, C, Z, Y, X), with more than one voxel; the memory layout stays where that is faster.
        weight: scale of each channel, (C,).
        bias: shift of each channel, (C,).
        eps: added to the variance.
        fused: whether features with the channels last keep them on a GPU, by kernels of our own where there is Triton.

    Returns:
        A new tensor of the same shape and dtype.
    """
    if torch.compiler.is_compiling():
        return by_moments(features, weight, bias, eps)
    if features.device.type == "cpu" and is_channels_last(features) and features[0].numel() >= LARGE:
        activated: Tensor = ByLines.apply(features, weight, bias, eps)  # type: ignore[no-untyped-call]
        return activated
    if fused and features.device.type != "cpu" and is_channels_last(features):
        if can_fuse(features):
            return fused_norm_and_activate(features, weight, bias, eps)
        return by_batch_norm(features, weight, bias, eps).contiguous(memory_format=torch.channels_last_3d)
    return by_batch_norm(features, weight, bias, eps)


def is_channels_last(features: Tensor) -> bool:
    """Whether a voxel's channels lie side by side in memory."""
    return features.is_contiguous(memory_format=torch.channels_last_3d)


def by_batch_norm(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """PyTorch's instance norm to the last bit: a batch norm of one cube with N * C channels, computed channels first.

    `functional.instance_norm` returns a view of it. Activating a view in place costs three passes more: it copies
    what the view is of.
    """
    n, c, *size = features.shape
    together = features.contiguous().view(1, n * c, *size)
    weights, biases = (one.expand(n, c).reshape(-1) for one in (weight, bias))  # half the time of `repeat`
    normed = functional.batch_norm(together, None, None, weights, biases, True, 0.0, eps)
    return functional.leaky_relu_(normed, SLOPE).view(features.shape)


def by_moments(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Written out, for a compiler: it fuses this, keeps the channels last, and rounds to the features' dtype once."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps) * weight.view(-1, 1, 1, 1)
    normed = (wide - mean) * scale + bias.view(-1, 1, 1, 1)
    return functional.leaky_relu(normed, SLOPE).to(features.dtype)


class ByLines(torch.autograd.Function):
    """On a CPU with the channels last, which PyTorch's instance norm would copy to channels first and back.

    A cube is seen as a matrix, its lines of voxels along x by all channels of a line. PyTorch's kernels of batch norm
    sum its columns; columns of one channel are put together afterwards. Summed at once, a channel's values would be
    added one after the other in float32, with an error 50 times as large.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See `norm_and_activate`."""
        n, c, *_, x = features.shape
        lines, activated = _as_lines(features), torch.empty_like(features)
        unused = torch.zeros(2, x * c, dtype=weight.dtype)  # running moments; what is summed has their dtype
        of_columns = [torch.batch_norm_update_stats(_as_channels(cube), unused[0], unused[1], 0.0) for cube in lines]
        means, variances = (torch.stack(one).view(n, x, c) for one in zip(*of_columns, strict=True))
        mean = means.mean(dim=1)
        variance = variances.mean(dim=1) + (means - mean[:, None]).square_().mean(dim=1)
        none = unused[0, :0]
        settings = {"training": False, "momentum": 0.0, "eps": eps, "save_mean": none, "save_invstd": none}
        for cube, normed, *moments in zip(lines, _as_lines(activated), mean, variance, strict=True):
            columns = [one.repeat(x) for one in (weight, bias, *moments)]
            torch.ops.aten.native_batch_norm.out(_as_channels(cube), *columns, out=_as_channels(normed), **settings)
        functional.leaky_relu_(activated, SLOPE)
        ctx.save_for_backward(features, activated, weight, mean, variance)
        ctx.eps = eps
        return activated

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the features, the weight and the bias."""
        features, activated, weight, mean, variance = ctx.saved_tensors
        _, c, *_, x = features.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        gradient = torch.ops.aten.leaky_relu_backward(gradient, activated, SLOPE, True)  # of the normed features
        cubes, gradients = _as_lines(features), _as_lines(gradient)
        sums = []
        for given, cube, *moments in zip(gradients, cubes, mean, variance, strict=True):
            columns = [one.repeat(x) for one in (weight, *moments)]
            _, *of_columns = torch.ops.aten.native_batch_norm_backward(
                _as_channels(given), _as_channels(cube), *columns, None, None, False, ctx.eps, (False, True, True)
            )
            sums.append(torch.stack(of_columns).view(2, x, c).sum(dim=1))
        of_weight, of_bias = torch.stack(sums, dim=1)  # of each cube (N, C): the sums of g * (x - mean) / std and of g
        # g becomes weight / std * (g - mean(g) - y * mean(g * y)) with y = (x - mean) / std: a * g + b * x + rest
        count, inverse = features[0, 0].numel(), torch.rsqrt(variance + ctx.eps)
        a = weight * inverse
        b = -a * inverse * of_weight / count
        rest = -a * of_bias / count - b * mean
        a, b, rest = (one.repeat(1, x).unsqueeze(1) for one in (a, b, rest))
        wide = gradients.to(weight.dtype)  # itself, if that is its dtype
        torch.addcmul(rest, wide, a, out=wide).addcmul_(cubes.to(weight.dtype), b)
        gradients.copy_(wide)
        return gradient, of_weight.sum(dim=0), of_bias.sum(dim=0), None


def _as_lines(features: Tensor) -> Tensor:
    """(N, C, Z, Y, X), channels last, as (N, Z * Y, X * C): a view."""
    n, c, z, y, x = features.shape
    return features.permute(0, 2, 3, 4, 1).view(n, z * y, x * c)


def _as_channels(lines: Tensor) -> Tensor:
    """(L, K) as the K channels of one image, (1, K, L, 1), channels last: a view."""
    return lines.t()[None, :, :, None]
