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
from zssmnet.probe.arms import AGAIN, SCRATCH, Arm, all_arms, build_network, network_of
from zssmnet.probe.fine_tuning import CLASSES, fine_tune
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.labels import LabelledCase, split_cases
from zssmnet.probe.result import ProbedWeights, ProbeResult, judge
from zssmnet.probe.trials import TUNING_SEEDS, Trial, Trials, example_of
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage, sha256_of
from zssmnet.training.precision import choose_device

log = logging.getLogger(__name__)

METHOD = 2
"""Raised whenever the same cases, weights and settings would give other figures."""
RESULT = "probe.json"


def compare_arms(
    cases: Sequence[LabelledCase],
    weights: Sequence[Arm],
    output: Storage,
    config: ProbeConfig,
    patient_pattern: str = PICAI_PATIENT,
    on_plan: Callable[[int, float], None] = lambda trials, seconds: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> ProbeResult:
    """Compare weights with each other, with scratch, with permuted weights and with what needs no network.

    Args:
        weights: arms of weights, all of one network; see `read_arm`.
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
    _check_names(weights, config)
    for one in weights:
        if not all(file.record and file.record.data for file in one.weights):
            log.warning("%s: no record of its training cases, so test cases may be among them", one.name)
    network = network_of(weights)
    trained = {patient_of(case_id, patient_pattern) for one in weights for case_id in _trained_cases(one.records)}
    split = split_cases(cases, trained, config)
    probed = [_described(one) for one in weights]
    folder = output.child(f"trials/{_identity(cases, probed, network, config)}")
    for used in (output, folder):
        used.sweep()
    trials, arms = Trials(split, network, config, folder, on_trial), all_arms(weights)
    on_plan(*_plan(trials, arms))
    rates = {arm.name: trials.tuned(arm) for arm in arms if arm.kind != "again"}
    rates[AGAIN] = rates[SCRATCH]
    done = _all_trials(trials, arms, rates)
    truth = example_of(split.test, [case.label_ZYX for case in split.test])
    result = judge(done, rates, probed, [case.id for case in split.test], network, config)
    result = result.model_copy(update={"truth": truth})
    output.publish_bytes(RESULT, (result.model_dump_json(indent=1) + "\n").encode())
    return result


def _all_trials(trials: Trials, arms: Sequence[Arm], rates: Mapping[str, float]) -> list[Trial]:
    """The trials of all arms with a network and of the floor on the test cases."""
    floor = (RIDGE, RULE) if trials.config.task == "lesions" else (RIDGE,)
    done = list[Trial]()
    for seed in range(trials.config.seeds):
        for labelled in trials.config.labelled:
            done += [trials.tested(arm, labelled, seed, rates[arm.name]) for arm in arms]
            done += [trials.floor(name, labelled, seed) for name in floor]
    return done


def _plan(trials: Trials, arms: Sequence[Arm]) -> tuple[int, float]:
    """Number of trials, and seconds for all, by one step and one prediction that are done for it."""
    config = trials.config
    tuned = (len(arms) - 1) * len(config.learning_rates) * len(TUNING_SEEDS)
    count = tuned * (len(config.learning_rates) > 1) + len(arms) * len(config.labelled) * config.seeds
    scratch = next(arm for arm in arms if arm.name == SCRATCH)
    model = build_network(scratch, 0, CLASSES[config.task], trials.network, choose_device(config.device))
    for steps in (1, 3):  # the first warms up
        started = time.perf_counter()
        list(fine_tune(model, trials.split.labelled(1, 0), (), 1e-3, 0, config.model_copy(update={"looks": (steps,)})))
    step_s = (time.perf_counter() - started) / steps
    x, y, z = config.scale.windows
    look_s = len(trials.split.test) * x * y * z / config.scale.batch_size * step_s / 3  # no gradients
    return count, count * (config.looks[-1] * step_s + len(config.looks) * look_s)


def _check_names(weights: Sequence[Arm], config: ProbeConfig) -> None:
    if not weights:
        raise ConfigError("no weights are named; give --weights F, once or more")
    names = [one.name for one in weights]
    for one in weights:
        if names.count(one.name) > 1:
            raise ConfigError(
                f"{one.weights[0].address}: another one of the weights has the name {one.name!r}; name each file once, "
                "and the trainings of one recipe as one arm, separated by commas"
            )
        if len(one.weights) > config.seeds:
            raise ConfigError(
                f"{one.name}: {len(one.weights)} files for {config.seeds} seeds, of which each takes one; raise --seeds"
            )


def _trained_cases(records: Iterable[PretrainedModel]) -> set[str]:
    return {case.case_id for record in records for case in record.data if case.subset != VALIDATION_SUBSET}


def _described(one: Arm) -> ProbedWeights:
    records = one.records
    explained = [record.metrics["explained_variance"] for record in records if "explained_variance" in record.metrics]
    return ProbedWeights(
        name=one.name,
        sha256=tuple(sha256_of(weights.path) for weights in one.weights),
        recipe=records[0].parameters.corruption.recipe if records else None,
        explained=tuple(explained),
        trained_cases=len(_trained_cases(records)) if len(records) == len(one.weights) else None,
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
