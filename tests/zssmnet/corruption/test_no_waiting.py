"""The host never waits for the device: nothing that it does depends on a value there.

PyTorch's device ``meta`` has no values at all. What looks at one, to choose a shape or a branch, is an error there.
"""

import pytest
import torch

from zssmnet.config import CorruptionConfig, ShufflingConfig
from zssmnet.corruption import corrupt, sample_keys, swap_x_and_z
from zssmnet.corruption.shuffling import bound_cells, sample_shuffling

SHAPE = (4, 64, 64, 16)
KEYS = sample_keys(6, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("recipe", ["reference", "per-channel", "masked"])
def test_corruption_looks_at_no_value_of_the_device(recipe) -> None:
    cubes = torch.empty(6, *SHAPE, dtype=torch.float16, device="meta")
    seen, target = corrupt(swap_x_and_z(cubes), KEYS, CorruptionConfig(recipe=recipe))
    assert seen.shape == (6, 6, *SHAPE[:0:-1])
    assert seen.device.type == target.device.type == "meta"


def test_keys_on_the_device_would_have_to_be_waited_for() -> None:
    with pytest.raises((NotImplementedError, RuntimeError)):
        corrupt(swap_x_and_z(torch.empty(6, *SHAPE, device="meta")), KEYS.to("meta"), CorruptionConfig())


def test_bounds_are_kept_and_near() -> None:
    """No channel of 400 comes near the bound, which is 9 % above the mean; few windows can reach it."""
    config = ShufflingConfig(probability=1)
    most = bound_cells(SHAPE[1:], config)
    keys = sample_keys(100, torch.Generator().manual_seed(1))
    volumes = sample_shuffling(keys, SHAPE, config, from_first_channel=False).size_PAW.prod(dim=1).sum(dim=1)
    assert volumes.max() < 0.96 * most < 1.06 * volumes.double().mean()
    assert bound_cells((64, 64, 16), ShufflingConfig(windows=2)) == 2 * 36
