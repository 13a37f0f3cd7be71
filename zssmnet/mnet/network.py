"""MNet: a mesh of 2D and 3D streams (arXiv 2205.04846), the network that Z-SSMNet (arXiv 2212.05808) pre-trains.

A node `downRC` or `upRC` lies in row R, from the pure 2D path (1) to the pure 3D path (4), and in column C;
`bottleneckR` ends row R on the way down. `<node>.2d` and `<node>.3d` are the streams a node gives.
The three tables below are the whole wiring, in the order in which it is computed.
"""

from collections.abc import Mapping, Sized
from operator import index
from string import ascii_letters
from typing import SupportsIndex, get_args

import torch
from torch import Tensor, nn

from zssmnet.mnet.blocks import ConvNormAct, Merge, Node, StreamKind, merge_streams, pool, pooled_slices
from zssmnet.mnet.upsampling import upsample_like

BOTH: tuple[StreamKind, ...] = ("2d", "3d")
FLAT: tuple[StreamKind, ...] = ("2d",)
DEEP: tuple[StreamKind, ...] = ("3d",)

# The way down. node, gives, takes: each stream pooled in its own way (the input is not), then a pair is merged.
DOWN: tuple[tuple[str, tuple[StreamKind, ...], tuple[str, ...]], ...] = (
    ("down11", BOTH, ("input",)),
    ("down12", BOTH, ("down11.2d",)),
    ("down13", BOTH, ("down12.2d",)),
    ("down14", BOTH, ("down13.2d",)),
    ("bottleneck1", FLAT, ("down14.2d",)),
    #
    ("down21", BOTH, ("down11.3d",)),
    ("down22", BOTH, ("down21.2d", "down12.3d")),
    ("down23", BOTH, ("down22.2d", "down13.3d")),
    ("bottleneck2", BOTH, ("down23.2d", "down14.3d")),
    #
    ("down31", BOTH, ("down21.3d",)),
    ("down32", BOTH, ("down31.2d", "down22.3d")),
    ("bottleneck3", BOTH, ("down32.2d", "down23.3d")),
    #
    ("down41", BOTH, ("down31.3d",)),
    ("bottleneck4", BOTH, ("down41.2d", "down32.3d")),
    #
    ("bottleneck5", DEEP, ("down41.3d",)),
)

# The way up. node, gives, takes (up-sampled to the skip's size and merged), skip (both its streams, merged).
UP: tuple[tuple[str, tuple[StreamKind, ...], tuple[str, str], str], ...] = (
    ("up41", DEEP, ("bottleneck4.2d", "bottleneck5.3d"), "down41"),
    #
    ("up31", BOTH, ("bottleneck3.2d", "bottleneck4.3d"), "down32"),
    ("up32", DEEP, ("up31.2d", "up41.3d"), "down31"),
    #
    ("up21", BOTH, ("bottleneck2.2d", "bottleneck3.3d"), "down23"),
    ("up22", BOTH, ("up21.2d", "up31.3d"), "down22"),
    ("up23", DEEP, ("up22.2d", "up32.3d"), "down21"),
    #
    ("up11", FLAT, ("bottleneck1.2d", "bottleneck2.3d"), "down14"),
    ("up12", FLAT, ("up11.2d", "up21.3d"), "down13"),
    ("up13", FLAT, ("up12.2d", "up22.3d"), "down12"),
    ("up14", BOTH, ("up13.2d", "up23.3d"), "down11"),
)

# The seven heads: the streams whose sum each of them sees.
HEAD_STREAMS: tuple[tuple[str, ...], ...] = (
    ("up14.2d", "up14.3d"),
    ("up23.3d",),
    ("up13.2d",),
    ("up32.3d",),
    ("up12.2d",),
    ("up41.3d",),
    ("up11.2d",),
)

LEVELS = 5
SHRINKAGE = 2 ** (LEVELS - 1)  # of Y and X between the first and the last level

SUPERVISION_WEIGHTS = (1.0, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8)
"""Weight of each head's loss under deep supervision, in the order of `HEAD_STREAMS`, as in the published program."""


