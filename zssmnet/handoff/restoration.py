"""The network that pre-training made, heads and all: it restores corrupted cubes."""

import os
import textwrap

from zssmnet.config import NetworkConfig
from zssmnet.corruption import IMAGE_CHANNELS
from zssmnet.errors import CheckpointError
from zssmnet.handoff.weights import read_weights
from zssmnet.mnet import MNet
from zssmnet.training.loss import restoring_network


def load_restoration(path: str | os.PathLike[str]) -> MNet:
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
    network = restoring_network(NetworkConfig(channels=weights.channels, merge=weights.merge), segments_zones)
    try:
        network.load_state_dict(weights.tensors)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 240)
        raise CheckpointError(f"{path}: does not fit: {reason}; name a .model file that pre-training wrote") from error
    if bad := [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors hold NaN or infinity, {bad[0]} first; take an earlier checkpoint"
        )
    return network.eval()
