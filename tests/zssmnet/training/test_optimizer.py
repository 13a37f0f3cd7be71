"""The optimizer, its learning rate and its state in checkpoints."""

from pathlib import Path

import pytest
import torch

from tests.zssmnet.training.examples import CPU, StoppedError, bits, cubes_of, small_config, stopping_at
from zssmnet.storage import LocalStorage
from zssmnet.training import fit
from zssmnet.training.checkpoint import LAST
from zssmnet.training.dataset import CubeSet
from zssmnet.training.optimizer import cosine_factor
from zssmnet.training.trainer import initial_state

TRAINING, VALIDATION = CubeSet([cubes_of(5)]), CubeSet([cubes_of(3, seed=9)])


class TestOptimizer:
    def test_the_machines_choices_are_not_saved_and_not_loaded(self, tmp_path: Path) -> None:
        """A checkpoint of a GPU, where one kernel updates all weights, is that of a CPU."""
        workplace = LocalStorage(tmp_path)
        state = fit.fit(TRAINING, VALIDATION, small_config(epochs=1), workplace)
        state.optimizer.param_groups[0]["fused"] = True
        fit.publish_last(workplace, state)
        (group,) = torch.load(tmp_path / LAST, weights_only=True)["optimizer_state_dict"]["param_groups"]
        assert (group["fused"], group["foreach"]) == (None, None)
        there = initial_state(small_config(), CPU)
        there.optimizer.param_groups[0]["fused"] = True  # as on a GPU
        fit.resume(workplace, there)
        assert there.optimizer.param_groups[0]["fused"] is True
        assert bits(there.model.state_dict()) == bits(state.model.state_dict())


class TestSchedule:
    def test_cosine_rises_over_the_warm_up_and_falls_over_all_epochs(self) -> None:
        recipe = small_config(schedule="cosine", epochs=12, warm_up_epochs=3).training
        rates = [cosine_factor(epoch, recipe) for epoch in range(13)]
        assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert rates[8] == pytest.approx(0.5)  # half way from the fourth epoch to what would be the fourteenth
        assert 0 < rates[12] < 0.03

    def test_an_interrupted_run_with_adamw_and_cosine_ends_as_an_uninterrupted_one(self, tmp_path: Path) -> None:
        config = small_config(optimizer="adamw", learning_rate=0.01, weight_decay=0.01, schedule="cosine", epochs=4)
        whole = fit.fit(TRAINING, VALIDATION, config, LocalStorage(tmp_path / "a"))
        with pytest.raises(StoppedError):
            fit.fit(TRAINING, VALIDATION, config, LocalStorage(tmp_path / "b"), stopping_at(3))
        resumed = fit.fit(TRAINING, VALIDATION, config, LocalStorage(tmp_path / "b"))
        assert resumed.progress == whole.progress
        assert (tmp_path / "a" / LAST).read_bytes() == (tmp_path / "b" / LAST).read_bytes()
        rates = [result.learning_rate / 0.01 for result in whole.progress.history]
        assert rates == pytest.approx([cosine_factor(epoch, config.training) for epoch in range(4)])
