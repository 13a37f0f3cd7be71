"""The co-task: zones hidden from the network in a share of the cubes, and wanted from it there."""

import pytest
import torch

from tests.zssmnet.corruption.laws import assert_rate
from zssmnet.config import CorruptionConfig, MaskingConfig, ShufflingConfig, ZoneTaskConfig
from zssmnet.corruption import corrupt, sample_keys

CUBES = torch.rand(40, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
CUBES[:, 3] = torch.floor(CUBES[:, 3] * 2.999)
KEYS = sample_keys(len(CUBES), torch.Generator().manual_seed(1))


def config(recipe: str, share: float) -> CorruptionConfig:
    return CorruptionConfig(
        recipe=recipe,
        shuffling=ShufflingConfig(windows=20),
        masking=MaskingConfig(block=(2, 2, 2)),
        zone_task=ZoneTaskConfig(share=share),
    )


@pytest.mark.parametrize("recipe", ["reference", "per-channel", "masked"])
def test_zones_are_either_in_the_input_or_in_the_target(recipe: str) -> None:
    plain, tasked = (corrupt(CUBES, KEYS, config(recipe, share)) for share in (0.0, 0.4))
    assert plain.target_NCZYX.shape[1] == 3
    assert torch.equal(tasked.target_NCZYX[:, :3], plain.target_NCZYX)
    assert torch.equal(tasked.input_NCZYX[:, :3], plain.input_NCZYX[:, :3])
    is_asked = tasked.target_NCZYX[:, 3:].flatten(1).any(dim=1)
    assert_rate(is_asked, 0.4)
    assert not tasked.input_NCZYX[is_asked, 3:].any()
    assert torch.equal(tasked.input_NCZYX[~is_asked], plain.input_NCZYX[~is_asked])


def test_the_wanted_zones_are_the_whole_ones_flipped_like_the_images() -> None:
    target = corrupt(CUBES, KEYS, config("reference", 1.0)).target_NCZYX
    as_image = CUBES.clone()
    as_image[:, 0] = CUBES[:, 3] / 2
    mask = 2 * corrupt(as_image, KEYS, config("masked", 0.0)).target_NCZYX[:, 0]
    for zone in range(3):
        assert torch.equal(target[:, 3 + zone], (mask == zone).float())
