"""The probe's result: comparisons and verdicts, as figures and as sentences."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from pydantic import BaseModel

from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.probe.arms import AGAIN, SCRATCH, permuted_name
from zssmnet.probe.figures import ENDPOINT_NAMES, auroc
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.statistics import Difference, holm, paired_difference, verdict
from zssmnet.probe.trials import Example, Trial


class ProbedWeights(BaseModel, frozen=True):
    """Weights that were probed.

    Attributes:
        explained: explained variance of each training that recorded it.
        trained_cases: number of cases that they were trained with; None where a file has no record.
    """

    name: str
    sha256: tuple[str, ...]
    recipe: str | None = None
    explained: tuple[float, ...] = ()
    trained_cases: int | None = None


class Comparison(BaseModel, frozen=True):
    """Two arms, compared by the endpoint; ``adjusted_p`` by Holm's correction, where it belongs to a family."""

    first: str
    second: str
    difference: Difference
    adjusted_p: float | None = None


class Verdict(BaseModel, frozen=True):
    """Whether weights help."""

    weights: str
    verdict: str
    sentence: str


class ProbeResult(BaseModel, frozen=True):
    """Everything that a probe found.

    Attributes:
        learning_rates: of each arm, chosen on the tuning cases.
        control: scratch from another initial seed against scratch: its interval should contain 0. Weights are
            compared with the mean of both, so that a control that fails by coincidence does not favour them.
        truth: what there is to be found in the example slice.
    """

    verdict: str
    task: str
    endpoint: str
    config: ProbeConfig
    network: NetworkConfig
    weights: tuple[ProbedWeights, ...]
    test_cases: tuple[str, ...]
    learning_rates: dict[str, float]
    trials: tuple[Trial, ...]
    comparisons: tuple[Comparison, ...]
    control: Comparison
    verdicts: tuple[Verdict, ...]
    truth: Example | None = None

    def arms(self) -> list[str]:
        """Names of all arms."""
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    def trials_of(self, arm: str, labelled: int | None = None) -> list[Trial]:
        """The trials of an arm, of one number of labelled cases or of all."""
        return [one for one in self.trials if one.arm == arm and labelled in (None, one.labelled)]


def judge(
    trials: Sequence[Trial],
    rates: dict[str, float],
    weights: Sequence[ProbedWeights],
    test_cases: Sequence[str],
    network: NetworkConfig,
    config: ProbeConfig,
) -> ProbeResult:
    """Compare all arms by the endpoint: after the last step, averaged over the numbers of labelled cases."""
    figures = {arm: endpoint_SC(trials, arm, config) for arm in dict.fromkeys(trial.arm for trial in trials)}

    def compare(first: str, second: str) -> Comparison:
        return Comparison(first=first, second=second, difference=paired_difference(figures[first], figures[second]))

    control = compare(AGAIN, SCRATCH)
    figures[SCRATCH] = (figures[SCRATCH] + figures[AGAIN]) / 2
    floor = max((name for name in (RIDGE, RULE) if name in figures), key=lambda name: float(figures[name].mean()))
    names = [one.name for one in weights]
    against_scratch = _adjusted([compare(name, SCRATCH) for name in names])
    against_permuted = [compare(name, permuted_name(name)) for name in names]
    against_floor = [compare(name, floor) for name in names]
    verdicts = tuple(map(partial(_verdict, control), against_scratch, against_permuted, against_floor))
    between = [compare(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    summary = "; ".join(f"{one.weights}: {one.verdict}" for one in verdicts)
    if control.difference.excludes_zero:
        summary += "; scratch differs from scratch: take more seeds or steps"
    return ProbeResult(
        verdict=summary,
        task=config.task,
        endpoint=ENDPOINT_NAMES[config.task],
        config=config,
        network=network,
        weights=tuple(weights),
        test_cases=tuple(test_cases),
        learning_rates=rates,
        trials=tuple(trials),
        comparisons=(
            *against_scratch,
            *against_permuted,
            *against_floor,
            compare(SCRATCH, floor),
            *_adjusted(between),
        ),
        control=control,
        verdicts=verdicts,
    )


def _verdict(control: Comparison, scratch: Comparison, permuted: Comparison, floor: Comparison) -> Verdict:
    word, reason = "not shown", "the control failed: scratch differs from scratch"
    if not control.difference.excludes_zero and scratch.adjusted_p is not None:
        word, reason = verdict(scratch.difference, scratch.adjusted_p, permuted.difference, floor.difference)
    return Verdict(weights=scratch.first, verdict=word, sentence=_sentence(scratch, word, reason))


def _adjusted(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p values after Holm's correction."""
    adjusted = holm([one.difference.p for one in family])
    return [one.model_copy(update={"adjusted_p": p}) for one, p in zip(family, adjusted, strict=True)]


def case_auroc(trials: Sequence[Trial]) -> float | None:
    """Area under the ROC curve of cases with and without a lesion at the last step, averaged over trials."""
    each = []
    for trial in trials:
        cases = [one for one in trial.looks[-1].cases.values() if "score" in one]
        each.append(auroc([one["score"] or 0.0 for one in cases], [bool(one["has_lesion"]) for one in cases]))
    return mean_of(each)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None if none is."""
    known = [one for one in values if one is not None]
    return float(np.mean(known)) if known else None


def endpoint_SC(trials: Sequence[Trial], arm: str, config: ProbeConfig) -> np.ndarray:  # noqa: N802  (axes)
    """The endpoint of an arm, axes (seed, case), averaged over the numbers of labelled cases."""
    rows = []
    for seed in range(config.seeds):
        each = [one.endpoint(config.task) for one in trials if (one.arm, one.seed) == (arm, seed)]
        rows.append([np.mean([one[case_id] for one in each]) for case_id in each[0]])
    return np.array(rows)


def _sentence(comparison: Comparison, word: str, reason: str) -> str:
    found = comparison.difference
    more = (
        f"half of that would need {found.seeds_for_half} seeds"
        if found.seeds_for_half
        else "half of that would need more test cases"
    )
    return (
        f"{comparison.first}: {word} ({reason}): {found.mean:+.3f} against scratch, 95 % interval {found.low:+.3f} to "
        f"{found.high:+.3f}. Detectable at 80 % power: {found.detectable:.3f}; {more}."
    )
