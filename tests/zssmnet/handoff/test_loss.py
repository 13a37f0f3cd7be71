"""The published fine-tuning's loss against its formula, voxel by voxel."""

import math

import numpy as np
import torch

from zssmnet.handoff.loss import CrossEntropyAndFocalLoss


def test_the_loss_is_the_mean_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 2, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 1, 2, 4, 5), generator=generator)

    odds = np.exp(logits.double().numpy())
    p = np.take_along_axis(odds / odds.sum(1, keepdims=True), target.numpy(), 1)
    expected = np.mean(-np.log(p) - (1 - p) ** 2 * np.log(p))

    assert math.isclose(CrossEntropyAndFocalLoss()(logits, target).item(), expected, rel_tol=1e-6)


def test_voxels_without_an_annotation_do_not_count() -> None:
    logits = torch.randn(1, 2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([[0, 1], [2, 2]]).reshape(1, 1, 1, 2, 2)

    loss = CrossEntropyAndFocalLoss(ignored=2)

    assert torch.equal(loss(logits, target), CrossEntropyAndFocalLoss()(logits[..., :1, :], target[..., :1, :]))
    assert loss(logits, torch.full_like(target, 2)) == 0


def test_what_is_certain_and_right_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 2, 1, 1, 1)
    logits[0, 1] = 100.0
    logits.requires_grad_()

    loss = CrossEntropyAndFocalLoss()(logits, torch.ones(1, 1, 1, 1, 1))
    loss.backward()

    assert loss == 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
