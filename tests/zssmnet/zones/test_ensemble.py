"""From networks whose answers are known to masks on T2W's own grid, and what makes them doubtful."""

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from zssmnet.config import ZonesConfig
from zssmnet.data.image_io import array_of, image_like
from zssmnet.phantom import GridSpec, zonal_mask
from zssmnet.preparation.cropping import Box
from zssmnet.zones.ensemble import Ensemble, Member
from zssmnet.zones.masks import PARTS, agreement, figures_against, largest_piece, mask_of, odd_about
from zssmnet.zones.training import shares_of

GRID = GridSpec.centred((160, 144, 20), (0.6, 0.7, 3.3), (3.0, -20.0, 11.0), degrees=14)


class Levels(nn.Module):
    """Reads the class of a voxel off its intensity: bright is the peripheral zone, less bright the rest."""

    def __init__(self, classes: int, shift: int = 0) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(1))
        self.classes, self.shift = classes, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distances = torch.stack([(x[:, 0] - level).abs() for level in (0.0, 1.0, 0.5)], dim=1)
        distances = distances.roll(self.shift, dims=-1)
        if self.classes == 2:
            distances = torch.stack([distances[:, 0], distances[:, 1:].amin(dim=1)], dim=1)
        return -40 * distances


def case(inverted: bool = False) -> tuple[sitk.Image, sitk.Image]:
    """A mask, and a T2W image in which its zones are two grey levels."""
    mask = zonal_mask(GRID, np.random.default_rng(1))
    levels = np.array([100.0, 900.0, 500.0], np.float32)
    return mask, image_like((1000 - levels if inverted else levels)[array_of(mask)], mask)


def ensemble(*members: Member) -> Ensemble:
    return Ensemble(members or [Member(Levels(2), Levels(3))] * 2, ZonesConfig(preset="cpu"))


@pytest.fixture(scope="module")
def found() -> Any:
    mask, t2w = case()
    return mask, t2w, ensemble().segment([t2w])


def test_the_mask_lies_on_the_grid_of_t2w_where_the_zones_are(found: Any) -> None:
    truth, t2w, made = found
    for get in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(made.mask, get)() == getattr(t2w, get)()
    figures = figures_against(made.mask, truth)
    assert min(figures[f"dice_{part}"] or 0 for part in PARTS) > 0.88, figures
    assert max(figures[f"surface_mm_{part}"] or 9 for part in ("gland", "peripheral")) < 0.5, figures
    assert made.agreed == dict.fromkeys(PARTS, 1.0)
    assert not [one for one in odd_about(made.mask, t2w, made.agreed, 0.7) if "networks" in one]


def test_members_that_disagree_make_a_mask_doubtful() -> None:
    _, t2w = case()
    made = ensemble(Member(Levels(2), Levels(3)), Member(Levels(2), Levels(3, shift=12))).segment([t2w])
    odd = list(odd_about(made.mask, t2w, made.agreed, 0.95))
    assert any("the networks agree on the peripheral zone by a Dice of 0." in one for one in odd), odd


def test_an_image_without_a_gland_gives_an_empty_mask_that_is_doubtful() -> None:
    _, t2w = case()
    nothing = t2w * 0 + sitk.AdditiveGaussianNoise(t2w * 0, 0.001, 0.0, 3)
    never = Levels(2)
    never.forward = lambda x: torch.stack([x[:, 0] * 0 + 9, x[:, 0] * 0], dim=1)  # type: ignore[method-assign]
    made = ensemble(Member(never, Levels(3))).segment([nothing])
    assert not array_of(made.mask).any() and made.agreed == {}
    assert list(odd_about(made.mask, nothing, {}, 0.7)) == ["no gland was found"]


def test_largest_piece_holes_and_nothing_else_is_repaired() -> None:
    labels = np.zeros((3, 12, 12), np.uint8)
    labels[:, 2:9, 2:9] = 2
    labels[:, 7:9, 2:9] = 1
    labels[1, 4, 4] = 0  # a hole
    labels[1, 11, 11] = 1  # a speck
    probabilities = np.eye(3, dtype=np.float32)[labels].transpose(3, 0, 1, 2)
    t2w = sitk.Image(12, 12, 3, sitk.sitkFloat32)
    made = array_of(mask := mask_of(probabilities, Box((0, 0, 0), (12, 12, 3)), t2w)).copy()
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert made[1, 4, 4] > 0 and made[1, 11, 11] == 0
    labels[1, 4, 4], labels[1, 11, 11] = made[1, 4, 4], 0
    assert np.array_equal(made, labels)
    assert not largest_piece(np.zeros((2, 3, 3), bool)).any()


@pytest.mark.parametrize("place", [(0, 0, 0), (10, 70, 80), (19, 143, 159)])
def test_a_mask_of_one_voxel_is_doubtful_and_no_error(place: tuple[int, int, int]) -> None:
    _, t2w = case()
    labels = np.zeros(array_of(t2w).shape, np.uint8)
    labels[place] = 1
    assert any("the gland has 0.0 ml" in one for one in odd_about(image_like(labels, t2w), t2w, {}, 0.7))


def test_agreement_is_the_mean_dice_of_pairs() -> None:
    first, second = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    first[0, :2], second[0, 1:3] = 1, 1
    assert agreement([first, second]) == {"gland": 0.5, "peripheral": 0.5, "rest": 0.0}
    assert agreement([first]) == {}


def test_each_patient_is_held_out_by_one_member_and_shares_are_equal() -> None:
    patients = [f"p{number // 2}" for number in range(20)]
    shares = shares_of(patients, 3, 0)
    assert set(shares) == set(patients)
    assert sorted(list(shares.values()).count(member) for member in range(3)) == [3, 3, 4]
    assert shares_of(patients, 3, 1) != shares
