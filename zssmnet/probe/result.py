"""The probe's result: comparisons, what the gate says of them, and verdicts, as figures and as sentences."""

import itertools
from collections.abc import Callable, Container, Iterable, Sequence

import numpy as np
from pydantic import BaseModel

from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.probe.arms import AGAIN, MANY, POSITIVE, SCRATCH, permuted_name
from zssmnet.probe.figures import ENDPOINT_NAMES, auroc
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.statistics import Difference, detectable_gain, holm, paired_difference, share_of, verdict
from zssmnet.probe.trials import Example, LearningRate, Trial


class ProbedWeights(BaseModel, frozen=True):
    """Weights that were probed.

    Attributes:
        explained: explained variance of each training that recorded it.
        trained_cases: number of cases that they were trained with; None where a file has no record.
        knows_blank_zones: whether zone channels were blank in their training at times, as in the task zones.
    """

    name: str
    sha256: tuple[str, ...]
    recipe: str | None = None
    explained: tuple[float, ...] = ()
    trained_cases: int | None = None
    knows_blank_zones: bool = True


class Comparison(BaseModel, frozen=True):
    """Two arms, compared by the endpoint; ``adjusted_p`` by Holm's correction, where it belongs to a family."""

    first: str
    second: str
    difference: Difference
    adjusted_p: float | None = None


class Verdict(BaseModel, frozen=True):
    """Whether weights help.

    Attributes:
        detectable: smallest true gain over scratch that is found to help in four of five runs like this one.
        share: gain as a share of the positive control's, with its 95 % interval; None without a control that helps.
    """

    weights: str
    verdict: str
    sentence: str
    detectable: float
    share: tuple[float, float, float] | None = None


class Condition(BaseModel, frozen=True):
    """What a probe must show before a verdict of it counts: whether it can tell at all what weights are worth."""

    holds: bool
    sentence: str


class Picture(BaseModel, frozen=True):
    """A slice of the test case of median difficulty, by ridge regression.

    Attributes:
        truth: what there is to be found, classes (y, x).
        t2w: 0 to 255 (y, x).
    """

    case: str
    truth: Example
    t2w: Example


class ProbeResult(BaseModel, frozen=True):
    """Everything that a probe found.

    Attributes:
        gate: four conditions; unless all hold, no verdict of weights counts.
        learning_rates: of each arm, chosen on the tuning cases.
        control: scratch from another initial seed against scratch: its interval should contain 0. Weights are
            compared with the mean of both, so that a control that fails by coincidence does not favour them.
        pool: number of cases from which labelled ones are taken.
    """

    verdict: str
    task: str
    endpoint: str
    config: ProbeConfig
    network: NetworkConfig
    weights: tuple[ProbedWeights, ...]
    test_cases: tuple[str, ...]
    learning_rates: dict[str, LearningRate]
    trials: tuple[Trial, ...]
    gate: tuple[Condition, ...]
    comparisons: tuple[Comparison, ...]
    control: Comparison
    verdicts: tuple[Verdict, ...]
    picture: Picture
    pool: int

    @property
    def can_tell(self) -> bool:
        """Whether the gate is open."""
        return all(one.holds for one in self.gate)

    def arms(self) -> list[str]:
        """Names of all arms."""
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    def shown_arms(self) -> list[str]:
        """Names of the arms that may be shown: without an open gate not those of weights, but of the instrument."""
        hidden = {name for one in self.weights if one.name != POSITIVE for name in (one.name, permuted_name(one.name))}
        return [name for name in self.arms() if self.can_tell or name not in hidden]

    def trials_of(self, arm: str) -> list[Trial]:
        """The trials of an arm, one of each seed."""
        return [one for one in self.trials if one.arm == arm]


