"""The first prediction of a calibrated head, and the warning of outputs that are saturated."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.zssmnet.training.examples import (
    CPU,
    StoppedError,
    WatchedCubes,
    bits,
    cubes_of,
    small_config,
    stopping_at,
)
from zssmnet.corruption import corrupt, sample_keys, swap_x_and_z
from zssmnet.errors import CubesError
from zssmnet.storage import LocalStorage
from zssmnet.training import trainer
from zssmnet.training.calibration import measure_channel_weights
from zssmnet.training.dataset import CubeSet
from zssmnet.training.diagnostics import warn_if_saturated
from zssmnet.training.fit import fit
from zssmnet.training.trainer import initial_state

CUBES = cubes_of(6)
CUBES[:, :3] *= np.array([0.2, 0.5, 1.0], dtype="float32").reshape(1, 3, 1, 1, 1)
CONFIG = small_config(calibrated_head=True, seed=3)


def test_the_first_prediction_is_each_channels_mean() -> None:
    plain, calibrated = initial_state(CONFIG, CPU), initial_state(CONFIG, CPU, cubes=CubeSet([CUBES]))
    keys = sample_keys(len(CUBES), torch.Generator().manual_seed(CONFIG.training.seed))
    corrupted, target = corrupt(swap_x_and_z(torch.from_numpy(CUBES)), keys, CONFIG.corruption)
    with torch.no_grad():
        logits = calibrated.model(corrupted).mean(dim=(0, 2, 3, 4))
    assert torch.sigmoid(logits).tolist() == pytest.approx(target.mean(dim=(0, 2, 3, 4)).tolist(), abs=1e-4)
    before, after = plain.model.state_dict(), calibrated.model.state_dict()
    assert list(before) == list(after)
    assert [name for name in before if bits(before[name]) != bits(after[name])] == ["outputs.0.weight"]


def test_of_many_cubes_sixteen_are_used_spread_over_all() -> None:
    cubes = WatchedCubes([cubes_of(46)])
    initial_state(CONFIG, CPU, cubes=cubes)
    assert cubes.taken == [[number] for number in range(0, 46, 3)]


def test_initial_weights_and_a_run_without_the_setting_are_left_alone() -> None:
    plain = initial_state(small_config(), CPU, cubes=CubeSet([CUBES]))
    assert bits(plain.model.state_dict()) == bits(initial_state(small_config(), CPU).model.state_dict())


def test_a_resumed_run_keeps_its_weights(tmp_path) -> None:
    training, validation = CubeSet([CUBES]), CubeSet([cubes_of(3, seed=9)])
    whole = fit(training, validation, CONFIG, LocalStorage(tmp_path / "a"))
    fit(training, validation, small_config(calibrated_head=True, seed=3, epochs=1), LocalStorage(tmp_path / "b"))
    resumed = fit(training, validation, CONFIG, LocalStorage(tmp_path / "b"))
    assert bits(resumed.model.state_dict()) == bits(whole.model.state_dict())


def test_saturated_outputs_are_named_after_the_first_steps(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(epochs=1, learning_rate=1e-6)
    saturated = initial_state(config, CPU)
    for weight in saturated.model.outputs[0].parameters():
        weight.data[1:] *= 1e4
    torch.save({"state_dict": saturated.model.state_dict()}, tmp_path / "initial.model")
    training, validation = CubeSet([CUBES]), CubeSet([cubes_of(3, seed=9)])
    with caplog.at_level(logging.WARNING):
        fit(training, validation, config, LocalStorage(tmp_path / "run"), initial=tmp_path / "initial.model")
    (message,) = [one.getMessage() for one in caplog.records if "saturated" in one.getMessage()]
    assert message.startswith("after 3 steps the network restores ADC, DWI as 0 or 1 nearly everywhere (saturated)")


def test_images_with_much_background_are_not_taken_for_saturated(caplog: pytest.LogCaptureFixture) -> None:
    restored = torch.zeros(2, 3, 4, 16, 16)
    restored[..., :1] = 0.5
    with caplog.at_level(logging.WARNING):
        warn_if_saturated(20, restored)
    assert not caplog.records


class TestChannelWeights:
    CONFIG = small_config(loss_weighting="variance")

    def test_are_inverse_variances_that_keep_the_loss_of_the_best_constants(self) -> None:
        variances = CUBES[:, :3].astype("float64").var(axis=(0, 2, 3, 4))
        weights = measure_channel_weights(CubeSet([CUBES]))
        assert weights == pytest.approx(tuple(variances.mean() / variances), rel=1e-5)
        assert np.dot(weights, variances) == pytest.approx(variances.sum(), rel=1e-5)

    def test_of_a_constant_channel_there_is_none(self) -> None:
        cubes = CUBES.copy()
        cubes[:, 2] = 0.3
        with pytest.raises(CubesError, match="DWI is constant in all training cubes: choose loss_weighting = 'equal'"):
            measure_channel_weights(CubeSet([cubes]))

    def test_are_measured_once_and_kept_in_the_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that is resumed ends as one that was not, whatever would be measured now."""
        training, validation = CubeSet([CUBES]), CubeSet([cubes_of(3, seed=9)])
        whole = fit(training, validation, self.CONFIG, LocalStorage(tmp_path / "whole"))
        with pytest.raises(StoppedError):
            fit(training, validation, self.CONFIG, LocalStorage(tmp_path / "part"), stopping_at(2))
        monkeypatch.setattr(trainer, "measure_channel_weights", lambda _: (1.0, 2.0, 3.0))
        resumed = fit(training, validation, self.CONFIG, LocalStorage(tmp_path / "part"))
        assert resumed.progress == whole.progress
        assert whole.progress.channel_weights == measure_channel_weights(training)
        assert bits(resumed.model.state_dict()) == bits(whole.model.state_dict())

    def test_and_they_weigh_what_is_trained_and_validated(self, tmp_path: Path) -> None:
        training, validation = CubeSet([CUBES]), CubeSet([CUBES])
        plain, weighted = (
            fit(training, validation, config, LocalStorage(tmp_path / name)).progress.history
            for name, config in (("plain", small_config()), ("weighted", self.CONFIG))
        )
        assert weighted[0].train_loss != plain[0].train_loss
        for one in weighted:  # of these cubes, all of which are trained with, loss and explained variance say the same
            variance = CUBES[:, :3].astype("float64").var(axis=(0, 2, 3, 4)).mean()
            assert one.validation_loss == pytest.approx((1 - np.mean(one.explained_by_channel)) * variance, rel=1e-4)
