"""The loss of the published fine-tuning: cross-entropy and focal loss, where nnU-Net has cross-entropy and Dice.

Lesions are small and often absent, and Dice is for what is always there. That it is these two, instead of Dice, stands
in the documentation of the published program (Z-nnMNet, "Loss function"); gamma and the equal weights do not, and are
those of the paper of the focal loss (Lin et al. 2017, without its class weights) and of a plain sum.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

GAMMA = 2.0


class CrossEntropyAndFocalLoss(nn.Module):
    """Mean over voxels of `-log p (1 + (1 - p) ** GAMMA)`, where p is the probability of the voxel's class.

    Args:
        ignored: the value of voxels without an annotation, which do not count; None: there are none.
    """

    def __init__(self, ignored: int | None = None) -> None:
        super().__init__()
        self.ignored = -100 if ignored is None else ignored

    @override
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (N, classes, Z, Y, X), before the softmax.
            target: (N, 1, Z, Y, X), the number of each voxel's class.

        Returns:
            A scalar; 0 if all voxels are ignored.
        """
        classes = target[:, 0].long()
        entropy = cross_entropy(logits, classes, ignore_index=self.ignored, reduction="none")
        loss = entropy * (1 + (1 - torch.exp(-entropy)) ** GAMMA)
        return loss.sum() / (classes != self.ignored).sum().clamp(min=1)
