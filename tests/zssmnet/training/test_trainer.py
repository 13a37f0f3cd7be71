"""What a trainer does with the network, and batches that do not fit into a device's memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zssmnet.training.examples import CPU, cubes_of, small_config
from zssmnet.errors import OutOfMemoryError
from zssmnet.mnet import MNet
from zssmnet.storage import LocalStorage
from zssmnet.training import fit
from zssmnet.training.dataset import CubeSet
from zssmnet.training.trainer import Trainer, initial_state, largest_batch

TRAINING, VALIDATION = CubeSet([cubes_of(5)]), CubeSet([cubes_of(3, seed=9)])


def test_training_and_validation_each_have_their_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = set(), MNet.forward

    def watched(model: MNet, x: torch.Tensor) -> Any:
        seen.add((torch.is_grad_enabled(), model.training))
        return forward(model, x)

    monkeypatch.setattr(MNet, "forward", watched)
    config = small_config()
    trained = Trainer(initial_state(config, CPU), TRAINING, VALIDATION, config)
    trained.epoch()
    trained.epoch()
    assert seen == {(True, True), (False, False)}


class TestMemory:
    @pytest.mark.parametrize("below", [1, 2, 3, 24, 100])
    def test_the_largest_batch_that_fits_is_found_with_few_tries(self, below: int) -> None:
        for largest in range(below):
            tried: list[int] = []

            def fits(batch: int, largest: int = largest, tried: list[int] = tried) -> bool:
                tried.append(batch)
                return batch <= largest

            assert largest_batch(fits, below) == largest
            assert len(tried) <= below.bit_length()
            assert below not in tried

    @pytest.mark.parametrize(
        ("most", "advice"),
        [
            (3, "3 at a time would: choose --accumulate 2"),
            (1, "1 at a time would: choose --accumulate 5"),
            (0, "nor does one cube"),
        ],
    )
    def test_an_error_names_the_batch_that_would_fit(
        self, most: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward = MNet.forward

        def on_a_small_device(model: MNet, x: torch.Tensor):
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, x)

        monkeypatch.setattr(MNet, "forward", on_a_small_device)
        with pytest.raises(OutOfMemoryError) as caught:
            fit.fit(TRAINING, VALIDATION, small_config(batch_size=5), LocalStorage(tmp_path))
        assert not torch.backends.cudnn.benchmark  # as it was before
        assert str(caught.value).startswith(f"a batch of 5 cubes does not fit into the memory of cpu; {advice}")
        assert not list(tmp_path.iterdir())
