"""Trials: one arm, so many labelled cases, one seed. Each is published when it is done, and not done again."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ValidationError
from torch import Tensor

from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.probe.arms import RULE, Arm, build_network, ridge_probabilities, rule_probabilities
from zssmnet.probe.figures import ENDPOINTS, case_figures, picai_figures
from zssmnet.probe.fine_tuning import CLASSES, Look, fine_tune
from zssmnet.probe.labels import LabelledCase, Sides
from zssmnet.storage import Storage
from zssmnet.training.precision import choose_device

TUNING_SEEDS = (5000, 5001)
Example = tuple[tuple[int, ...], ...]


class LookFigures(BaseModel, frozen=True):
    """The figures of each tested case after some steps; 0 steps for what needs no network."""

    step: int
    cases: dict[str, dict[str, float | None]]


class Trial(BaseModel, frozen=True):
    """What came of an arm with so many labelled cases and one seed.

    Attributes:
        example: classes (y, x) in the example slice after the last step; of one trial of each arm.
        picai: picai_eval's figures after the last step, see `picai_figures`.
    """

    arm: str
    labelled: int
    seed: int
    learning_rate: float
    looks: tuple[LookFigures, ...]
    example: Example | None = None
    picai: dict[str, float | None] | None = None

    def endpoint(self, task: str, look: int = -1) -> dict[str, float]:
        """The endpoint's figure of each tested case that has one."""
        figures = {case_id: one[ENDPOINTS[task]] for case_id, one in self.looks[look].cases.items()}
        return {case_id: value for case_id, value in figures.items() if value is not None}

    def mean(self, task: str, look: int = -1) -> float:
        """The endpoint, meaned over the tested cases."""
        return float(np.mean(list(self.endpoint(task, look).values())))


@dataclass(frozen=True)
class Bench:
    """What all trials of a probe share.

    Attributes:
        folder: where trials are published.
        on_trial: called with a trial when it is done, or found done.
    """

    sides: Sides
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

        def mean(rate: float) -> float:
            trials = [self._trial(arm, labelled, seed, rate, self.sides.tuning, "tuning") for seed in TUNING_SEEDS]
            return sum(one.mean(task) for one in trials)

        return max(rates, key=mean)

    def tested(self, arm: Arm, labelled: int, seed: int, learning_rate: float) -> Trial:
        """An arm on the test cases."""
        return self._trial(arm, labelled, seed, learning_rate, self.sides.test, "test")

    def floor(self, name: str, labelled: int, seed: int) -> Trial:
        """Ridge regression or rule on the test cases."""
        test, classes = self.sides.test, CLASSES[self.config.task]
        if name == RULE:
            found = rule_probabilities(test)
        else:
            found = ridge_probabilities(self.sides.labelled(labelled, seed), test, classes, seed)
        return self._trial_of(name, labelled, seed, 0.0, [Look(0, found)], test)

    def _trial(
        self, arm: Arm, labelled: int, seed: int, rate: float, cases: Sequence[LabelledCase], side: str
    ) -> Trial:
        name = re.sub(r"[\W_]", "_", arm.name)
        key = f"{side}/{name}-{labelled}-{seed}-{rate:g}.json"
        if known := self._known(key):
            self.on_trial(known)
            return known
        device = choose_device(self.config.device)
        model = build_network(arm, seed, CLASSES[self.config.task], self.network, device)
        learning = self.sides.labelled(labelled, seed)
        looks = list(fine_tune(model, learning, cases, rate, seed, self.config))
        trial = self._trial_of(arm.name, labelled, seed, rate, looks, cases)
        self.folder.publish_bytes(key, trial.model_dump_json().encode())
        self.on_trial(trial)
        return trial

    def _trial_of(
        self, name: str, labelled: int, seed: int, rate: float, looks: Sequence[Look], cases: Sequence[LabelledCase]
    ) -> Trial:
        task, spacing = self.config.task, self.config.scale.spacing_mm
        figures = tuple(
            LookFigures(
                step=look.step,
                cases={
                    case.id: dict(case_figures(task, found, case, spacing))
                    for case, found in zip(cases, look.probabilities, strict=True)
                },
            )
            for look in looks
        )
        is_shown = seed == 0 and labelled == max(self.config.labelled)
        classes = [found.argmax(dim=0) for found in looks[-1].probabilities]
        example = example_of(cases, classes) if is_shown else None
        picai = picai_figures(looks[-1].probabilities, cases) if task == "lesions" else None
        return Trial(
            arm=name, labelled=labelled, seed=seed, learning_rate=rate, looks=figures, example=example, picai=picai
        )

    def _known(self, key: str) -> Trial | None:
        if self.folder.stat(key) is None:
            return None
        try:
            return Trial.model_validate_json(self.folder.read(key))
        except ValidationError:
            return None  # of another version


def example_of(cases: Sequence[LabelledCase], classes_ZYX: Sequence[Tensor]) -> Example:
    """Classes (y, x) in the slice that is shown: of all cases, where there is most to be found."""
    sizes = [case.label_ZYX.ne(0).sum(dim=(1, 2)) for case in cases]
    number = max(range(len(cases)), key=lambda one: int(sizes[one].max()))
    return tuple(tuple(row) for row in classes_ZYX[number][int(sizes[number].argmax())].tolist())
