import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.zssmnet.training.examples import CPU, WatchedCubes, bits, cubes_of, small_config
from zssmnet.config import CorruptionConfig, MaskingConfig
from zssmnet.corruption import sample_keys, swap_x_and_z
from zssmnet.errors import NonFiniteLossError
from zssmnet.training import epoch
from zssmnet.training import step as step_module
from zssmnet.training.batches import BATCHES_AHEAD, StreamedCubes
from zssmnet.training.dataset import CubeSet
from zssmnet.training.distributed import Group
from zssmnet.training.epoch import check_weights, train_epoch, validate, validation_batches
from zssmnet.training.loss import Restored, restoration_loss, restore
from zssmnet.training.step import Step

CORRUPTION = small_config().corruption
CUBES = cubes_of(7, size=(8, 6, 4))


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(6, 3, 3, padding=1)


def train(
    model: nn.Module,
    cubes: CubeSet,
    batch_size: int,
    generator: torch.Generator,
    on_step=lambda done, steps: None,
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return train_epoch(Step(model, CORRUPTION), optimizer, StreamedCubes(cubes, CPU), batch_size, generator, on_step)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class TestOrder:
    @pytest.mark.parametrize("batch_size", range(1, 8))
    def test_an_epoch_is_a_pass_that_drops_the_last_partial_batch(self, batch_size: int) -> None:
        cubes = WatchedCubes([CUBES[:3], CUBES[3:]])
        train(small_model(), cubes, batch_size, seed(0))
        assert [len(batch) for batch in cubes.taken] == [batch_size] * (7 // batch_size)
        seen = [number for batch in cubes.taken for number in batch]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(7))

    def test_orders_differ_between_epochs_and_seeds_and_equal_seeds_have_equal_ones(self) -> None:
        orders = {}
        for number in (0, 1, 0):
            cubes, generator = WatchedCubes([CUBES]), seed(number)
            for _ in range(2):
                train(small_model(), cubes, 1, generator)
            if number in orders:
                assert orders[number] == cubes.taken
            orders[number] = cubes.taken
        passes = [tuple(number for (number,) in taken[i : i + 7]) for taken in orders.values() for i in (0, 7)]
        assert all(sorted(one) == list(range(7)) for one in passes)
        assert len(set(passes)) == 4

    def test_every_cube_comes_first_in_some_epoch(self) -> None:
        cubes, generator, model = WatchedCubes([CUBES]), seed(0), small_model()
        for _ in range(60):  # each of the seven misses all of them with a chance of 1e-4
            train(model, cubes, 7, generator)
        assert {batch[0] for batch in cubes.taken} == set(range(7))

    def test_cubes_are_corrupted_anew_in_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        used: list[int] = []

        def watched(model: nn.Module, cubes: Tensor, keys: Tensor, *others: Any) -> Restored:
            used.extend(keys.tolist())
            return restore(model, cubes, keys, *others)

        monkeypatch.setattr(step_module, "restore", watched)
        generator = seed(0)
        for _ in range(3):
            train(small_model(), CubeSet([CUBES]), 2, generator)
        assert len(used) == len(set(used)) == 3 * 6


class TestStep:
    def test_is_sgd_with_momentum_and_without_weight_decay(self) -> None:
        """Against v <- 0.9 v + g, w <- w - 0.1 v, written down."""
        model = small_model()
        loss = train(model, CubeSet([CUBES]), 2, seed(5))

        expected, generator, losses = small_model(), seed(5), []
        order = torch.randperm(7, generator=generator)
        velocities = [torch.zeros_like(weight) for weight in expected.parameters()]
        for step in range(3):
            cubes = swap_x_and_z(torch.from_numpy(CUBES[order[2 * step : 2 * step + 2]]))
            value = restoration_loss(expected, cubes, sample_keys(2, generator), CORRUPTION)
            gradients = torch.autograd.grad(value, list(expected.parameters()))
            losses.append(value.item())
            with torch.no_grad():
                for weight, velocity, gradient in zip(expected.parameters(), velocities, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient)
                    weight.sub_(0.1 * velocity)
        for weight, other in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-7)
        assert loss == pytest.approx(np.mean(losses), rel=1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_the_cubes_number_type_does_not_matter(self, dtype: str) -> None:
        """Cubes of the published program are float64; all are trained in float32."""
        halves = CUBES.astype("float16")  # values that all types can hold
        runs = []
        for cubes in (WatchedCubes([halves.astype("float32")]), WatchedCubes([halves.astype(dtype)])):
            model = small_model()
            runs.append((train(model, cubes, 2, seed(0)), cubes.taken, bits(model.state_dict())))
        assert runs[0] == runs[1]

    def test_every_step_is_reported(self) -> None:
        steps = []
        train(small_model(), CubeSet([CUBES]), 1, seed(0), on_step=lambda *step: steps.append(step))
        assert steps == [(step, 7) for step in range(1, 8)]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_cube_that_is_not_finite_stops_training(self, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(epoch, "CHECK_EVERY", 2)
        bad = CUBES.copy()
        bad[:, 0, 2, 2, 2] = value
        cubes = WatchedCubes([bad])
        with pytest.raises(
            NonFiniteLossError, match=r"the loss is nan after step 2 of 7: training stops, the last che"
        ):
            train(small_model(), cubes, 1, seed(0))
        assert len(cubes.taken) <= 2 + BATCHES_AHEAD


@dataclass
class _OneAfterTheOther(Group):
    """Processes that compute in turn: the last one gets the sums of all."""

    sums: list[Tensor] = field(default_factory=list)

    def total(self, value: Tensor) -> Tensor:
        self.sums.append(value)
        return torch.stack(self.sums).sum(dim=0)


class TestValidation:
    def loss(self, batch_size: int = 2, seed: int = 0, cubes: np.ndarray = CUBES) -> float:
        return validate(Step(small_model(), CORRUPTION), StreamedCubes(CubeSet([cubes]), CPU), batch_size, seed).loss

    def test_is_the_same_every_time(self) -> None:
        first = self.loss()
        torch.manual_seed(99)
        torch.rand(7)
        assert self.loss() == first

    def test_another_seed_is_another_corruption(self) -> None:
        assert abs(self.loss(seed=1) / self.loss() - 1) > 1e-3

    @pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
    def test_does_not_depend_on_the_batch(self, batch_size: int) -> None:
        assert self.loss(batch_size) == pytest.approx(self.loss(), rel=1e-6)

    def test_is_the_mean_over_all_cubes_also_of_the_last_partial_batch(self) -> None:
        model, keys = small_model(), sample_keys(7, seed(0))
        cubes = swap_x_and_z(torch.from_numpy(CUBES))
        each = [restoration_loss(model, cubes[i : i + 1], keys[i : i + 1], CORRUPTION).item() for i in range(7)]
        for batch_size in (2, 3, 4, 7):
            assert self.loss(batch_size) == pytest.approx(np.mean(each), rel=1e-6)

    @pytest.mark.parametrize("processes", [1, 2, 3])
    @pytest.mark.parametrize("recipe", ["reference", "masked"])
    def test_filling_the_last_batch_up_changes_its_size_alone(self, recipe: str, processes: int) -> None:
        """7 cubes in batches of 5; a process that gets but cubes that do not count computes none."""
        corruption = CorruptionConfig(recipe=recipe, masking=MaskingConfig(block=(4, 4, 2)))
        found, sizes = [], []
        for fill in (False, True):
            seen, group, model = [], _OneAfterTheOther(size=processes), small_model()
            model.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(inputs[0])))
            for rank in range(processes):
                cubes = StreamedCubes(CubeSet([CUBES]), CPU)
                one = validate(Step(model, corruption), cubes, 5, 0, replace(group, rank=rank), fill=fill)
            found.append((one.loss, one.explained, *one.spread))
            sizes.append(sum(seen))
        assert found[1] == pytest.approx(found[0], rel=1e-6)
        assert sizes == [7, {1: 10, 2: 8, 3: 7}[processes]]

    def test_a_cube_is_corrupted_alike_whatever_comes_after_it(self) -> None:
        few = dict(_pairs(3, 2))
        many = dict(_pairs(7, 4))
        assert few.items() <= many.items()
        assert len(set(many.values())) == 7

    def test_changes_neither_weights_nor_gradients(self) -> None:
        model = small_model()
        before = bits(model.state_dict())
        validate(Step(model, CORRUPTION), StreamedCubes(CubeSet([CUBES]), CPU), 2, 0)
        assert bits(model.state_dict()) == before
        assert all(weight.grad is None for weight in model.parameters())

    def test_a_loss_that_is_not_finite_is_an_error(self) -> None:
        bad = CUBES.copy()
        bad[6] = math.nan
        with pytest.raises(NonFiniteLossError, match="the loss is nan in validation"):
            self.loss(cubes=bad)


