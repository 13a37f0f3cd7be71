"""The intensity map: monotonous, from end to end, as the curve says."""

import bisect

import pytest
import torch
from torch import Tensor

from tests.zssmnet.corruption.laws import assert_even, assert_rate, assert_uncorrelated
from zssmnet.config import IntensityConfig
from zssmnet.corruption.intensity import IntensityMap, apply_intensity, curve_table, sample_intensity

KEYS_N = torch.arange(20_000)
ALWAYS = IntensityConfig(probability=1)


def ramp(n: int) -> Tensor:
    """n images of one channel that rise from 0 to 1: (n, 1, 8, 8, 4)."""
    return torch.linspace(0, 1, 256).reshape(1, 1, 8, 8, 4).repeat(n, 1, 1, 1, 1)


def one_map(points: list[list[float]], *, rises: bool) -> IntensityMap:
    return IntensityMap(torch.tensor([True]), torch.tensor([rises]), torch.tensor([points]))


def height_one_by_one(points: list[list[float]], rises: bool, size: int, value: float) -> float:
    """The map of one value: Bernstein's polynomials, a search, and a line between two points."""
    (x1, y1), (x2, y2) = points
    ts = [i / (size - 1) for i in range(size)]
    xs = [3 * (1 - t) ** 2 * t * x1 + 3 * (1 - t) * t * t * x2 + t**3 for t in ts]
    ys = sorted((3 * (1 - t) ** 2 * t * y1 + 3 * (1 - t) * t * t * y2 + t**3 for t in ts), reverse=not rises)
    right = min(max(bisect.bisect_right(xs, value), 1), size - 1)
    share = (value - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + share * (ys[right] - ys[right - 1])


@pytest.mark.parametrize("rises", [True, False])
@pytest.mark.parametrize("size", [16, 1000])
def test_the_map_is_the_curve(rises: bool, size: int) -> None:
    for points in ([[0.3, 0.9], [0.6, 0.2]], [[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.0], [0.5, 1.0]]):
        mapped = apply_intensity(ramp(1), one_map(points, rises=rises), size).flatten()
        expected = [height_one_by_one(points, rises, size, value) for value in ramp(1).flatten().tolist()]
        torch.testing.assert_close(
            mapped, torch.tensor(expected), atol=2e-5, rtol=0
        )  # bends lie between the grid's points


def test_the_map_is_the_curve_for_random_points() -> None:
    intensity = sample_intensity(KEYS_N[:200], ALWAYS)
    mapped = apply_intensity(ramp(200), intensity, 1000).flatten(1)
    x_NT, y_NT = curve_table(intensity, 1000)
    worst = []
    for i in range(200):
        right = torch.searchsorted(x_NT[i], ramp(1).flatten().double(), right=True).clamp(1, 999)
        share = (ramp(1).flatten() - x_NT[i, right - 1]) / (x_NT[i, right] - x_NT[i, right - 1])
        exact = y_NT[i, right - 1] + share * (y_NT[i, right] - y_NT[i, right - 1])
        worst.append((mapped[i] - exact).abs().max())
    assert torch.stack(worst).median() < 1e-5
    assert torch.stack(worst).max() < 1e-2  # the grid's first steps, where a curve begins almost upright


def test_rising_keeps_order_and_falling_inverts_it() -> None:
    intensity = sample_intensity(KEYS_N[:500], ALWAYS)
    steps = apply_intensity(ramp(500), intensity, 1000).flatten(1).diff(dim=1)
    assert (steps[intensity.rises_N] >= 0).all()
    assert (steps[~intensity.rises_N] <= 0).all()


def test_ends_map_to_ends_and_what_lies_outside_counts_as_the_end() -> None:
    intensity = sample_intensity(KEYS_N[:100], ALWAYS)
    values = torch.tensor([-3.0, 0.0, 1.0, 7.0]).reshape(1, 1, 4, 1, 1).repeat(100, 1, 1, 1, 1)
    mapped = apply_intensity(values, intensity, 1000).flatten(1)
    rising = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert torch.equal(mapped, torch.where(intensity.rises_N[:, None], rising, 1 - rising))


def test_table_runs_from_end_to_end() -> None:
    intensity = sample_intensity(KEYS_N[:500], ALWAYS)
    x_NT, y_NT = curve_table(intensity, 100)
    assert (x_NT.diff(dim=1) >= 0).all()
    assert (x_NT[:, 0] == 0).all() and (x_NT[:, -1] == 1).all()
    assert torch.equal(y_NT[:, 0], (~intensity.rises_N).double())
    assert torch.equal(y_NT[:, -1], intensity.rises_N.double())


def test_straight_curve_changes_nothing_or_inverts() -> None:
    straight = [[1 / 3, 1 / 3], [2 / 3, 2 / 3]]
    torch.testing.assert_close(apply_intensity(ramp(1), one_map(straight, rises=True), 1000), ramp(1))
    torch.testing.assert_close(apply_intensity(ramp(1), one_map(straight, rises=False), 1000), 1 - ramp(1))


def test_one_map_for_all_images_of_a_cube_and_none_where_it_does_not_apply() -> None:
    intensity = sample_intensity(KEYS_N[:64], IntensityConfig(probability=0.5))
    images = ramp(64).repeat(1, 3, 1, 1, 1) * 2 - 0.5
    before = images.clone()
    mapped = apply_intensity(images, intensity, 1000)
    assert torch.equal(images, before)
    assert torch.equal(mapped[:, 0], mapped[:, 1]) and torch.equal(mapped[:, 0], mapped[:, 2])
    changed_N = (mapped != images).flatten(1).any(1)
    assert torch.equal(changed_N, intensity.applies_N)
    for i in range(64):
        part = IntensityMap(*(tensor[i : i + 1] for tensor in vars(intensity).values()))
        assert torch.equal(mapped[i : i + 1], apply_intensity(images[i : i + 1], part, 1000))


def test_not_a_number_stays_one() -> None:
    images = torch.full((1, 1, 2, 1, 1), float("nan"))
    assert apply_intensity(images, one_map([[0.1, 0.2], [0.3, 0.4]], rises=True), 16).isnan().all()


def test_rates() -> None:
    intensity = sample_intensity(KEYS_N, IntensityConfig())
    assert_rate(intensity.applies_N, 0.9)
    assert_rate(intensity.rises_N, 0.5)
    assert_uncorrelated(intensity.applies_N, intensity.rises_N)
    assert_even((intensity.points_N22 * 16).long().flatten().bincount(minlength=16))
    coordinates = intensity.points_N22.flatten(1).unbind(1)
    for i, first in enumerate(coordinates):
        for second in coordinates[:i]:
            assert_uncorrelated(first, second)
