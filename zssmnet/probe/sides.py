"""Which cases are tested, tuned on and learnt from: patients are never on two sides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from zssmnet.config import ProbeConfig
from zssmnet.data.archive import shortened
from zssmnet.errors import InputError
from zssmnet.probe.labels import LabelledCase


@dataclass(frozen=True)
class Sides:
    """The cases by what they are for.

    Attributes:
        test: never learnt from, by no weights and no arm.
        tuning: on which learning rates are chosen.
        pool: from which labelled cases are drawn.
    """

    test: tuple[LabelledCase, ...]
    tuning: tuple[LabelledCase, ...]
    pool: tuple[LabelledCase, ...]

    def labelled(self, count: int, seed: int) -> list[LabelledCase]:
        """So many labelled cases of a seed; those of a smaller count are among those of a larger one."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.pool))
        return [self.pool[number] for number in order[:count]]


def choose_sides(cases: Sequence[LabelledCase], trained_patients: Iterable[str], config: ProbeConfig) -> Sides:
    """Divide the cases, by patient; those whose patients the weights were trained with are never tested.

    Raises:
        InputError: too few cases.
    """
    trained = set(trained_patients)
    patients = sorted({case.patient for case in cases})
    order = [patients[number] for number in np.random.default_rng(config.seed).permutation(len(patients))]
    order.sort(key=lambda patient: patient in trained)  # stable: untouched patients first
    by_patient = {patient: [case for case in cases if case.patient == patient] for patient in patients}
    needs = (config.test_cases, config.tuning_cases, max(config.labelled))
    sides: list[list[LabelledCase]] = [[], [], []]
    for patient in order:
        side = next((one for one in range(2) if len(sides[one]) < needs[one]), 2)
        if side == 0 and patient in trained:
            break
        sides[side] += by_patient[patient]
    test, tuning, pool = sides
    untouched = sum(len(by_patient[patient]) for patient in patients if patient not in trained)
    if len(test) < needs[0] or len(tuning) < needs[1] or len(pool) < needs[2]:
        raise InputError(
            f"{len(cases)} labelled cases, {untouched} of them unknown to the weights, are too few for {needs[0]} to "
            f"test, {needs[1]} to choose learning rates and {needs[2]} to learn from: add cases, or ask for fewer with "
            "--test-cases, --tuning-cases and --labelled"
        )
    if config.task == "lesions":
        _check_lesions("test", test)
        _check_lesions("tuning", tuning)
    return Sides(tuple(test), tuple(tuning), tuple(pool))


def _check_lesions(side: str, cases: Sequence[LabelledCase]) -> None:
    if cases and not any(case.label_ZYX.any() for case in cases):
        raise InputError(
            f"none of the {len(cases)} {side} cases ({shortened(case.id for case in cases)}) has a lesion near the "
            f"gland; choose other ones with --seed, or more with --{side}-cases"
        )
