"""MNet in nnU-Net v2: `nnUNetTrainerZssmnet` from pre-trained weights, `nnUNetTrainerZssmnetScratch` without them.

Each has a variant without deep supervision, with `NoDS` at the end of its name. All have the same loss (cross-entropy
and focal, as published), the same linear warm-up and the same network; from weights the learning rate is 1e-3, and that
of the new heads 2e-2, else 1e-2.

The network is MNet with its default channels and merging unit, or that of the file which the environment variable
``ZSSMNET_WEIGHTS`` names; it is noted in the plans, so that prediction needs no variable. Weights come from
``-pretrained_weights``, or from that file where ``-pretrained_weights`` is not given.
"""

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from typing_extensions import override

from zssmnet.handoff.load import load_body
from zssmnet.handoff.loss import CrossEntropyAndFocalLoss
from zssmnet.handoff.weights import NETWORK_KEY, read_weights
from zssmnet.mnet import SUPERVISION_WEIGHTS, MNet, head_sizes
from zssmnet.storage.environment import variable

WEIGHTS_VARIABLE = "ZSSMNET_WEIGHTS"


class SegmentationMNet(MNet):
    """MNet with its heads under `outputs.seg_layers.*`, names that nnU-Net takes from no pre-trained weights.

    Attributes:
        tensors_taken: how many tensors came from pre-trained weights or a checkpoint so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outputs = _Heads(self.outputs)  # type: ignore[assignment]
        self.tensors_taken = 0

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load tensors and count those that are not the network's own: nnU-Net hands over both."""
        own = {name: tensor.data_ptr() for name, tensor in self.state_dict().items()}
        self.tensors_taken = sum(own.get(name) != tensor.data_ptr() for name, tensor in state_dict.items())
        return super().load_state_dict(state_dict, *args, **kwargs)


class _Heads(nn.Module):
    def __init__(self, heads: nn.Module) -> None:
        super().__init__()
        self.seg_layers = heads

    def __getitem__(self, i: int) -> nn.Module:
        return self.seg_layers[i]  # type: ignore[index,no-any-return]


class WarmUpThenPoly(PolyLRScheduler):
    """nnU-Net's polynomial decay after a linear warm-up, both counted in epochs."""

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, epochs: int, warm_up_epochs: int) -> None:
        self.warm_up_epochs = warm_up_epochs
        super().__init__(optimizer, initial_lr, epochs)

    @override
    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of an epoch, counted from 0."""
        super().step(current_step)
        epoch = self.ctr - 1 if current_step is None or current_step == -1 else current_step
        for group in self.optimizer.param_groups:
            group["lr"] *= group.get("factor", 1.0) * min(1.0, (epoch + 1) / (self.warm_up_epochs + 1))
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class nnUNetTrainerZssmnet(nnUNetTrainer):  # noqa: N801  (nnU-Net's way of naming)
    """Fine-tunes a pre-trained MNet with deep supervision."""

    learning_rate = 1e-3
    head_factor = 20.0  # new heads that learn as slowly as the body hardly move
    warm_up_share = 0.05  # 50 of 1000 epochs
    from_weights = True
    deep_supervision = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        file = variable(WEIGHTS_VARIABLE)
        if file and NETWORK_KEY not in plans:
            weights = read_weights(file)
            plans[NETWORK_KEY] = {"channels": list(weights.channels), "merge": weights.merge}
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.learning_rate
        self.enable_deep_supervision = self.deep_supervision

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """MNet of the channels and the merging unit that the plans note."""
        noted = plans_manager.plans.get(NETWORK_KEY, {})
        network = {"channels": tuple(noted["channels"]), "merge": noted["merge"]} if noted else {}
        model = SegmentationMNet(
            num_input_channels, num_output_channels, **network, deep_supervision=enable_deep_supervision
        )
        if not enable_deep_supervision:
            # unused: DistributedDataParallel would wait for their gradients
            for i in range(1, len(SUPERVISION_WEIGHTS)):
                model.outputs[i].requires_grad_(False)
        return model

    @override
    def on_train_start(self) -> None:
        """Load the weights that ``ZSSMNET_WEIGHTS`` names, unless nnU-Net has loaded some; log what was taken.

        Raises:
            RuntimeError: training is to begin from weights, and there are none.
        """
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:
            self._start_from_weights()
        super().on_train_start()

    def _start_from_weights(self) -> None:
        network, file = self.bare_network, variable(WEIGHTS_VARIABLE)
        total = len(network.state_dict())
        if not self.from_weights:
            if network.tensors_taken:
                raise RuntimeError(f"{type(self).__name__} trains from scratch: leave -pretrained_weights out")
            self.print_to_log_file(f"0 of {total} tensors from pre-trained weights: training from scratch")
        elif network.tensors_taken:
            taken = network.tensors_taken
            self.print_to_log_file(
                f"{taken} of {total} tensors from pre-trained weights; {total - taken} initialised anew: "
                f"the heads (outputs.seg_layers.*) of {network.num_classes} classes"
            )
        elif file:
            self.print_to_log_file(str(load_body(network, read_weights(file))))
        else:
            raise RuntimeError(
                f"{type(self).__name__} fine-tunes pre-trained weights: give -pretrained_weights FILE or "
                f"{WEIGHTS_VARIABLE}=FILE (zssmnet export --to nnunet-v2), or train {type(self).__name__}Scratch"
            )

    @property
    def bare_network(self) -> SegmentationMNet:
        """The network without what DistributedDataParallel and torch.compile put around it."""
        network = self.network.module if self.is_ddp else self.network
        bare: SegmentationMNet = getattr(network, "_orig_mod", network)
        return bare

    @override
    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Whether the network returns the outputs of all seven heads: not in validation and prediction."""
        self.bare_network.deep_supervision = enabled

    @override
    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if not self.enable_deep_supervision:
            return None
        patch = tuple(self.configuration_manager.patch_size)
        return [[size / whole for size, whole in zip(sizes, patch, strict=True)] for sizes in head_sizes(patch)]

    @override
    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            raise RuntimeError(
                f"{type(self).__name__} learns classes, and dataset.json has regions: give each its own label"
            )
        loss = CrossEntropyAndFocalLoss(self.label_manager.ignore_label)
        return DeepSupervisionWrapper(loss, SUPERVISION_WEIGHTS) if self.enable_deep_supervision else loss

    @override
    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """nnU-Net's SGD, with a linear warm-up, and new heads that learn faster than the body."""
        optimizer, _ = super().configure_optimizers()
        heads = list(self.bare_network.outputs.parameters())
        (body,) = optimizer.param_groups
        body["params"] = [weight for weight in body["params"] if not any(weight is head for head in heads)]
        optimizer.add_param_group({"params": heads, "factor": self.head_factor})
        warm_up = round(self.warm_up_share * self.num_epochs)
        return optimizer, WarmUpThenPoly(optimizer, self.initial_lr, self.num_epochs, warm_up)


class nnUNetTrainerZssmnetNoDS(nnUNetTrainerZssmnet):  # noqa: N801
    """Fine-tunes a pre-trained MNet without deep supervision."""

    deep_supervision = False


class nnUNetTrainerZssmnetScratch(nnUNetTrainerZssmnet):  # noqa: N801
    """The same training from scratch, for a fair comparison."""

    learning_rate = 1e-2
    head_factor = 1.0
    from_weights = False


class nnUNetTrainerZssmnetScratchNoDS(nnUNetTrainerZssmnetScratch):  # noqa: N801
    """The same training from scratch, without deep supervision."""

    deep_supervision = False