def judge(
    trials: Sequence[Trial],
    rates: dict[str, LearningRate],
    weights: Sequence[ProbedWeights],
    network: NetworkConfig,
    config: ProbeConfig,
    picture: Picture,
    pool: int,
) -> ProbeResult:
    """Compare all arms by the endpoint."""
    figures = {arm: endpoint_SC(trials, arm, config.task) for arm in dict.fromkeys(trial.arm for trial in trials)}

    def compare(first: str, second: str) -> Comparison:
        return Comparison(first=first, second=second, difference=paired_difference(figures[first], figures[second]))

    control = compare(AGAIN, SCRATCH)
    again_SC = figures[AGAIN] - figures[SCRATCH]
    figures[SCRATCH] = (figures[SCRATCH] + figures[AGAIN]) / 2
    floor = max((name for name in (RIDGE, RULE) if name in figures), key=lambda name: float(figures[name].mean()))
    lead = float((figures[SCRATCH] - figures[floor]).mean())

    def judged(name: str, adjusted_p: float, family: int) -> tuple[str, str, float]:
        """The word, its reason and what could have been shown, were the gate open."""
        against = [SCRATCH, permuted_name(name), floor]
        parts = [figures[name] - figures[other] for other in against]
        reach = detectable_gain(np.stack([*parts, again_SC]), lead, family)
        if control.difference.excludes_zero:
            return "not shown", "the control failed: scratch differs from scratch", reach
        scratch, permuted, its_floor = (compare(name, other).difference for other in against)
        return (*verdict(scratch, adjusted_p, permuted, its_floor), reach)

    probed = [one for one in weights if one.name != POSITIVE]
    names, positive = [one.name for one in probed], next((one for one in weights if one.name == POSITIVE), None)
    of_positive = judged(POSITIVE, compare(POSITIVE, SCRATCH).difference.p, 1)[0] if positive else None
    has_all_trainings = positive is not None and len(positive.sha256) == config.seeds
    gate = _gate(compare, figures, floor, control.difference, of_positive, has_all_trainings)
    failed = [f"({letter}) {one.sentence}" for letter, one in zip("abcd", gate, strict=True) if not one.holds]
    against_scratch, verdicts = _adjusted([compare(name, SCRATCH) for name in names]), list[Verdict]()
    for one, described in zip(against_scratch, probed, strict=True):
        word, reason, reach = judged(one.first, one.adjusted_p or 0.0, len(names))
        share = None
        if failed:
            word, reason = "cannot tell", "the gate is closed"
        elif of_positive == "helps":
            share = share_of(figures[one.first] - figures[SCRATCH], figures[POSITIVE] - figures[SCRATCH])
        gain, of_control = one.difference, ""
        if share:
            of_control = f", {share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%}) of the positive control's gain"
        sentence = (
            f"{one.first}: {word} ({reason}): {gain.mean:+.3f} against scratch, 95 % interval {gain.low:+.3f} to "
            f"{gain.high:+.3f}{of_control}. A true gain of {reach:.3f} would be found to help in four of five such "
            f"runs; to find less, add {gain.limited_by}."
            + (" This is about one training, not about its recipe." if len(described.sha256) < config.seeds else "")
        )
        verdicts.append(Verdict(weights=one.first, verdict=word, sentence=sentence, detectable=reach, share=share))
    found = "; ".join(f"{one.weights}: {one.verdict}" for one in verdicts) or "this probe can tell"
    between = [compare(a, b) for a, b in itertools.combinations(names, 2)]
    with_control = [*names, *([POSITIVE] if positive else [])]
    return ProbeResult(
        verdict=f"this probe cannot tell: {'; '.join(failed)}" if failed else found,
        task=config.task,
        endpoint=ENDPOINT_NAMES[config.task],
        config=config,
        network=network,
        weights=tuple(weights),
        test_cases=tuple(trials[0].cases),
        learning_rates=rates,
        trials=tuple(trials),
        gate=gate,
        comparisons=(
            *against_scratch,
            *(compare(name, SCRATCH) for name in (POSITIVE, MANY) if name in figures),
            *(compare(name, permuted_name(name)) for name in with_control),
            *(compare(name, floor) for name in with_control),
            compare(SCRATCH, floor),
            *_adjusted(between),
        ),
        control=control,
        verdicts=tuple(verdicts),
        picture=picture,
        pool=pool,
    )


def _gate(
    compare: Callable[[str, str], Comparison],
    arms: Container[str],
    floor: str,
    again: Difference,
    positive: str | None,
    has_all_trainings: bool,
) -> tuple[Condition, ...]:
    """The four conditions.

    Args:
        floor: name of the best arm without a network.
        again: scratch again less scratch.
        positive: the positive control's verdict; None without one.
        has_all_trainings: whether it has one training for each seed.
    """
    learns = compare(SCRATCH, floor).difference
    has_more, labels = False, "there are no more labelled cases; add some, or take a smaller --labelled"
    if MANY in arms:
        gain, least = compare(MANY, SCRATCH).difference, 2 * again.detectable
        has_more, labels = gain.low > 0 and gain.mean >= least, f"{MANY}, less scratch: {gain}; needed: {least:.3f}"
    control = "no positive control; give one training a seed with --positive-control"
    is_quiet, quiet = not again.excludes_zero, f"{AGAIN}, less scratch: {again}"
    if positive is not None:
        control = f"{POSITIVE}, less scratch: {positive}, {compare(POSITIVE, SCRATCH).difference}"
        control += "" if has_all_trainings else "; it needs one training for each seed"
        permuted = compare(permuted_name(POSITIVE), SCRATCH).difference
        is_quiet = is_quiet and permuted.low <= 0  # scale must not help; that it harms misleads nobody
        quiet += f"; {permuted_name(POSITIVE)}, less scratch: {permuted}"
    return (
        Condition(holds=learns.low > 0, sentence=f"scratch less {floor}: {learns}"),
        Condition(holds=has_more, sentence=labels),
        Condition(holds=positive == "helps" and has_all_trainings, sentence=control),
        Condition(holds=is_quiet, sentence=quiet),
    )


def _adjusted(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p values after Holm's correction."""
    adjusted = holm([one.difference.p for one in family])
    return [one.model_copy(update={"adjusted_p": p}) for one, p in zip(family, adjusted, strict=True)]


def case_auroc(trials: Sequence[Trial]) -> float | None:
    """Area under the ROC curve of cases with and without a lesion, averaged over trials."""
    each = []
    for trial in trials:
        cases = [one for one in trial.cases.values() if "score" in one]
        each.append(auroc([one["score"] or 0.0 for one in cases], [bool(one["has_lesion"]) for one in cases]))
    return mean_of(each)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None if none is."""
    known = [one for one in values if one is not None]
    return float(np.mean(known)) if known else None


def endpoint_SC(trials: Sequence[Trial], arm: str, task: str) -> np.ndarray:  # noqa: N802  (axes)
    """The endpoint of an arm, axes (seed, case)."""
    return np.array([list(one.endpoint(task).values()) for one in trials if one.arm == arm])
