"""MNet's building blocks (arXiv 2205.04846). Every tensor is (N, C, Z, Y, X).

The names of the attributes (`CB2d`, `conv1`, `conv`, `norm`) are the names in checkpoints: they are a contract.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zssmnet.mnet.fused import absolute_difference, can_fuse
from zssmnet.mnet.norm import is_channels_last, norm_and_activate

StreamKind = Literal["2d", "3d"]
Merge = Literal["sub", "sum", "cat"]

FEWEST_SLICES_POOLED = 8  # with fewer, a 3D stream keeps its slices and is pooled within them


class ConvNormAct(nn.Module):
    """Convolution, affine instance norm, LeakyReLU(0.01); the size stays.

    The convolution's bias has its place in checkpoints and is never computed: the norm takes each channel's mean away,
    and the bias with it. So it is not trained either, and stays as it was drawn or loaded.

    Args:
        kernel: odd size of the kernel (z, y, x).

    Attributes:
        fused: see `norm_and_activate`.
    """

    fused = False

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        z, y, x = kernel
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=(z // 2, y // 2, x // 2))
        self.conv.get_parameter("bias").requires_grad_(False)
        self.norm = nn.InstanceNorm3d(out_channels, eps=1e-5, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, Z, Y, X) to (N, out_channels, Z, Y, X)."""
        features = convolve(x, self.conv.weight)
        return norm_and_activate(features, self.norm.weight, self.norm.bias, self.norm.eps, self.fused)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution without bias; the size stays.

    Within slices it is one in 2D, of all slices of all cubes: kernels for that are faster, and with the channels last
    the slices are a view.

    Args:
        x: (N, C, Z, Y, X).
        weight: (C', C, z, y, x), of odd size.
    """
    padding = [length // 2 for length in weight.shape[2:]]
    if weight.shape[2] > 1 or not is_channels_last(x):
        return functional.conv3d(x, weight, padding=padding)
    n, _, z, *_ = x.shape
    slices = functional.conv2d(x.transpose(1, 2).flatten(0, 1), weight[:, :, 0], padding=padding[1:])
    return slices.reshape(n, z, *slices.shape[1:]).transpose(1, 2)


class DoubleConv(nn.Module):
    """Two `ConvNormAct` in a row; (N, in_channels, Z, Y, X) to (N, out_channels, Z, Y, X)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, kernel)
        self.conv2 = ConvNormAct(out_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, Z, Y, X) to (N, out_channels, Z, Y, X)."""
        y: Tensor = self.conv2(self.conv1(x))
        return y


class Node(nn.Module):
    """A node of the mesh: the same features through a 2D block, which sees within slices only, a 3D block or both.

    Args:
        in_channels: channels of what the node takes, after merging.
        out_channels: channels of each stream it gives.
        gives: the streams it gives.
    """

    def __init__(self, in_channels: int, out_channels: int, gives: tuple[StreamKind, ...]) -> None:
        super().__init__()
        self.CB2d = DoubleConv(in_channels, out_channels, (1, 3, 3)) if "2d" in gives else None
        self.CB3d = DoubleConv(in_channels, out_channels, (3, 3, 3)) if "3d" in gives else None

    def forward(self, x: Tensor) -> dict[StreamKind, Tensor]:
        """(N, in_channels, Z, Y, X) to (N, out_channels, Z, Y, X) for each stream given."""
        given: dict[StreamKind, Tensor] = {}
        if self.CB2d is not None:
            given["2d"] = self.CB2d(x)
        if self.CB3d is not None:
            given["3d"] = self.CB3d(x)
        return given


def pool(features: Tensor, stream: StreamKind) -> Tensor:
    """Max-pool by 1x2x2 in a 2D stream, by 2x2x2 in a 3D stream; odd last voxels are dropped.

    A 3D stream with fewer than 8 slices keeps them: it is pooled by 1x2x2.
    """
    if stream == "2d" or features.shape[2] < FEWEST_SLICES_POOLED:
        return functional.max_pool3d(features, (1, 2, 2))
    return functional.max_pool3d(features, 2)


def pooled_slices(slices: int) -> int:
    """Slices that `pool` leaves of a 3D stream."""
    return slices if slices < FEWEST_SLICES_POOLED else slices // 2


def merge_streams(features_2d: Tensor, features_3d: Tensor, how: Merge, fused: bool = False) -> Tensor:
    """The feature merging unit: two streams of the same shape into one.

    Args:
        fused: whether the difference is one kernel of our own on a GPU, where there is Triton.

    Returns the absolute difference ("sub"), the sum ("sum") or both, 2D first, with twice the channels ("cat").
    """
    if how == "sub" and fused and can_fuse(features_2d, features_3d):
        return absolute_difference(features_2d, features_3d)
    if how == "sub":
        return (features_2d - features_3d).abs()
    if how == "sum":
        return features_2d + features_3d
    return torch.cat((features_2d, features_3d), dim=1)
