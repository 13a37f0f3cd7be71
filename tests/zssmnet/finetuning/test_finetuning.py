"""The engine of fine-tuning: windows put together again, faster heads, and an interruption that changes nothing."""

from pathlib import Path

import pytest
import torch

from tests.zssmnet.probe.examples import CHANNELS, made_cases
from zssmnet.config import TrainingConfig
from zssmnet.errors import NonFiniteLossError, OutOfMemoryError
from zssmnet.finetuning.fit import FineTuner
from zssmnet.finetuning.windows import predict, sample_batch
from zssmnet.handoff.weights import HEADS
from zssmnet.mnet import MNet
from zssmnet.storage import LocalStorage
from zssmnet.training.checkpoint import BEST, LAST, Progress

CASES = made_cases(6)


class Copies(torch.nn.Module):
    """Gives two of its channels back."""

    def __init__(self) -> None:
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2]


@pytest.mark.parametrize(("window", "overlap"), [((5, 4, 2), 0.0), ((7, 5, 3), 0.25)])
def test_windows_are_put_together_where_they_were_cut(window: tuple[int, int, int], overlap: float) -> None:
    cases = [made_cases(1, size=size)[0] for size in ((4, 12, 10), (6, 8, 15))]
    found = predict(Copies(), [case.input_CZYX for case in cases], window, 5, overlap)
    for case, probabilities in zip(cases, found, strict=True):
        torch.testing.assert_close(probabilities, case.input_CZYX[:2].softmax(dim=0))


def test_intensities_change_mildly_and_labels_not_at_all() -> None:
    plain, changed = (
        sample_batch(CASES[:1], (16, 16, 4), 4, torch.Generator().manual_seed(1), intensity)
        for intensity in (False, True)
    )
    labels, inputs = CASES[0].label_ZYX, CASES[0].input_CZYX
    assert all(torch.equal(one, labels) or torch.equal(one, labels.flip(-1)) for one in changed[1])
    difference = (changed[0][0] - plain[0][0]).abs()
    assert 0 < difference.max() < 0.5
    assert torch.equal(plain[0][0], inputs) or torch.equal(plain[0][0], inputs.flip(-1))


def tuner(head_factor: float = 1.0, epochs: int = 4, optimizer: str = "adamw") -> FineTuner:
    training = TrainingConfig(epochs=epochs, batch_size=2, learning_rate=0.01, optimizer=optimizer, schedule="cosine")
    torch.manual_seed(0)
    return FineTuner(MNet(6, 2, CHANNELS), CASES[:4], 2, training, (16, 16, 4), 0, steps=2, head_factor=head_factor)


def test_new_heads_learn_faster_by_their_factor() -> None:
    moved = {}
    for factor in (1.0, 10.0):
        one = tuner(factor, optimizer="sgd")
        weights = dict(one.state.model.named_parameters())
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        one.state.optimizer.step()
        moved[factor] = {name: float((before[name] - weight.detach()).mean()) for name, weight in weights.items()}
    for name, change in moved[1.0].items():
        assert moved[10.0][name] == pytest.approx(change * (10 if name.startswith(HEADS) else 1), rel=1e-3)


def test_errors_name_what_the_commands_can_change() -> None:
    one = tuner(1.0)
    with pytest.raises(NonFiniteLossError, match=r"learning rate .*: the loss is nan; choose a smaller one$"):
        one.checked(torch.tensor(torch.nan))
    with pytest.raises(OutOfMemoryError, match=r"choose --preset cpu, or free"), one.computing():
        raise torch.OutOfMemoryError


@pytest.mark.parametrize("head_factor", [1.0, 10.0])
def test_interrupted_it_ends_with_the_same_weights(tmp_path: Path, head_factor: float) -> None:
    def stop(progress: Progress) -> None:
        if progress.epoch == 3:
            raise KeyboardInterrupt

    whole, broken = LocalStorage(tmp_path / "whole"), LocalStorage(tmp_path / "broken")
    tuner(head_factor).fit(CASES[4:], whole)
    with pytest.raises(KeyboardInterrupt):
        tuner(head_factor).fit(CASES[4:], broken, stop)
    seen: list[int] = []
    tuner(head_factor).fit(CASES[4:], broken, lambda progress: seen.append(progress.epoch))
    assert seen == [3, 4]
    assert all(whole.read(key) == broken.read(key) for key in (LAST, BEST))