class _Answers(nn.Module):
    """Answers the same constant of each channel to everything; T2W may vary by a little from voxel to voxel."""

    def __init__(self, answers: np.ndarray, variation: float = 0.0) -> None:
        super().__init__()
        self.logits = torch.from_numpy(np.log(answers / (1 - answers))).float()
        self.variation = variation

    def forward(self, images: Tensor) -> Tensor:
        answer = self.logits.view(1, 3, 1, 1, 1).expand(len(images), 3, *images.shape[2:]).clone()
        answer[:, 0, :, ::2] += self.variation
        return answer


class TestQuality:
    def quality(self, model: nn.Module, batch_size: int = 2) -> epoch.Validation:
        return validate(Step(model, CORRUPTION), StreamedCubes(CubeSet([CUBES]), CPU), batch_size, 0)

    def test_the_best_constants_explain_nothing_and_do_not_spread(self) -> None:
        best = CUBES[:, :3].mean(axis=(0, 2, 3, 4), dtype="float64")
        found = self.quality(_Answers(best))
        assert found.explained == pytest.approx(0, abs=1e-6)
        assert found.spread == pytest.approx((0, 0, 0), abs=1e-9)
        assert self.quality(_Answers(best + 0.05)).explained < -0.01

    def test_a_perfect_network_explains_all_and_spreads_as_the_images_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def perfect(model: nn.Module, cubes: Tensor, *_: object) -> Restored:
            return Restored(cubes[:, :3], cubes[:, :3], cubes[:, :3])

        monkeypatch.setattr(step_module, "restore", perfect)
        found = self.quality(small_model())
        assert (found.loss, found.explained) == (0, 1)
        assert found.spread == pytest.approx((1, 1, 1))

    def test_against_the_definition(self) -> None:
        model, keys = small_model(), sample_keys(7, seed(0))
        cubes = swap_x_and_z(torch.from_numpy(CUBES))
        shown = restore(model, cubes, keys, CORRUPTION)
        restored, target = (one.detach().double().numpy() for one in (shown.restored, shown.target))
        spreads = [one.std(axis=(2, 3, 4)).mean(axis=0) for one in (restored, target)]
        errors, variances = ((restored - target) ** 2).mean(axis=(0, 2, 3, 4)), target.var(axis=(0, 2, 3, 4))
        for batch_size in (1, 2, 7):
            found = self.quality(model, batch_size)
            assert found.explained == pytest.approx(1 - errors.mean() / variances.mean(), abs=1e-6)
            assert found.explained_by_channel == pytest.approx(tuple(1 - errors / variances), abs=1e-6)
            assert found.spread == pytest.approx(tuple(spreads[0] / spreads[1]), rel=1e-5)

    @pytest.mark.parametrize("voxels", ["all", "hidden"])
    def test_of_masked_cubes_the_hidden_voxels_alone_are_explained(self, voxels: str) -> None:
        """Whoever copies what is not hidden, and answers the best constant elsewhere, explains nothing."""

        class Copies(_Answers):
            def forward(self, images: Tensor) -> Tensor:
                seen = images[:, :3]
                return torch.where(seen < 0, super().forward(images), torch.logit(seen, eps=1e-6))

        masked = CorruptionConfig(recipe="masked", masking=MaskingConfig(ratio=0.5, block=(1, 1, 1), loss=voxels))
        cubes = cubes_of(40, size=(8, 6, 4))
        model = Copies(cubes[:, :3].mean(axis=(0, 2, 3, 4), dtype="float64"))
        found = validate(Step(model, masked), StreamedCubes(CubeSet([cubes]), CPU), 4, 0)
        variance = cubes[:, :3].var(axis=(0, 2, 3, 4), dtype="float64").mean()
        assert found.explained == pytest.approx(0, abs=0.03)
        assert found.explained_by_channel == pytest.approx((0, 0, 0), abs=0.1)
        assert found.loss == pytest.approx(variance * (1.0 if voxels == "hidden" else 0.5), rel=0.05)

    def test_one_collapsed_channel_is_told_apart(self) -> None:
        t2w, adc, dwi = self.quality(_Answers(np.full(3, 0.5), variation=1.0)).spread
        assert t2w > 0.1
        assert adc == dwi == 0

    def test_a_channel_whose_images_are_constant_is_not_blamed(self) -> None:
        cubes = CUBES.copy()
        cubes[:, 1] = 0.25
        found = validate(Step(_Answers(np.full(3, 0.5)), CORRUPTION), StreamedCubes(CubeSet([cubes]), CPU), 2, 0)
        assert found.spread == (0, 1, 0)


