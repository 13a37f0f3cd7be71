"""A probe from cases and weights to its result."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from zssmnet.config import PICAI_PATIENT, NetworkConfig, ProbeConfig
from zssmnet.data.archive import patient_of
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import ConfigError
from zssmnet.probe.arms import AGAIN, RIDGE, RULE, SCRATCH, Arm, arms_of, build_network
from zssmnet.probe.contenders import Contender, network_of
from zssmnet.probe.fine_tuning import CLASSES, fine_tune
from zssmnet.probe.labels import LabelledCase, Sides, choose_sides
from zssmnet.probe.result import ProbedWeights, ProbeResult, judge
from zssmnet.probe.trials import TUNING_SEEDS, Bench, Trial, example_of
from zssmnet.registry.lineage import CaseData
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage, sha256_of
from zssmnet.training.acceleration import choose_device

log = logging.getLogger(__name__)

METHOD = 2
"""Raised whenever the same cases, weights and settings would give other figures."""
RESULT = "probe.json"
OnPlan = Callable[[int, float], None]


def probe(
    cases: Sequence[LabelledCase],
    contenders: Sequence[Contender],
    output: Storage,
    config: ProbeConfig,
    patient_pattern: str = PICAI_PATIENT,
    on_plan: OnPlan = lambda trials, seconds: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> ProbeResult:
    """Compare weights with each other, with scratch, with permuted weights and with what needs no network.

    Args:
        contenders: weights, all of one network.
        output: where ``probe.json`` and the trials go; those that are there already are not done again.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        on_plan: called before the first trial, with their number and the seconds that all will take.
        on_trial: called with each trial that is done.

    Raises:
        CheckpointError: weights of several networks.
        ConfigError: no weights, two arms of one name, or more files in an arm than seeds.
        InputError: too few cases.
        NonFiniteLossError: a loss that is not finite.
    """
    _check_names(contenders, config)
    for one in contenders:
        if not all(record and record.data for record in one.records):
            log.warning("%s: no record tells which cases it was trained with: test cases may be among them", one.name)
    network = network_of(contenders)
    trained = {patient_of(case.case_id, patient_pattern) for one in contenders for case in _trained_cases(one.records)}
    sides = choose_sides(cases, trained, config)
    probed = [_described(one) for one in contenders]
    folder = output.child(f"trials/{_identity(cases, probed, network, config)}")
    for used in (output, folder):
        used.sweep()
    arms = arms_of({one.name: one.weights for one in contenders})
    on_plan(*_plan(sides, arms, network, config))
    rates, trials = _all_trials(Bench(sides, network, config, folder, on_trial), arms)
    result = judge(trials, rates, probed, [case.id for case in sides.test], network, config)
    result = result.model_copy(update={"truth": example_of(sides.test, [case.label_ZYX for case in sides.test])})
    output.publish_bytes(RESULT, (result.model_dump_json(indent=1) + "\n").encode())
    return result


def _all_trials(bench: Bench, arms: Sequence[Arm]) -> tuple[dict[str, float], list[Trial]]:
    """Learning rates, and the trials of all arms with a network and of the floor."""
    rates = {arm.name: bench.tuned(arm) for arm in arms if arm.kind != "again"}
    rates[AGAIN] = rates[SCRATCH]
    config, trials = bench.config, list[Trial]()
    for seed in range(config.seeds):
        for labelled in config.labelled:
            trials += [bench.tested(arm, labelled, seed, rates[arm.name]) for arm in arms]
            floors = (RIDGE, RULE) if config.task == "lesions" else (RIDGE,)
            trials += [bench.floor(name, labelled, seed) for name in floors]
    return rates, trials


def _plan(sides: Sides, arms: Sequence[Arm], network: NetworkConfig, config: ProbeConfig) -> tuple[int, float]:
    """Number of trials, and seconds for all, by one step and one look that are done for it."""
    tuned = (len(arms) - 1) * len(config.learning_rates) * len(TUNING_SEEDS)
    trials = tuned * (len(config.learning_rates) > 1) + len(arms) * len(config.labelled) * config.seeds
    scratch = next(arm for arm in arms if arm.name == SCRATCH)
    model = build_network(scratch, 0, CLASSES[config.task], network, choose_device(config.device))
    labelled, seconds = sides.labelled(1, 0), list[float]()
    for steps in (1, 3):  # the first warms up
        started = time.perf_counter()
        list(fine_tune(model, labelled, (), 1e-3, 0, config.model_copy(update={"looks": (steps,)})))
        seconds.append((time.perf_counter() - started) / steps)
    windows = config.scale.windows[0] * config.scale.windows[1] * config.scale.windows[2]
    look = len(sides.test) * windows / config.scale.batch_size * seconds[-1] / 3  # no gradients
    return trials, trials * (config.looks[-1] * seconds[-1] + len(config.looks) * look)


def _check_names(contenders: Sequence[Contender], config: ProbeConfig) -> None:
    if not contenders:
        raise ConfigError("no weights are named; give --weights F, once or more")
    names = [one.name for one in contenders]
    for one in contenders:
        if names.count(one.name) > 1:
            raise ConfigError(
                f"{one.weights[0].path}: another one of the weights has the name {one.name!r}; name each file once, "
                "and the trainings of one recipe as one arm, separated by commas"
            )
        if len(one.weights) > config.seeds:
            raise ConfigError(
                f"{one.name}: {len(one.weights)} files for {config.seeds} seeds, of which each takes one; raise --seeds"
            )


def _trained_cases(records: Iterable[PretrainedModel | None]) -> list[CaseData]:
    return [case for one in records if one for case in one.data if case.subset != VALIDATION_SUBSET]


def _described(one: Contender) -> ProbedWeights:
    records = [record for record in one.records if record]
    explained = [record.metrics["explained_variance"] for record in records if "explained_variance" in record.metrics]
    is_known = len(records) == len(one.weights)
    return ProbedWeights(
        name=one.name,
        sha256=tuple(sha256_of(weights.path) for weights in one.weights),
        recipe=records[0].parameters.corruption.recipe if records else None,
        explained=tuple(explained),
        trained_cases=len({case.case_id for case in _trained_cases(records)}) if is_known else None,
    )


def _identity(
    cases: Sequence[LabelledCase], weights: Sequence[ProbedWeights], network: NetworkConfig, config: ProbeConfig
) -> str:
    """12 hex digits of everything that decides a trial's figures."""
    settings: Mapping[str, object] = config.model_dump(mode="json", exclude={"seeds", "force", "device"})
    reported = [METHOD, settings, network.model_dump(mode="json"), [one.sha256 for one in weights]]
    digest = hashlib.sha256(json.dumps(reported, sort_keys=True).encode())
    for case in cases:
        digest.update(f"{case.id} {case.patient}".encode())
        digest.update(case.input_CZYX.numpy().tobytes())
        digest.update(case.label_ZYX.numpy().tobytes())
    return digest.hexdigest()[:12]
