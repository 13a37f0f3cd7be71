"""Trials: one arm, so many labelled cases, one seed. Each is published when it is done, and not done again."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ValidationError
from torch import Tensor

from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.probe.arms import Arm, build_network
from zssmnet.probe.figures import ENDPOINTS, case_figures, picai_figures
from zssmnet.probe.fine_tuning import CLASSES, fine_tune
from zssmnet.probe.floor import RULE, ridge_probabilities, rule_probabilities
from zssmnet.probe.labels import LabelledCase, Split
from zssmnet.storage import Storage
from zssmnet.training.precision import choose_device

TUNING_SEEDS = (5000, 5001)
Example = tuple[tuple[int, ...], ...]


class Evaluation(BaseModel, frozen=True):
    """The figures of each tested case after some steps; 0 steps for what needs no network."""

    step: int
    cases: dict[str, dict[str, float | None]]


class Trial(BaseModel, frozen=True):
    """The figures of an arm with so many labelled cases and one seed.

    Attributes:
        looks: at the test cases, by rising steps.
        example: classes (y, x) in the example slice after the last step; of one trial of each arm.
        picai: picai_eval's figures after the last step, see `picai_figures`.
    """

    arm: str
    labelled: int
    seed: int
    learning_rate: float
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
    """

    split: Split
    network: NetworkConfig
    config: ProbeConfig
    folder: Storage
    on_trial: Callable[[Trial], None]

    def tuned(self, arm: Arm) -> float:
        """The learning rate with which an arm does best on the tuning cases, by seeds that are not tested.

        By one seed alone, a rate with which every other training fails may win.
        """
        labelled, task = max(self.config.labelled), self.config.task
        rates = self.config.learning_rates
        if len(rates) == 1:
            return rates[0]

        def total(rate: float) -> float:
            trials = (self._trial(arm, labelled, seed, rate, self.split.tuning, "tuning") for seed in TUNING_SEEDS)
            return sum(one.mean(task) for one in trials)

        return max(rates, key=total)

    def tested(self, arm: Arm, labelled: int, seed: int, learning_rate: float) -> Trial:
        """An arm on the test cases."""
        return self._trial(arm, labelled, seed, learning_rate, self.split.test, "test")

    def floor(self, name: str, labelled: int, seed: int) -> Trial:
        """Ridge regression or rule on the test cases."""
        test, classes = self.split.test, CLASSES[self.config.task]
        if name == RULE:
            found = rule_probabilities(test)
        else:
            found = ridge_probabilities(self.split.labelled(labelled, seed), test, classes, seed)
        return self._evaluated(name, labelled, seed, 0.0, [(0, found)], test)

    def _trial(
        self, arm: Arm, labelled: int, seed: int, rate: float, cases: Sequence[LabelledCase], side: str
    ) -> Trial:
        name = re.sub(r"[\W_]", "_", arm.name)
        key = f"{side}/{name}-{labelled}-{seed}-{rate:g}.json"
        trial = self._known(key)
        if trial is None:
            device = choose_device(self.config.device)
            model = build_network(arm, seed, CLASSES[self.config.task], self.network, device)
            predictions = fine_tune(model, self.split.labelled(labelled, seed), cases, rate, seed, self.config)
            trial = self._evaluated(arm.name, labelled, seed, rate, predictions, cases)
            self.folder.publish_bytes(key, trial.model_dump_json().encode())
        self.on_trial(trial)
        return trial

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
        rate: float,
        predictions: Iterable[tuple[int, list[Tensor]]],
        cases: Sequence[LabelledCase],
    ) -> Trial:
        task, looks, last = self.config.task, list[Evaluation](), list[Tensor]()
        for step, last in predictions:
            figures = {
                case.id: dict(case_figures(task, found, case, self.config.scale.spacing_mm))
                for case, found in zip(cases, last, strict=True)
            }
            looks.append(Evaluation(step=step, cases=figures))
        is_shown = seed == 0 and labelled == max(self.config.labelled)
        return Trial(
            arm=name,
            labelled=labelled,
            seed=seed,
            learning_rate=rate,
            looks=tuple(looks),
            example=example_of(cases, [found.argmax(dim=0) for found in last]) if is_shown else None,
            picai=picai_figures(last, cases) if task == "lesions" else None,
        )


def example_of(cases: Sequence[LabelledCase], classes_ZYX: Sequence[Tensor]) -> Example:
    """Classes (y, x) in the slice that is shown: of all cases, where there is most to be found."""
    sizes = [case.label_ZYX.ne(0).sum(dim=(1, 2)) for case in cases]
    number = max(range(len(cases)), key=lambda one: int(sizes[one].max()))
    return tuple(tuple(row) for row in classes_ZYX[number][int(sizes[number].argmax())].tolist())
