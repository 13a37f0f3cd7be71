import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from zssmnet.report.case import case_montage
from zssmnet.report.palette import CUBE_COLOUR, TRAINING_COLOUR, VALIDATION_COLOUR, ZONES
from zssmnet.report.style import LARGEST_PNG
from zssmnet.report.thumbnails import shown_slices
from zssmnet.report.training import _style, loss_curves, restoration_triptych

PERIPHERAL, TRANSITION = (colour for colour, _ in ZONES)
SPACING = (0.5, 0.5, 3.0)
CUBE = (24, 24, 6)
STARTS = ((5, 8, 4), (30, 20, 7))


def mask_of(shape: tuple[int, int, int] = (20, 70, 90)) -> np.ndarray:
    """A gland from slice 5 to 14: a disc, its anterior half the transition zone."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    gland = ((y - 35) ** 2 + (x - 45) ** 2 < 20**2) & (z >= 5) & (z < 15)
    return (gland * np.where(y < 35, 2, 1)).astype(np.uint8)


def volumes(seed: int = 0) -> list[np.ndarray]:
    """Smooth images: pictures of them need no other quality than the finest."""
    z, y, x = np.ogrid[:20, :70, :90]
    return [scale * (2 + np.sin(0.1 * x + seed) + np.cos(0.07 * y - 0.2 * z)) / 4 for scale in (900, 3000, 60)]


@cache
def montage(seed: int = 0, starts: tuple[tuple[int, int, int], ...] = STARTS, title: str = "Case 1") -> bytes:
    return case_montage(volumes(seed), mask_of(), starts, CUBE, SPACING, title)


def cubes(seed: int = 0, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = np.random.default_rng(seed).random((count, 3, 8, 32, 32))
    return 1 - target, 0.5 * target, target


HISTORY = [(epoch, 0.1 / epoch, 0.12 / epoch + 0.001 * epoch, 0.1 * 0.5 ** (epoch // 12)) for epoch in range(1, 31)]


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def count(png: bytes, colour: str) -> int:
    """Pixels of a colour or very near to it."""
    rgb = np.array(to_rgb(colour)) * 255
    return int((np.abs(pixels(png) - rgb).max(axis=-1) <= 12).sum())


PICTURES = {
    "montage": lambda: case_montage(volumes(), mask_of(), STARTS, CUBE, SPACING, "Case 1"),
    "restoration": lambda: restoration_triptych(*cubes(), "Restoration"),
    "curves": lambda: loss_curves(HISTORY, 11, "Loss"),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
class TestAnyPicture:
    def test_is_a_png_of_sane_size(self, draw) -> None:
        height, width, _ = pixels(png := draw()).shape
        assert 500 < width < 1500
        assert 300 < height < 1500
        assert len(png) < LARGEST_PNG

    def test_same_input_same_bytes_in_parallel_too(self, draw) -> None:
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda _: draw(), range(2))
        assert one == other

    def test_keeps_a_white_ground(self, draw) -> None:
        assert (pixels(draw())[:5] == 255).all()


def test_pictures_of_noise_are_small_enough_too() -> None:
    noise = np.random.default_rng(0).random((3, 281, 270), dtype=np.float32)
    png = case_montage([noise, 3000 * noise, noise], np.zeros((3, 281, 270), np.uint8), [], CUBE, SPACING, "Noise")
    assert len(png) < LARGEST_PNG
    pixels(png)


class TestCaseMontage:
    def test_shows_zones_and_cubes(self) -> None:
        png, without = montage(), montage(starts=())
        assert count(png, PERIPHERAL) > 300
        assert count(png, TRANSITION) > 300
        assert count(png, CUBE_COLOUR) > count(without, CUBE_COLOUR) + 300
        assert count(without, CUBE_COLOUR) == 0

    def test_shows_a_cube_only_on_slices_that_it_contains(self) -> None:
        upper, middle, lower = shown_slices(mask_of())
        assert (upper, middle, lower) == (12, 10, 7)
        drawn = [count(montage(starts=((5, 8, z),)), CUBE_COLOUR) for z in (upper + 1, upper, lower)]
        none, one, three = drawn
        assert 0 < none < one < three, "the legend stays"

    def test_content_and_title_change_the_picture(self) -> None:
        assert len({montage(), montage(seed=1), montage(title="Case 2"), montage(starts=STARTS[:1])}) == 4

    def test_millimetres_decide_the_aspect(self) -> None:
        tall = pixels(case_montage(volumes(), mask_of(), STARTS, CUBE, (0.5, 1.0, 3.0), "Case 1"))
        around = 144  # pixels for heading, legend and gaps
        assert len(tall) - around == pytest.approx(2 * (len(pixels(montage())) - around), rel=0.01)

    def test_takes_an_empty_mask(self) -> None:
        assert shown_slices(np.zeros((11, 4, 4))) == (8, 5, 2)


class TestRestorationTriptych:
    def test_shows_all_on_the_grey_scale_from_0_to_1(self) -> None:
        flat = np.full((1, 3, 4, 8, 8), 0.5)
        png = pixels(restoration_triptych(0 * flat, flat, 2 * flat, "Flat"))
        row = png[130, 60:1000, 0]
        assert {0, 255} <= set(row)
        assert np.isin(row, range(124, 132)).sum() > 250, "a third of the panels is mid-grey, not stretched"

    def test_every_part_changes_the_picture(self) -> None:
        parts = cubes()
        pictures = {restoration_triptych(*parts, "Restoration")}
        for i in range(3):
            changed = [part.copy() for part in parts]
            changed[i][:, 2, 4, 8:16] = 0.25
            pictures.add(restoration_triptych(*changed, "Restoration"))
        assert len(pictures) == 4

    def test_ignores_further_channels_of_the_input(self) -> None:
        corrupted, restored, target = cubes()
        six = np.concatenate([corrupted, np.zeros_like(corrupted)], axis=1)
        assert restoration_triptych(six, restored, target, "R") == restoration_triptych(*cubes(), "R")


class TestLossCurves:
    def test_shows_both_losses(self) -> None:
        png = loss_curves(HISTORY, 11, "Loss")
        assert count(png, TRAINING_COLOUR) > 500
        assert count(png, VALIDATION_COLOUR) > 500

    def test_marks_the_best_epoch(self) -> None:
        pictures = [loss_curves(HISTORY, best, "Loss") for best in (5, 20, -1)]
        dark = [np.flatnonzero((pixels(png)[80:340, 90:770] < 90).all(axis=-1).sum(axis=0) > 60) for png in pictures]
        early, late, unknown = dark
        assert len(early) > 0
        assert early.max() < late.min()
        assert len(unknown) == 0

    @pytest.mark.parametrize("limits", [(0.06, 0.068), (0.035, 0.2), (0.02, 0.13), (0.01, 1.0), (1e-4, 1.0)])
    def test_whatever_the_range_some_losses_are_labelled_and_not_too_many(self, limits: tuple[float, float]) -> None:
        ax = Figure().subplots()
        ax.plot([1, 2], limits)
        _style(ax, "loss")
        low, high = ax.get_ylim()
        assert 4 <= sum(low <= tick <= high for tick in ax.get_yticks()) <= 9

    @pytest.mark.parametrize("epochs", [1, 2, 500])
    def test_takes_any_number_of_epochs(self, epochs: int) -> None:
        history = [(i, 0.05 / i, 0.06 / i, 0.02) for i in range(1, epochs + 1)]
        pixels(loss_curves(history, epochs, "Loss"))
