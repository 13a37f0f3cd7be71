import pytest
import torch

from tests.zssmnet.corruption.laws import assert_rate
from zssmnet.config import MaskingConfig
from zssmnet.corruption.masking import find_hidden, sample_masking
from zssmnet.corruption.random import sample_keys

SIZE = (16, 24, 6)


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return sample_keys(n, torch.Generator().manual_seed(seed))


def hidden(n: int, config: MaskingConfig, size: tuple[int, int, int] = SIZE) -> torch.Tensor:
    return find_hidden(sample_masking(keys(n), (3, *size), config), size, config.block)


@pytest.mark.parametrize("ratio", [0.001, 0.25, 0.65, 1.0])
def test_each_image_hides_the_same_share_of_its_blocks(ratio: float) -> None:
    config = MaskingConfig(ratio=ratio, block=(8, 8, 2))
    blocks = 2 * 3 * 3
    assert sample_masking(keys(5), (3, *SIZE), config).shape == (5, 3, 2, 3, 3)
    count = hidden(5, config).flatten(2).sum(dim=2)
    assert (count == max(1, round(ratio * blocks)) * 8 * 8 * 2).all()


def test_a_block_is_hidden_as_a_whole() -> None:
    found = hidden(4, MaskingConfig(block=(8, 8, 2)))
    whole = found.reshape(4, 3, 2, 8, 3, 8, 3, 2).permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5)
    assert (whole.all(dim=-1) | ~whole.any(dim=-1)).all()


@pytest.mark.parametrize("jointly", [True, False])
def test_images_hide_the_same_place_or_each_its_own(jointly: bool) -> None:
    found = hidden(8, MaskingConfig(jointly=jointly, block=(8, 8, 2)))
    same = (found[:, :1] == found).flatten(1).all(dim=1)
    assert same.all() if jointly else not same.any()


def test_a_share_of_the_cubes_hides_the_same_place() -> None:
    config = MaskingConfig(jointly=0.3, block=(8, 8, 2))
    found = sample_masking(keys(1000), (3, *SIZE), config)
    same_N = (found[:, :1] == found).flatten(1).all(dim=1)
    assert_rate(same_N, 0.3)
    for jointly in (True, False):  # each cube as if all or none did
        alike = sample_masking(keys(1000), (3, *SIZE), config.model_copy(update={"jointly": jointly}))
        assert torch.equal(found[same_N == jointly], alike[same_N == jointly])


def test_blocks_that_do_not_divide_the_cube_are_cut_off() -> None:
    config = MaskingConfig(ratio=1.0, block=(5, 7, 4))
    assert sample_masking(keys(1), (3, *SIZE), config).shape == (1, 3, 4, 4, 2)
    assert hidden(1, config).all()


def test_every_block_is_hidden_with_the_same_probability() -> None:
    config = MaskingConfig(ratio=0.5, block=(8, 8, 2))
    share = hidden(2000, config).float().mean(dim=0)
    assert (share - 0.5).abs().max() < 5 * 0.5 / 2000**0.5


def test_a_cube_is_masked_alike_in_every_batch() -> None:
    config = MaskingConfig(jointly=False)
    whole = sample_masking(keys(4), (3, *SIZE), config)
    assert torch.equal(sample_masking(keys(4)[2:3], (3, *SIZE), config), whole[2:3])