def head_sizes(size_ZYX: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Z, Y, X of the seven outputs under deep supervision, for an input of the size `size_ZYX`.

    A head's target is the label map at its size. Z follows the streams' pooling, which keeps fewer than 8 slices.
    """
    z, y, x = size_ZYX
    slices_3d, sizes = z, [(z, y, x)]
    for halvings in range(1, LEVELS - 1):
        slices_3d = pooled_slices(slices_3d)
        y_x = (y >> halvings, x >> halvings)
        sizes += [(slices_3d, *y_x), (z, *y_x)]
    return sizes


def level(name: str) -> int:
    """Number of times that features were halved in Y and X, 0 to 4, by node or stream: the index of its channels."""
    row, column = _place(name)
    if name.startswith("bottleneck"):
        return LEVELS - 1
    return row + column - 2 if name.startswith("down") else LEVELS - 1 - column


def _place(name: str) -> tuple[int, int]:
    """Row and column of a node or stream; a bottleneck has no column, which is 0 here."""
    digits = name.partition(".")[0].lstrip(ascii_letters)
    return int(digits[0]), int(digits[1:] or 0)


class MNet(nn.Module):
    """MNet (arXiv 2205.04846), with the parameter names of published checkpoints.

    Args:
        in_channels: channels of the input; 6 in Z-SSMNet's pre-training (T2W, ADC, DWI, three zones).
        num_classes: channels of each output; 3 in pre-training (the restored images).
        channels: channels of the five levels.
        merge: feature merging unit, "sub" (absolute difference), "sum" or "cat" (concatenation).
        deep_supervision: whether `forward` returns the outputs of all seven heads, as the published segmentation
            network does in training, or that of the first alone. May be switched later.

    Raises:
        ValueError: an argument that makes no network.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: tuple[int, int, int, int, int] = (32, 48, 64, 80, 96),
        merge: Merge = "sub",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, num_classes, channels, merge)
        self.in_channels = int(in_channels)
        self.num_classes = int(num_classes)
        self.channels = tuple(map(int, channels))
        self.merge: Merge = merge
        self.deep_supervision = deep_supervision
        self.fused = False

        nodes = {
            node: Node(self._channels_taken(*takes), self.channels[level(node)], gives) for node, gives, takes in DOWN
        }
        for node, gives, takes, skip in UP:
            skip_streams = (f"{skip}.2d", f"{skip}.3d")
            taken = self._channels_taken(*skip_streams) + self._channels_taken(*takes)
            nodes[node] = Node(taken, self.channels[level(node)], gives)
        # Computed down, then up; but checkpoints list the parameters row by row.
        for node in sorted(nodes, key=lambda node: _place(node)[0]):
            self.add_module(node, nodes[node])
        self.outputs = nn.ModuleList(
            nn.Conv3d(self.channels[level(head[0])], self.num_classes, 1, bias=False) for head in HEAD_STREAMS
        )

    def fuse(self, fused: bool = True) -> None:
        """Let norms and merging keep the channels last on a GPU, by kernels of our own where there is Triton."""
        self.fused = fused
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fused = fused

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits, before the sigmoid, of the first head; with deep supervision a tuple of all seven.

        Args:
            x: (N, in_channels, Z, Y, X). Y and X are at least 16 and need not be multiples of it; the coarsest
                level, Z x Y/16 x X/16, must be left with more than one voxel: two slices, or 32 in Y or X.

        Returns:
            (N, num_classes, Z, Y, X). With deep supervision the other six are coarser, in the order of `HEAD_STREAMS`.

        Raises:
            ValueError: a wrong number of axes or channels, or an input too small.
        """
        self._check_input(x)
        streams = {"input": x}
        for node, _, takes in DOWN:
            pooled = [_pooled(streams[stream], stream) for stream in takes]
            streams |= self._run(node, self._merged(pooled))
        for node, _, takes, skip in UP:
            skips = [streams[f"{skip}.2d"], streams[f"{skip}.3d"]]
            features = [upsample_like(streams[stream], skips[0]) for stream in takes]
            streams |= self._run(node, torch.cat((self._merged(skips), self._merged(features)), dim=1))
        if not self.deep_supervision:
            return self._head(0, streams)
        return tuple(self._head(i, streams) for i in range(len(HEAD_STREAMS)))

    def _run(self, node: str, x: Tensor) -> dict[str, Tensor]:
        given = self.get_submodule(node)(x)
        return {f"{node}.{kind}": features for kind, features in given.items()}

    def _head(self, i: int, streams: Mapping[str, Tensor]) -> Tensor:
        features = [streams[stream] for stream in HEAD_STREAMS[i]]
        logits: Tensor = self.outputs[i](features[0] if len(features) == 1 else features[0] + features[1])
        return logits

    def _merged(self, streams: list[Tensor]) -> Tensor:
        return streams[0] if len(streams) == 1 else merge_streams(streams[0], streams[1], self.merge, self.fused)

    def _channels_taken(self, *streams: str) -> int:
        """Channels of one stream, or of a pair after merging."""
        if streams == ("input",):
            return self.in_channels
        each = self.channels[level(streams[0])]
        return each * len(streams) if self.merge == "cat" else each

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"MNet takes a tensor (N, C, Z, Y, X) of a float dtype, not {kind}")
        shape = tuple(x.shape)
        if len(shape) != 5:
            raise ValueError(f"MNet takes (N, C, Z, Y, X), five axes, not an input of shape {shape}")
        if shape[1] != self.in_channels:
            raise ValueError(f"this MNet takes {self.in_channels} channels, not an input of shape {shape}")
        # Pooling leaves at least 4 of 8 or more slices and all of fewer, so Z decides only where it is 1;
        # instance norm has no variance to divide by where a single voxel is left.
        y, x_ = shape[3] // SHRINKAGE, shape[4] // SHRINKAGE
        if min(shape[2], y, x_) < 1 or shape[2] * y * x_ < 2:
            raise ValueError(
                f"MNet needs (Z, Y, X) of at least (2, {SHRINKAGE}, {SHRINKAGE}), or a single slice with "
                f"{2 * SHRINKAGE} in Y or X, not {shape[2:]}"
            )


def _pooled(features: Tensor, stream: str) -> Tensor:
    """A stream as a node on the way down takes it."""
    return features if stream == "input" else pool(features, "2d" if stream.endswith(".2d") else "3d")


def _is_count(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool) and index(value) >= 1


def _check_arguments(in_channels: int, num_classes: int, channels: tuple[int, ...], merge: str) -> None:
    for name, value in (("in_channels", in_channels), ("num_classes", num_classes)):
        if not _is_count(value):
            raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")
    if not isinstance(channels, Sized) or len(channels) != LEVELS or not all(map(_is_count, channels)):
        raise ValueError(f"channels must be five integers of at least 1, one for each level, not {channels!r}")
    if merge not in get_args(Merge):
        raise ValueError(f"merge must be one of {', '.join(get_args(Merge))}, not {merge!r}")
