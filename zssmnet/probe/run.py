"""A probe from cases and weights to its result."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from zssmnet.config import PICAI_PATIENT, ProbeConfig
from zssmnet.data.archive import patient_of
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import ConfigError
from zssmnet.probe.arms import MANY, SCRATCH, Arm, all_arms, build_network, network_of, with_preset
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.labels import TUNING_SEEDS, LabelledCases, split_cases
from zssmnet.probe.result import Picture, ProbedWeights, ProbeResult, judge
from zssmnet.probe.trials import CLASSES, FINALISTS, LearningRate, Trial, Trials, example_of, fine_tune, shuffled
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage
from zssmnet.training.precision import choose_device

log = logging.getLogger(__name__)

RESULT = "probe.json"


def compare_arms(
    cases: LabelledCases,
    weights: Sequence[Arm],
    output: Storage,
    config: ProbeConfig,
    patient_pattern: str = PICAI_PATIENT,
    on_plan: Callable[[int, float], None] = lambda trials, seconds: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> ProbeResult:
    """Compare weights with each other, with scratch, with permuted weights and with what needs no network.

    Args:
        weights: arms of weights, all of one network, checked by `check_arms`; that named `POSITIVE` is the positive
            control.
        output: where ``probe.json`` and the trials go; those that are there already are not done again.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        on_plan: called before the first trial, with their number and the seconds that all will take.
        on_trial: called with each trial that is done.

    Raises:
        CheckpointError, ConfigError: see `check_arms`.
        InputError: too few cases.
        NonFiniteLossError: a loss that is not finite.
    """
    config = check_arms(weights, config)
    for one in weights:
        if not all(file.record and file.record.data for file in one.weights):
            log.warning("%s: no record of its training cases, so test cases may be among them", one.name)
    trained = {patient_of(case_id, patient_pattern) for one in weights for case_id in _trained_cases(one.records)}
    split = split_cases(cases, trained, config, patient_pattern)
    folder = output.child("trials")
    for used in (output, folder):
        used.sweep()
    trials, arms = Trials(split, network_of(weights), config, folder, on_trial), all_arms(weights)
    of_ridge = trials.floor(RIDGE, 0).endpoint(config.task)
    median = sorted(of_ridge, key=of_ridge.__getitem__)[len(of_ridge) // 2]
    trials = replace(trials, shown=[case.id for case in split.test].index(median))
    on_plan(*_plan(trials, arms))
    tuned = {arm.name: trials.tuned(arm) for arm in shuffled(arms)}
    rates = {arm.name: tuned[arm.name] for arm in arms}
    done = _all_trials(trials, arms, rates)
    case = split.test[trials.shown]
    picture = Picture(
        case=case.id,
        truth=example_of(case, case.label_ZYX),
        t2w=example_of(case, (255 * case.input_CZYX[0].clamp(0, 1)).to(torch.uint8)),
    )
    described = [_described(one) for one in weights]
    result = judge(done, rates, described, trials.network, config, picture, len(split.pool))
    output.publish_bytes(RESULT, (result.model_dump_json(indent=1) + "\n").encode())
    return result


def check_arms(weights: Sequence[Arm], config: ProbeConfig) -> ProbeConfig:
    """Check weights and settings before any case is read; the settings, with the preset of the weights.

    Raises:
        CheckpointError: weights of several networks.
        ConfigError: no weights, two arms of one name, as many trainings as neither one nor the seeds, or no preset.
    """
    if not weights:
        raise ConfigError("no weights are named; give --weights F, once or more")
    names = [one.name for one in weights]
    for one in weights:
        if names.count(one.name) > 1:
            raise ConfigError(
                f"{one.weights[0].address}: another one of the weights has the name {one.name!r}; name each file once, "
                "and the trainings of one recipe as one arm, separated by commas"
            )
        if len(one.weights) not in (1, config.seeds):
            raise ConfigError(
                f"{one.name}: {len(one.weights)} files for {config.seeds} seeds: trainings that are taken twice count "
                "twice; give one for each seed, or one file, which then stands for itself alone"
            )
    network_of(weights)
    contents = [digest for one in weights for digest in one.sha256]
    for one in weights:
        for file, digest in zip(one.weights, one.sha256, strict=True):
            if contents.count(digest) > 1:
                raise ConfigError(f"{file.address}: is named twice, or a copy of another one, and would count twice")
    return with_preset(config, weights)


def _all_trials(trials: Trials, arms: Sequence[Arm], rates: dict[str, LearningRate]) -> list[Trial]:
    """The trials of all arms with a network and of the floor on the test cases."""
    floor = (RIDGE, RULE) if trials.config.task == "lesions" else (RIDGE,)
    tested = [(arm, trials.config.labelled, rates[arm.name]) for arm in arms]
    tested += [(Arm(MANY, "scratch"), trials.many, rates[SCRATCH])] if trials.many else []
    jobs = [(*one, seed) for one in tested for seed in range(trials.config.seeds)]
    done = {number: trials.trial(*jobs[number]) for number in shuffled(range(len(jobs)))}
    of_floor = [trials.floor(name, seed) for name in floor for seed in range(trials.config.seeds)]
    return [done[number] for number in range(len(jobs))] + of_floor


def _plan(trials: Trials, arms: Sequence[Arm]) -> tuple[int, float]:
    """Number of trials, and seconds for all, by one step and one prediction that are done for it."""
    config, candidates = trials.config, len(trials.candidates())
    tuned = candidates + min(FINALISTS, candidates) * (TUNING_SEEDS - 1) if candidates > 1 else 0
    count = len(arms) * (tuned + config.seeds) + bool(trials.many) * config.seeds
    model = build_network(arms[0], 0, CLASSES[config.task], trials.network, choose_device(config.device))
    for steps in (1, 3):  # the first warms up
        started = time.perf_counter()
        fine_tune(model, trials.split.labelled(1, 0), (), 1e-3, 0, config.model_copy(update={"steps": steps}))
    step_s = (time.perf_counter() - started) / steps
    x, y, z = config.scale.windows
    test_s = len(trials.split.test) * x * y * z / config.scale.batch_size * step_s / 3  # no gradients
    return count, count * (config.steps * step_s + test_s)


def _trained_cases(records: Iterable[PretrainedModel]) -> set[str]:
    return {case.case_id for record in records for case in record.data if case.subset != VALIDATION_SUBSET}


def _described(one: Arm) -> ProbedWeights:
    records = one.records
    corruption = records[0].parameters.corruption if records else None
    explained = [record.metrics["explained_variance"] for record in records if "explained_variance" in record.metrics]
    return ProbedWeights(
        name=one.name,
        sha256=one.sha256,
        recipe=corruption.recipe if corruption else None,
        explained=tuple(explained),
        trained_cases=len(_trained_cases(records)) if len(records) == len(one.weights) else None,
        knows_blank_zones=not corruption or corruption.recipe != "masked" or corruption.zone_task.share > 0,
    )
