"""Training of an ensemble: each member holds out a share of the patients, on which it stops and is measured."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zssmnet.config import NetworkConfig, TrainingConfig, ZonesConfig
from zssmnet.corruption import LAYOUT
from zssmnet.data.archive import Case, patient_of
from zssmnet.data.examination import check_can_be_interpolated, read_images, read_mask
from zssmnet.data.image_io import array_of
from zssmnet.data.zonal_mask import zone_warning
from zssmnet.errors import CaseError
from zssmnet.finetuning.fit import FineTuner
from zssmnet.finetuning.loss import class_frequencies
from zssmnet.handoff.load import load_body
from zssmnet.handoff.weights import Weights
from zssmnet.preparation.cropping import bounding_box
from zssmnet.preparation.resampling import grid_of
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import BEST, Progress, check_best, load_weights
from zssmnet.training.precision import choose_device
from zssmnet.zones.ensemble import Member
from zssmnet.zones.model import CLASSES, channel_count, new_network
from zssmnet.zones.views import FINDER_WINDOW, around_gland, middle_of_field

log = logging.getLogger(__name__)

STEPS = 25
"""Batches of an epoch."""


class _Sample(NamedTuple):
    """One view of a labelled case: input (C, Z, Y, X) in float16, classes (Z, Y, X) in uint8."""

    input_CZYX: Tensor
    label_ZYX: Tensor


@dataclass(frozen=True)
class LabelledCase:
    """A case with a zonal mask, as a member's two networks see it."""

    case: Case
    patient: str
    finder: _Sample
    zones: _Sample


def read_labelled(case: Case, images: Storage, masks: Storage, config: ZonesConfig, pattern: str) -> LabelledCase:
    """Read a case to learn from; CaseError if it cannot be used, or if its mask has not both zones in their place."""
    volumes, _, warnings = read_images(case, images, channel_count(config))
    for warning in warnings:
        log.warning("%s: %s", case.id, warning)
    mask = read_mask(case, masks, volumes[0])
    if odd := zone_warning(mask):
        raise CaseError(case.id, masks.where(case.mask), odd)
    check_can_be_interpolated(case.id, images.where(case.images[0]), volumes[0])
    box = bounding_box(array_of(mask))
    assert box
    field, scale = middle_of_field(volumes), config.scale
    view = around_gland(volumes, box, grid_of(mask), scale.spacing_mm, scale.window)
    finder = _Sample(field.input_CZYX, (field.label(mask) > 0).to(torch.uint8))
    return LabelledCase(case, patient_of(case.id, pattern), finder, _Sample(view.input_CZYX, view.label(mask)))


def shares_of(patients: Sequence[str], members: int, seed: int) -> dict[str, int]:
    """By which member each patient is held out: equal shares, at random."""
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    return {names[number]: place % members for place, number in enumerate(order)}


def train_member(
    cases: Sequence[LabelledCase],
    held_out: Sequence[LabelledCase],
    number: int,
    config: ZonesConfig,
    network: NetworkConfig,
    weights: Weights | None,
    workplace: Storage,
    on_epoch: Callable[[Progress], None],
) -> tuple[Member, dict[str, Any]]:
    """Train one member's two networks, or continue them; the member, and what is published of it.

    They begin new, or as the pre-trained network with new heads, of which they see the first channels.
    """
    networks, content = dict[str, nn.Module](), dict[str, Any]()
    seed, device = config.seed + number, choose_device(config.device)
    for kind, classes in CLASSES.items():
        folder = workplace.child(kind)
        folder.sweep()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = new_network(kind, config, network)
        if weights:
            load_body(model, weights.with_channels(channel_count(config)))
        model.to(memory_format=LAYOUT).to(device)  # type: ignore[call-overload]
        samples = [getattr(one, kind) for one in cases]
        window = FINDER_WINDOW if kind == "finder" else config.scale.window
        recipe = training_recipe(config)
        tuner = FineTuner(model, samples, classes, recipe, window, seed, steps=STEPS, intensity=True)
        tuner.fit([getattr(one, kind) for one in held_out], folder, on_epoch)
        check_best(folder, tuner.state.progress)
        load_weights(model, folder.local(BEST))
        content[kind] = {"state_dict": model.cpu().state_dict(), "frequencies": class_frequencies(samples, classes)}
        model.to(device)
        networks[kind] = tuner.network.eval()
    return Member(**networks), content


def training_recipe(config: ZonesConfig) -> TrainingConfig:
    """AdamW, a warm-up, a cosine."""
    epochs = config.epochs or config.scale.epochs
    return TrainingConfig(
        epochs=epochs,
        batch_size=config.scale.batch_size,
        learning_rate=config.learning_rate,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warm_up_epochs=max(1, epochs // 10),
        patience=config.patience,
        device=config.device,
        compile="off",  # the last batch of a prediction is of another size
    )
