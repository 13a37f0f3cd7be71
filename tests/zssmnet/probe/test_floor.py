"""What needs no network, on cases whose right answer is known; and what fine-tuning is given."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.zssmnet.probe.examples import as_read, made_cases, small_probe
from zssmnet.errors import InputError, NonFiniteLossError
from zssmnet.finetuning.loss import class_frequencies
from zssmnet.probe.floor import ridge_probabilities, rule_probabilities
from zssmnet.probe.labels import split_cases
from zssmnet.probe.trials import fine_tune

CASES = made_cases(10)


def test_the_rule_is_dwi_less_adc_within_the_gland() -> None:
    (case,) = made_cases(1)
    ((background, score),) = rule_probabilities([case])
    adc, dwi = case.input_CZYX[1], case.input_CZYX[2]
    torch.testing.assert_close(score[case.gland_ZYX], ((1 + dwi - adc) / 2)[case.gland_ZYX])
    assert not score[~case.gland_ZYX].any()
    torch.testing.assert_close(background, 1 - score)


def test_ridge_regression_finds_what_is_linear_in_the_images() -> None:
    cases = [replace(case, label_ZYX=(case.input_CZYX[2] > 0.55).long()) for case in CASES]
    found = ridge_probabilities(cases[:6], cases[6:], 2, 0)
    for case, probability in zip(cases[6:], found, strict=True):
        assert (probability.argmax(dim=0) == case.label_ZYX).float().mean() > 0.95


class Spy(nn.Module):
    """A network that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        return self.bias[None, :, None, None, None].expand(len(x), 2, *x.shape[2:])


def marked_case() -> list:
    """A case in which one voxel is lesion, and the only one that T2W is bright in."""
    (case,) = made_cases(1, size=(16, 64, 64))
    label = torch.zeros_like(case.label_ZYX)
    label[8, 40, 20] = 1
    images = case.input_CZYX.clone()
    images[0] = label.float()
    return [replace(case, label_ZYX=label, input_CZYX=images)]


def test_every_other_window_lies_around_the_foreground() -> None:
    spy = Spy()
    fine_tune(spy, marked_case(), (), 0.01, 0, small_probe(steps=8))
    given = torch.stack(spy.given)
    assert given.shape[:2] == (8, 2)
    assert (given[:, 0, 0].amax(dim=(1, 2, 3)) == 1).all()
    assert given[:, 1, 0].amax(dim=(1, 2, 3)).mean() < 0.5


def test_a_class_that_no_case_has_is_rare_and_not_impossible() -> None:
    (frequent, rare) = class_frequencies([replace(CASES[0], label_ZYX=torch.zeros_like(CASES[0].label_ZYX))], 2)
    assert 0 < rare < 0.01 < frequent


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    spoilt = [replace(case, input_CZYX=case.input_CZYX * float("nan")) for case in CASES[:2]]
    model = nn.Conv3d(6, 2, 1)
    with pytest.raises(NonFiniteLossError, match=r"fine-tuning at learning rate 0\.01: the loss is nan"):
        fine_tune(model, spoilt, (), 0.01, 0, small_probe(steps=1))


def test_tests_without_any_lesion_near_the_gland_are_refused() -> None:
    cases = [replace(case, label_ZYX=torch.zeros_like(case.label_ZYX)) for case in made_cases(20)]
    with pytest.raises(InputError, match=r"none of the 5 test cases .* has a lesion near the gland; .*--test-cases"):
        split_cases(as_read(cases), (), small_probe())
    assert split_cases(as_read(cases), (), small_probe(task="zones")).test
