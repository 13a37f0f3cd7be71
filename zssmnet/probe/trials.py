"""Trials: one arm, so many labelled cases, one seed. Each is published when it is done, and not done again.

Its file is named after everything that decides its figures: more seeds or other weights add trials, other settings make
them anew.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ValidationError
from torch import Tensor

from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.errors import NonFiniteLossError
from zssmnet.probe.arms import Arm, build_network
from zssmnet.probe.figures import ENDPOINTS, case_figures, picai_figures, without_lesion
from zssmnet.probe.fine_tuning import CLASSES, fine_tune
from zssmnet.probe.floor import RULE, ridge_probabilities, rule_probabilities
from zssmnet.probe.labels import TUNING_SEEDS, LabelledCase, Split
from zssmnet.storage import Storage
from zssmnet.training.precision import choose_device

METHOD = 3
"""Raised whenever the same cases, weights and settings would give other figures."""
FINALISTS = 3
"""Candidates of which more than one seed is tried: the best of the first."""
Example = tuple[tuple[int, ...], ...]


class LearningRate(BaseModel, frozen=True):
    """That of the body, and by how much faster the new heads learn."""

    body: float
    head_factor: float

    def __str__(self) -> str:
        return f"{self.body:g}" + (f", heads x {self.head_factor:g}" if self.head_factor != 1 else "")


class Evaluation(BaseModel, frozen=True):
    """The figures of each tested case after some steps; 0 steps for what needs no network."""

    step: int
    cases: dict[str, dict[str, float | None]]


class Trial(BaseModel, frozen=True):
    """The figures of an arm with so many labelled cases and one seed.

    Attributes:
        rate: None for what needs no network.
        looks: at the test cases, by rising steps.
        example: classes (y, x) in the example slice after the last step; of one trial of each arm.
        picai: picai_eval's figures after the last step, see `picai_figures`.
    """

    arm: str
    labelled: int
    seed: int
    rate: LearningRate | None
    looks: tuple[Evaluation, ...]
    example: Example | None = None
    picai: dict[str, float | None] | None = None

    def endpoint(self, task: str, look: int = -1) -> dict[str, float]:
        """The endpoint's figure of each tested case that has one."""
        figures = {case_id: one[ENDPOINTS[task]] for case_id, one in self.looks[look].cases.items()}
        return {case_id: value for case_id, value in figures.items() if value is not None}

    def mean(self, task: str, look: int = -1) -> float:
        """The endpoint, averaged over the tested cases."""
        return float(np.mean(list(self.endpoint(task, look).values())))


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
                trial = self._trial(arm, max(self.config.labelled), seed, rate, self.split.tuning, "tuning")
            except NonFiniteLossError:
                return -np.inf
            return trial.mean(self.config.task)

        first = {rate: figure(rate, -1) for rate in candidates}
        best = sorted(candidates, key=lambda rate: -first[rate])[:FINALISTS]
        means = {rate: first[rate] + sum(figure(rate, -seed) for seed in range(2, TUNING_SEEDS + 1)) for rate in best}
        return max(best, key=lambda rate: means[rate])

    def tested(self, arm: Arm, labelled: int, seed: int, rate: LearningRate) -> Trial:
        """An arm on the test cases."""
        return self._trial(arm, labelled, seed, rate, self.split.test, "test")

    def floor(self, name: str, labelled: int, seed: int) -> Trial:
        """Ridge regression or rule on the test cases."""
        test, classes = self.split.test, CLASSES[self.config.task]
        if name == RULE:
            found = rule_probabilities(test)
        else:
            found = ridge_probabilities(self.split.labelled(labelled, seed), test, classes, seed)
        return self._evaluated(name, labelled, seed, None, [(0, found)], test)

    def _trial(
        self, arm: Arm, labelled: int, seed: int, rate: LearningRate, cases: Sequence[LabelledCase], side: str
    ) -> Trial:
        learning, config = self.split.labelled(labelled, seed), self.config
        name, digest = re.sub(r"[\W_]+", "_", arm.name), self._digest(arm, seed, rate, learning, cases)
        key = f"{side}/{name}-{labelled}-{seed}-{digest}.json"
        trial = self._known(key)
        if trial is None:
            model = build_network(arm, seed, CLASSES[config.task], self.network, choose_device(config.device))
            predictions = fine_tune(model, learning, cases, rate.body, seed, config, rate.head_factor)
            trial = self._evaluated(arm.name, labelled, seed, rate, predictions, cases)
            self.folder.publish_bytes(key, trial.model_dump_json().encode())
        self.on_trial(trial)
        return trial

    def _digest(
        self,
        arm: Arm,
        seed: int,
        rate: LearningRate,
        learning: Sequence[LabelledCase],
        cases: Sequence[LabelledCase],
    ) -> str:
        """12 hex digits of everything that decides a trial's figures."""
        decisive = (
            METHOD,
            (self.config.task, self.config.scale.model_dump(), self.config.looks, self.network.model_dump()),
            (arm.kind, arm.sha256[seed % len(arm.sha256)] if arm.weights else ""),
            (seed, rate.model_dump(), self.shown),
            ([one.digest for one in learning], [one.digest for one in cases]),
        )
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]

    def _known(self, key: str) -> Trial | None:
        if self.folder.stat(key) is None:
            return None
        try:
            return Trial.model_validate_json(self.folder.read(key))
        except ValidationError:
            return None  # of another version

    def _evaluated(
        self,
        name: str,
        labelled: int,
        seed: int,
        rate: LearningRate | None,
        predictions: Iterable[tuple[int, list[Tensor]]],
        cases: Sequence[LabelledCase],
    ) -> Trial:
        task, looks, last = self.config.task, list[Evaluation](), list[Tensor]()
        healthy = without_lesion(cases) if task == "lesions" else {}
        for step, last in predictions:
            figures = {
                case.id: dict(
                    case_figures(
                        task, found, case, self.config.scale.spacing_mm, [last[one] for one in healthy.get(number, ())]
                    )
                )
                for number, (case, found) in enumerate(zip(cases, last, strict=True))
            }
            looks.append(Evaluation(step=step, cases=figures))
        is_shown = seed == 0 and cases is self.split.test
        return Trial(
            arm=name,
            labelled=labelled,
            seed=seed,
            rate=rate,
            looks=tuple(looks),
            example=example_of(cases[self.shown], last[self.shown].argmax(dim=0)) if is_shown else None,
            picai=picai_figures(last, cases) if task == "lesions" and cases is self.split.test else None,
        )


def example_of(case: LabelledCase, values_ZYX: Tensor) -> Example:
    """Values (y, x) in the slice of a case where there is most to be found."""
    number = int(case.label_ZYX.ne(0).sum(dim=(1, 2)).argmax())
    return tuple(tuple(row) for row in values_ZYX[number].tolist())