class TestWeights:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_that_are_not_finite(self, value: float) -> None:
        model = small_model()
        check_weights(model)
        with torch.no_grad():
            model.bias[1] = value
        with pytest.raises(NonFiniteLossError, match=r"^1 of 2 tensors of weights are not finite .*; try a smaller le"):
            check_weights(model)


def _pairs(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Number and key of each validation cube."""
    batches = validation_batches(count, batch_size, 0)
    return [pair for indices, keys in batches for pair in zip(indices.tolist(), keys.tolist(), strict=True)]


def test_nothing_is_drawn_from_the_global_generators() -> None:
    model = small_model()
    before = torch.get_rng_state()
    train(model, CubeSet([CUBES]), 2, seed(0))
    validate(Step(model, CORRUPTION), StreamedCubes(CubeSet([CUBES]), CPU), 2, 0)
    assert torch.equal(torch.get_rng_state(), before)


class _Valueless:
    """Cubes on PyTorch's device ``meta``, which has no values: whoever looks at one has an error."""

    device = torch.device("meta")

    def __len__(self) -> int:
        return len(CUBES)

    def batches(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        return (swap_x_and_z(torch.empty(len(some), *CUBES.shape[1:], device=self.device)) for some in numbers)


def test_between_two_looks_at_the_loss_nobody_waits_for_the_device() -> None:
    model, done = small_model().to("meta"), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.register_step_post_hook(lambda *_: done.append(1))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        train_epoch(Step(model, CORRUPTION), optimizer, _Valueless(), 1, seed(0), lambda *_: None)
    assert len(done) == 7  # all steps; the look at their end failed


def test_of_constant_images_nothing_is_explained() -> None:
    cubes = CubeSet([np.full((2, 4, 16, 16, 4), 0.5, dtype="float32")])
    found = validate(Step(small_model(), CORRUPTION), StreamedCubes(cubes, CPU), 2, 0)
    assert (found.explained, found.spread) == (0.0, (1.0, 1.0, 1.0))
    assert found.explained_by_channel == (0.0, 0.0, 0.0)
