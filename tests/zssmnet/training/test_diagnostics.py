from dataclasses import replace

import pytest
import torch

from zssmnet.errors import CollapsedError
from zssmnet.training.checkpoint import EpochResult, Progress
from zssmnet.training.diagnostics import (
    BEGINNERS_STEPS,
    check_alive,
    check_predictions,
    collapsed_channels,
    new_training_warnings,
    training_warnings,
    warn_if_saturated,
)
from zssmnet.training.epoch import Validation

FINE, FLAT = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)


def history(*epochs: tuple[float, float, tuple[float, float, float]]) -> list[EpochResult]:
    """Epochs of these validation losses, explained variances (of DWI; the others' is 0.5) and spreads."""
    return [
        EpochResult(number, 0.1, loss, 0.1, 0.4, spread, (0.5, 0.5, explained))
        for number, (loss, explained, spread) in enumerate(epochs, 1)
    ]


def names(results: list[EpochResult], steps: int = BEGINNERS_STEPS) -> list[str]:
    return list(training_warnings(results, steps))


@pytest.mark.parametrize(
    ("spread", "found"),
    [
        (FINE, []),
        ((0.001, 0.001, 0.001), []),
        ((0.5, 0.0009, 0.5), ["ADC collapsed"]),
        ((0.0, 0.5, 0.0), ["T2W, DWI collapsed"]),
    ],
)
def test_a_collapsed_channel_is_named_in_its_epoch(spread: tuple[float, float, float], found: list[str]) -> None:
    assert names(history((0.1, 0.5, spread))) == found


@pytest.mark.parametrize(
    ("explained", "epochs", "steps", "warned"),
    [
        (0.0, 2, BEGINNERS_STEPS, True),
        (-2.0, 2, BEGINNERS_STEPS // 2, True),
        (-2.0, 2, BEGINNERS_STEPS // 2 - 1, False),
        (0.001, 2, BEGINNERS_STEPS, False),
        (-2.0, 1, 9 * BEGINNERS_STEPS, False),
    ],
)
def test_who_should_know_better_has_to_be_better_than_a_constant(
    explained: float, epochs: int, steps: int, warned: bool
) -> None:
    results = history(*((1 / epoch, explained, FINE) for epoch in range(1, epochs + 1)))
    assert (names(results, steps) == ["DWI no better than a constant"]) == warned


@pytest.mark.parametrize(
    ("value", "share", "warned"),
    [(0.0005, 1.0, True), (0.9995, 1.0, True), (0.0015, 1.0, False), (0.9985, 1.0, False), (0.0005, 0.985, False)],
)
def test_a_saturated_channel_is_nearly_0_or_1_nearly_everywhere(
    value: float, share: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    restored = torch.full((2, 3, 10, 10, 10), 0.5)
    restored[:, 1].flatten(1)[:, : round(1000 * share)] = value
    warn_if_saturated(20, restored)
    assert ("after 20 steps the network restores ADC as 0 or 1 nearly everywhere" in caplog.text) == warned


def test_a_stuck_validation_is_the_same_to_the_last_digit() -> None:
    assert names(history((0.1, 0.5, FINE), (0.1, 0.5, FINE))) == ["validation is stuck"]
    assert names(history((0.1, 0.5, FINE), (0.1 + 1e-16, 0.5, FINE))) == []


def test_nothing_is_said_of_what_earlier_versions_did_not_tell() -> None:
    assert training_warnings([EpochResult(number, 0.1, 1 / number, 0.1) for number in (1, 2, 3)], 1000) == {}


def test_a_warning_that_stays_is_given_once_and_one_that_comes_back_again() -> None:
    flat, fine = (0.0, 0.5, 0.5), FINE
    results = history(*((1 / (1 + i), 0.5, spread) for i, spread in enumerate((flat, flat, fine, flat))))
    reported = [list(new_training_warnings(results[:done], 1)) for done in range(1, 5)]
    assert reported == [["T2W collapsed"], [], [], ["T2W collapsed"]]


@pytest.mark.parametrize(
    ("before", "after", "spread", "found"),
    [
        (-2.0, -2.0, 0.0, ("ADC",)),
        (-2.0, -2.0 - 2e-6, 9e-4, ("ADC",)),  # a hundredth of a millionth more is noise
        (-2.0, -1.9999, 0.0, ()),  # it comes back
        (0.01, 0.01, 0.0, ()),  # it tells cubes apart
        (-2.0, -2.0, 0.002, ()),  # it is no constant
    ],
)
def test_a_channel_has_collapsed_if_it_is_constant_poor_and_unchanged(
    before: float, after: float, spread: float, found: tuple[str, ...]
) -> None:
    was = Validation(0.1, 0.3, (0.5, before, 0.5), FINE)
    now = Validation(0.1, 0.3, (0.5, after, 0.5), (0.5, spread, 0.5))
    assert collapsed_channels(was, now) == found


@pytest.mark.parametrize("best_epoch", [1, 2])
def test_then_training_ends(best_epoch: int) -> None:
    fine, *_ = results = history((0.2, 0.1, FINE), (0.3, -2, FLAT))
    check_alive(Progress(results, 1, 0.2))
    progress = Progress([fine, replace(results[1], collapsed=("ADC", "DWI"))], best_epoch, 0.2)
    with pytest.raises(
        CollapsedError, match=r"^the network restores a constant for ADC, DWI, and epoch 2 changed noth"
    ) as caught:
        check_alive(progress)
    assert ("the best model so far is kept" in str(caught.value)) == (best_epoch == 1)
    assert str(caught.value).endswith("train anew with a smaller learning_rate or another --seed")


def test_the_best_model_is_one_that_answers() -> None:
    dark = replace(history((0.3, -2, (1e-9, 1e-9, 1e-9)))[0], explained=-3.0)
    check_predictions(Progress(history((0.2, 0.1, FINE), (0.3, -2, FLAT)), 1, 0.2))
    with pytest.raises(CollapsedError, match="the best model, of epoch 1, restores all cubes as constants"):
        check_predictions(Progress([dark], 1, 0.3))


def test_a_line_names_every_channel() -> None:
    (result,) = history((0.2, -0.1, FINE))
    assert result.quality == "explained variance 40.0% (T2W 50.0%, ADC 50.0%, DWI -10.0%)"
    assert replace(result, explained_by_channel=None).quality == "explained variance 40.0%"
    assert EpochResult(1, 0.1, 0.1, 0.1).quality == ""
