"""The loss of segmentation, and a network that begins with the classes' frequencies."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from zssmnet.finetuning.windows import Labelled


class WithFrequencies(nn.Module):
    """A network that predicts, before it is trained, the classes' frequencies.

    Their logarithms are added to its logits (Menon et al., ICLR 2021). Without it the first hundred steps go into
    learning that lesions are rare, and the initial seed decides when they end.

    Args:
        network: (N, C, Z, Y, X) to logits (N, K, Z, Y, X).
        frequencies_K: shares of the classes, which sum to 1.
    """

    def __init__(self, network: nn.Module, frequencies_K: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", frequencies_K.log()[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K, Z, Y, X)."""
        logits: Tensor = self.network(x) + self.offset
        return logits


def class_frequencies(cases: Sequence[Labelled], classes: int) -> Tensor:
    """Share of each class among all voxels of the cases (K,); one voxel more of each, so that none is 0."""
    counts = sum(torch.bincount(case.label_ZYX.flatten(), minlength=classes) for case in cases) + torch.tensor(1)
    return counts / counts.sum()


def segmentation_loss(logits_NKZYX: Tensor, label_NZYX: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of the foreground, as nnU-Net sums them."""
    probability = logits_NKZYX.softmax(dim=1)
    truth = functional.one_hot(label_NZYX, logits_NKZYX.shape[1]).movedim(-1, 1).to(probability.dtype)
    overlap = (probability * truth).sum(dim=(0, 2, 3, 4))[1:]
    sizes = (probability + truth).sum(dim=(0, 2, 3, 4))[1:]
    dice = (2 * overlap + 1) / (sizes + 1)
    return functional.cross_entropy(logits_NKZYX, label_NZYX) + 1 - dice.mean()
