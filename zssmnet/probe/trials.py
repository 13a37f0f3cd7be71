"""Trials: one arm, so many labelled cases, one seed. Each is published when it is done, and not done again.

Its file is named after everything that decides its figures: more seeds or other weights add trials, other settings make
them anew.
"""

import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from zssmnet.config import NetworkConfig, ProbeConfig, TrainingConfig
from zssmnet.errors import NonFiniteLossError
from zssmnet.finetuning.fit import FineTuner
from zssmnet.finetuning.windows import predict
from zssmnet.probe.arms import Arm, build_network
from zssmnet.probe.figures import ENDPOINTS, CaseFigures, case_figures, without_lesion
from zssmnet.probe.floor import RULE, ridge_probabilities, rule_probabilities
from zssmnet.probe.labels import TUNING_SEEDS, LabelledCase, Split
from zssmnet.storage import Storage
from zssmnet.training.precision import choose_device

METHOD = 3
"""Raised whenever the same cases, weights and settings would give other figures."""
CLASSES = {"lesions": 2, "zones": 3}
_DRAWS = 20_000
FINALISTS = 3
"""Candidates of which more than one seed is tried: the best of the first."""
Example = tuple[tuple[int, ...], ...]
ItemT = TypeVar("ItemT")


class LearningRate(BaseModel, frozen=True):
    """That of the body, and by how much faster the new heads learn."""

    body: float
    head_factor: float

    def __str__(self) -> str:
        return f"{self.body:g}" + (f", heads x {self.head_factor:g}" if self.head_factor != 1 else "")


class Trial(BaseModel, frozen=True):
    """The figures of an arm with so many labelled cases and one seed.

    Attributes:
        rate: None for what needs no network.
        cases: the figures of each tested case.
        example: classes (y, x) in the example slice; of one trial of each arm.
    """

    arm: str
    labelled: int
    seed: int
    rate: LearningRate | None
    cases: dict[str, CaseFigures]
    example: Example | None = None

    def endpoint(self, task: str) -> dict[str, float]:
        """The endpoint's figure of each tested case that has one."""
        figures = {case_id: one[ENDPOINTS[task]] for case_id, one in self.cases.items()}
        return {case_id: value for case_id, value in figures.items() if value is not None}

    def mean(self, task: str) -> float:
        """The endpoint, averaged over the tested cases."""
        return float(np.mean(list(self.endpoint(task).values())))


