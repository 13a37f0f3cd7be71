"""Pre-trained weights in an MNet: with new heads, and a report of what was taken; or with its own, as it restores."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from zssmnet.config import NetworkConfig
from zssmnet.corruption import IMAGE_CHANNELS
from zssmnet.handoff.weights import (
    FIRST_OF_LEVEL,
    HEADS,
    TAKES_PAIR,
    Weights,
    check_finite,
    read_weights,
    some,
    takes_concatenated,
    unusable,
)
from zssmnet.mnet import Merge, MNet
from zssmnet.storage import Address
from zssmnet.training.loss import restoring_network

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What a network took from a file.

    Attributes:
        source: the file.
        taken: names of the tensors that were taken.
        initialised: names of the network's tensors that were initialised anew.
        left_out: names of the file's heads, which were not taken.
        reason: why not.
        wrappers: wrappers whose prefixes were stripped from the names.
    """

    source: str
    taken: tuple[str, ...]
    initialised: tuple[str, ...]
    left_out: tuple[str, ...]
    reason: str
    wrappers: tuple[str, ...]

    @property
    def total(self) -> int:
        """Tensors of the network."""
        return len(self.taken) + len(self.initialised)

    def __str__(self) -> str:
        parts = [
            f"{len(self.taken)} of {self.total} tensors loaded from {self.source}",
            f"{len(self.initialised)} initialised anew ({some(self.initialised)})",
        ]
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out ({some(self.left_out)}): {self.reason}")
        if self.wrappers:
            parts.append(f"wrapper's prefix {', '.join(self.wrappers)} stripped from the names")
        return "; ".join(parts)


def load_pretrained(
    path: Address,
    *,
    num_classes: int,
    in_channels: int | None = None,
    merge: Merge | None = None,
    deep_supervision: bool = False,
) -> MNet:
    """Return an MNet with pre-trained weights and new heads, for fine-tuning (Z-SSMNet, arXiv 2212.05808).

    All tensors but those of the seven heads (`outputs.*`) come from the file, without exception; the heads get
    PyTorch's default initialisation. The channels of the five levels are read off the file. What was taken is logged.

    Args:
        path: a package's folder, or a file: `.model` (weights under `state_dict`) or `.pth` of nnU-Net v2
            (`network_weights`); local, or in S3 (`s3://bucket/key`).
        num_classes: output channels of the new heads.
        in_channels: input channels; if given, the file must agree.
        merge: the feature merging unit used in pre-training; by default as the file or the record beside it notes it,
            and "sub" where neither does: the tensors of "sub" and "sum" look alike.
        deep_supervision: whether the network returns the outputs of all seven heads.

    Returns:
        The network, on the CPU, in float32 and training mode; it takes (N, in_channels, Z, Y, X).

    Raises:
        CheckpointError: no such file, not a checkpoint, or weights that are not finite or do not fit.
        StorageError: S3 does not have the file, or does not answer.
        ValueError: an argument that makes no network.
    """
    weights = read_weights(path)
    in_channels = weights.in_channels if in_channels is None else in_channels
    merge = weights.merge if merge is None else merge
    model = MNet(in_channels, num_classes, weights.channels, merge, deep_supervision)
    logger.info("%s", load_body(model, weights))
    return model


def load_restoration(path: Address) -> MNet:
    """Return the pre-trained MNet as it restores cubes; its logits pass a sigmoid (Z-SSMNet, arXiv 2212.05808).

    Channels and the merging unit follow from the file and the record beside it. No code in a file runs.

    Args:
        path: a package's folder, or the file ``ssl_mnet_zonal.model``; local, or in S3 (``s3://bucket/key``).

    Returns:
        The network, on the CPU, in float32 and evaluation mode. It takes (N, 6, Z, Y, X), the corrupted T2W, ADC and
        DWI and three zones, and gives (N, 3, Z, Y, X); with the co-task (N, 6, Z, Y, X), the last three logits of
        background, peripheral zone and rest of the gland.

    Raises:
        CheckpointError: no such file, not a checkpoint, or weights that are not finite or do not fit.

    >>> network = load_restoration("weights/ssl_mnet_zonal.model")  # doctest: +SKIP
    >>> input_NCZYX, target_NCZYX = zssmnet.Corruption()(cubes_NCZYX, generator)  # doctest: +SKIP
    >>> restored_NCZYX = torch.sigmoid(network(input_NCZYX))  # doctest: +SKIP
    """
    weights = read_weights(path)
    segments_zones = any(len(weights.tensors[head]) > IMAGE_CHANNELS for head in weights.heads)
    model = restoring_network(NetworkConfig(channels=weights.channels, merge=weights.merge), segments_zones)
    _load(model, weights, weights.tensors, ())
    return model.eval()


def load_body(model: MNet, weights: Weights) -> LoadReport:
    """Load all tensors but the heads' into a network; CheckpointError if they are not finite or do not fit."""
    heads = tuple(name for name in model.state_dict() if name.startswith(HEADS))
    _load(model, weights, weights.body, heads)
    reason = f"heads belong to another task; those of {model.num_classes} classes are new"
    return LoadReport(weights.address, tuple(weights.body), heads, weights.heads, reason, weights.wrappers)


def _load(model: MNet, weights: Weights, tensors: Mapping[str, Tensor], new: Collection[str]) -> None:
    """Load what makes all of a network but its new tensors: nothing missing, nothing else, and every shape right."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in new}
    misfits = {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [name for name in tensors if name not in shapes],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(shape)}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if found := [f"{len(names)} {what} ({some(names)})" for what, names in misfits.items() if names]:
        advice = _advice(tensors, model) if new else "name a .model file that pre-training wrote"
        raise unusable(weights.address, f"does not fit: of {len(shapes)} tensors {', '.join(found)}; {advice}")
    check_finite(weights.address, tensors)
    model.load_state_dict(tensors, strict=False)  # strict but for the new ones, as was checked


def _advice(body: Mapping[str, Tensor], model: MNet) -> str:
    in_channels = body[FIRST_OF_LEVEL[0]].shape[1]
    if in_channels != model.in_channels:
        return f"pass in_channels={in_channels}, or leave it out"
    concatenated = takes_concatenated(body, model.channels)
    if TAKES_PAIR in body and concatenated != (model.merge == "cat"):
        return 'pass merge="cat"' if concatenated else 'pass merge="sub" or "sum", as in pre-training'
    return "name a .model file that pre-training wrote"
