import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.zssmnet.training.examples import cubes_of
from zssmnet.config import (
    CorruptionConfig,
    FlipConfig,
    IntensityConfig,
    MaskingConfig,
    PaintingConfig,
    ShufflingConfig,
    ZoneTaskConfig,
)
from zssmnet.corruption import corrupt, sample_keys, swap_x_and_z
from zssmnet.training.loss import Restored, loss_of, restoration_loss, restore

SIZE = (6, 5, 7)  # three lengths, so that no axis can be taken for another
KEYS = sample_keys(4, torch.Generator().manual_seed(0))
CUBES = swap_x_and_z(torch.from_numpy(cubes_of(4, size=SIZE)))
ALL = CorruptionConfig()


def flips_alone(probability: float) -> CorruptionConfig:
    return CorruptionConfig(
        flip=FlipConfig(probability=probability, most=1),
        shuffling=ShufflingConfig(probability=0),
        intensity=IntensityConfig(probability=0),
        painting=PaintingConfig(probability=0),
    )


class Linear(nn.Module):
    """A network that can be written down: 3 a - 2 b, of the images a and the zones b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[0] * x[:, :3] + self.weight[1] * x[:, 3:]


def by_hand(config: CorruptionConfig) -> tuple[np.ndarray, np.ndarray]:
    """What ``Linear`` restores, and the target, both with the axes (cube, channel, z, y, x)."""
    corrupted, target = (volume.numpy().astype(np.float64) for volume in corrupt(CUBES, KEYS, config))
    return 1 / (1 + np.exp(-(3 * corrupted[:, :3] - 2 * corrupted[:, 3:]))), target


@pytest.mark.parametrize("recipe", ["reference", "per-channel"])
def test_loss_is_the_mean_squared_error_between_sigmoid_and_flipped_uncorrupted_images(recipe: str) -> None:
    config = CorruptionConfig(recipe=recipe)
    restored, target = by_hand(config)
    loss = restoration_loss(Linear(), CUBES, KEYS, config)
    assert loss.item() == pytest.approx(np.mean((restored - target) ** 2), rel=1e-5)


def test_loss_has_the_gradient_of_the_mean_squared_error() -> None:
    model = Linear()
    restoration_loss(model, CUBES, KEYS, ALL).backward()
    restored, target = by_hand(ALL)
    zones = corrupt(CUBES, KEYS, ALL).input_NCZYX[:, 3:].numpy()
    expected = np.mean(2 * (restored - target) * restored * (1 - restored) * zones)
    assert model.weight.grad[1].item() == pytest.approx(expected, rel=1e-4)


def test_without_corruption_input_and_target_are_the_cube() -> None:
    seen, target = corrupt(CUBES, KEYS, flips_alone(0))
    assert torch.equal(target, CUBES[:, :3])
    assert torch.equal(seen[:, :3], target)
    for zone in range(3):
        assert torch.equal(seen[:, 3 + zone], (CUBES[:, 3] == zone).float())


def test_a_flip_is_of_input_and_target_alike() -> None:
    seen, target = corrupt(CUBES, KEYS, flips_alone(1))
    assert torch.equal(seen[:, :3], target)
    for cube, zones, flipped in zip(CUBES, seen[:, 3:], target, strict=True):
        (axis,) = [axis for axis in (1, 2, 3) if torch.equal(cube[:3].flip(axis), flipped)]
        assert torch.equal(zones[1], (cube[3] == 1).float().flip(axis - 1))


def test_corruption_changes_the_input_and_not_the_target() -> None:
    still = ALL.model_copy(update={"flip": FlipConfig(probability=0)})
    seen, target = corrupt(CUBES, KEYS, still)
    assert torch.equal(target, CUBES[:, :3])
    assert ((seen[:, :3] != target).float().mean(dim=(1, 2, 3, 4)) > 0.1).all()


def test_pictures_show_what_the_loss_compares() -> None:
    model = Linear()
    shown = restore(model, CUBES, KEYS, ALL)
    seen, target = corrupt(CUBES, KEYS, ALL)
    assert torch.equal(shown.corrupted, seen[:, :3])
    assert torch.equal(shown.target, target)
    loss = restoration_loss(model, CUBES, KEYS, ALL)
    assert torch.mean((shown.restored - shown.target) ** 2).item() == pytest.approx(loss.item(), rel=1e-6)


def test_the_masked_loss_counts_all_voxels_or_the_hidden_ones() -> None:
    corrupted, target = torch.rand(2, 3, 4, 5, 6), torch.rand(2, 3, 4, 5, 6)
    corrupted[0, :, :2], corrupted[1, :, :1] = -1, -1
    shown = Restored(corrupted, target.clone(), target)
    shown.restored[:, :, 0] += 0.5  # hidden in both
    shown.restored[:, :, 3] += 1.0  # in neither
    losses = {
        voxels: loss_of(shown, CorruptionConfig(recipe="masked", masking=MaskingConfig(loss=voxels))).item()
        for voxels in ("all", "hidden")
    }
    # of 4 slices one is off by 0.5, one by 1; of the hidden ones every one or every other is off by 0.5
    assert losses == pytest.approx({"all": (0.25 + 1) / 4, "hidden": (0.25 / 2 + 0.25) / 2}, rel=1e-5)


def test_settings_of_masking_count_in_the_recipe_masked_alone() -> None:
    plain = CorruptionConfig(recipe="per-channel")
    hidden = plain.model_copy(update={"masking": MaskingConfig(loss="hidden")})
    shown = restore(Linear(), CUBES, KEYS, plain)
    assert torch.equal(loss_of(shown, hidden), loss_of(shown, plain))


def test_weights_of_channels_weigh_their_squared_errors() -> None:
    shown, weights = restore(Linear(), CUBES, KEYS, ALL), torch.tensor([0.5, 1.0, 3.0])
    errors = (shown.restored - shown.target).square().mean(dim=(0, 2, 3, 4))
    assert loss_of(shown, ALL, weights).item() == pytest.approx((errors * weights).mean().item(), rel=1e-5)
    assert torch.equal(loss_of(shown, ALL, torch.ones(3)), loss_of(shown, ALL))


class TestZoneTask:
    CONFIG = ALL.model_copy(update={"zone_task": ZoneTaskConfig(share=0.5, weight=0.2)})

    def test_adds_the_cross_entropy_of_the_hidden_zones(self) -> None:
        model = nn.Conv3d(6, 6, 1)
        seen, target = corrupt(CUBES, KEYS, self.CONFIG)
        asked = target[:, 3:].flatten(1).any(dim=1)
        assert 0 < asked.sum() < len(asked)
        logits = model(seen)
        entropy = nn.functional.cross_entropy(logits[asked, 3:], target[asked, 3:].argmax(dim=1))
        error = (torch.sigmoid(logits[:, :3]) - target[:, :3]).square().mean()
        expected = error + 0.2 * entropy * asked.float().mean() / 0.5
        assert restoration_loss(model, CUBES, KEYS, self.CONFIG).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_a_batch_is_the_mean_of_its_cubes(self) -> None:
        """So that processes that share a batch train as one."""
        model = nn.Conv3d(6, 6, 1)
        each = [restoration_loss(model, CUBES[i : i + 1], KEYS[i : i + 1], self.CONFIG).item() for i in range(4)]
        assert restoration_loss(model, CUBES, KEYS, self.CONFIG).item() == pytest.approx(np.mean(each), rel=1e-5)