@dataclass(frozen=True)
class Trials:
    """The shared state of a probe's trials, and how to run one.

    Attributes:
        folder: where trials are published.
        on_trial: called with a trial when it is done, or found done.
        shown: number of the test case whose example is kept.
    """

    split: Split
    network: NetworkConfig
    config: ProbeConfig
    folder: Storage
    on_trial: Callable[[Trial], None]
    shown: int = 0

    @property
    def many(self) -> int:
        """Number of labelled cases of the arm with many of them; 0 if there are not more than the other arms take."""
        many = min(self.config.many_labelled, len(self.split.pool))
        return many if many > self.config.labelled else 0

    def candidates(self) -> list[LearningRate]:
        """Learning rates from which that of an arm is tuned."""
        pairs = itertools.product(self.config.learning_rates, self.config.head_factors)
        return [LearningRate(body=rate, head_factor=factor) for rate, factor in pairs]

    def tuned(self, arm: Arm) -> LearningRate:
        """The learning rate with which an arm does best on the tuning cases, by seeds that are not tested.

        The best by the first seed are tried with the others as well; their mean decides.
        """
        candidates = self.candidates()
        if len(candidates) == 1:
            return candidates[0]

        def figure(rate: LearningRate, seed: int) -> float:
            try:
                return self.trial(arm, self.config.labelled, rate, seed, "tuning").mean(self.config.task)
            except NonFiniteLossError:
                return -np.inf

        first = {rate: figure(rate, -1) for rate in shuffled(candidates)}
        best = sorted(candidates, key=lambda rate: -first[rate])[:FINALISTS]
        means = {rate: first[rate] + sum(figure(rate, -seed) for seed in range(2, TUNING_SEEDS + 1)) for rate in best}
        return max(best, key=lambda rate: means[rate])

    def floor(self, name: str, seed: int) -> Trial:
        """Ridge regression or rule on the test cases."""
        test, labelled, classes = self.split.test, self.config.labelled, CLASSES[self.config.task]
        if name == RULE:
            found = rule_probabilities(test)
        else:
            found = ridge_probabilities(self.split.labelled(labelled, seed), test, classes, seed)
        return self._evaluated(name, labelled, seed, None, found, test)

    def trial(
        self, arm: Arm, labelled: int, rate: LearningRate, seed: int, side: Literal["test", "tuning"] = "test"
    ) -> Trial:
        """An arm on the cases of a side."""
        cases = self.split.test if side == "test" else self.split.tuning
        learning, config = self.split.labelled(labelled, seed), self.config
        decisive = (
            METHOD,
            (config.task, config.scale.model_dump(), config.steps, self.network.model_dump(), self.shown),
            (arm.kind, arm.sha256[seed % len(arm.sha256)] if arm.weights else "", seed, rate.model_dump()),
            ([one.digest for one in learning], [one.digest for one in cases]),
        )
        name, digest = re.sub(r"[\W_]+", "_", arm.name), hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
        key = f"{side}/{name}-{labelled}-{seed}-{digest}.json"
        trial = None
        if self.folder.stat(key) is not None:
            with suppress(ValidationError):  # of another version
                trial = Trial.model_validate_json(self.folder.read(key))
        if trial is None:
            model = build_network(arm, seed, CLASSES[config.task], self.network, choose_device(config.device))
            found = fine_tune(model, learning, cases, rate.body, seed, config, rate.head_factor)
            trial = self._evaluated(arm.name, labelled, seed, rate, found, cases)
            self.folder.publish_bytes(key, trial.model_dump_json().encode())
        self.on_trial(trial)
        return trial

    def _evaluated(
        self,
        name: str,
        labelled: int,
        seed: int,
        rate: LearningRate | None,
        found: Sequence[Tensor],
        cases: Sequence[LabelledCase],
    ) -> Trial:
        task, spacing_mm = self.config.task, self.config.scale.spacing_mm
        healthy = without_lesion(cases) if task == "lesions" else {}
        figures = {
            case.id: case_figures(task, one, case, spacing_mm, [found[other] for other in healthy.get(number, ())])
            for number, (case, one) in enumerate(zip(cases, found, strict=True))
        }
        is_shown = seed == 0 and cases is self.split.test
        example = example_of(cases[self.shown], found[self.shown].argmax(dim=0)) if is_shown else None
        return Trial(arm=name, labelled=labelled, seed=seed, rate=rate, cases=figures, example=example)


def fine_tune(
    model: nn.Module,
    labelled: Sequence[LabelledCase],
    cases: Sequence[LabelledCase],
    learning_rate: float,
    seed: int,
    config: ProbeConfig,
    head_factor: float = 1.0,
) -> list[Tensor]:
    """Train, with AdamW, a warm-up and a cosine over all steps; class probabilities (K, Z, Y, X) of each of the cases.

    Windows, their order and their flips follow from the seed alone: all arms see the same.

    Args:
        head_factor: by how much faster new heads learn than the rest.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    scale = config.scale
    recipe = TrainingConfig(
        epochs=config.steps,  # of one step each
        batch_size=scale.batch_size,
        learning_rate=learning_rate,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warm_up_epochs=max(1, config.steps // 5),
    )
    classes, seed = CLASSES[config.task], _DRAWS + seed
    tuner = FineTuner(model, labelled, classes, recipe, scale.window, seed, head_factor=head_factor)
    losses = [tuner.epoch() for _ in range(config.steps)]
    tuner.checked(losses[-1])
    with tuner.computing():
        return predict(tuner.network, [case.input_CZYX for case in cases], scale.window, scale.batch_size)


def shuffled(work: Sequence[ItemT]) -> list[ItemT]:
    """In another order in each process: those that probe into one folder share the trials."""
    return random.Random(os.getpid()).sample(work, len(work))


def example_of(case: LabelledCase, values_ZYX: Tensor) -> Example:
    """Values (y, x) in the slice of a case where there is most to be found."""
    number = int(case.label_ZYX.ne(0).sum(dim=(1, 2)).argmax())
    return tuple(tuple(row) for row in values_ZYX[number].tolist())
