"""A probe from cases and weights to its result."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zssmnet.config import PICAI_PATIENT, NetworkConfig, ProbeConfig
from zssmnet.data.archive import patient_of
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import CheckpointError, ConfigError
from zssmnet.handoff.weights import Weights, read_weights, record_of, unusable
from zssmnet.probe.arms import SCRATCH, Arm, arms_of, build_network
from zssmnet.probe.fine_tuning import CLASSES, fine_tune
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.labels import LabelledCase
from zssmnet.probe.result import ProbedWeights, ProbeResult, judge
from zssmnet.probe.sides import Sides, choose_sides
from zssmnet.probe.trials import Bench, Trial
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage, sha256_of
from zssmnet.training.acceleration import choose_device

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same cases, weights and settings would give other figures."""
RESULT = "probe.json"
OnPlan = Callable[[int, float], None]


def probe(
    cases: Sequence[LabelledCase],
    weights_paths: Sequence[str],
    output: Storage,
    config: ProbeConfig,
    patient_pattern: str = PICAI_PATIENT,
    on_plan: OnPlan = lambda trials, seconds: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> ProbeResult:
    """Compare weights with each other, with scratch, with permuted weights and with what needs no network.

    Args:
        cases: all labelled cases.
        weights_paths: local files of weights or packages; all of one network.
        output: where ``probe.json`` and the trials go; those that are there already are not done again.
        config: task, numbers and seeds.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        on_plan: called before the first trial, with their number and the seconds that all will take.
        on_trial: called with each trial that is done.

    Raises:
        CheckpointError: weights that cannot be used, or whose pretext task was not learnt.
        InputError: too few cases.
        NonFiniteLossError: a loss that is not finite.
    """
    known = [(read_weights(path), record_of(Path(path))) for path in weights_paths]
    named = _named(known)
    for name, (weights, record) in named.items():
        _check_learnt(weights, record, config)
        if record is None or not record.data:
            log.warning("%s: no record tells which cases it was trained with: test cases may be among them", name)
    network = _network_of([weights for weights, _ in known])
    trained = {
        patient_of(one.case_id, patient_pattern)
        for _, record in known
        for one in (record.data if record else ())
        if one.subset != VALIDATION_SUBSET
    }
    sides = choose_sides(cases, trained, config)
    probed = [_described(name, weights, record) for name, (weights, record) in named.items()]
    folder = output.child(f"trials/{_identity(cases, probed, network, config)}")
    arms = arms_of({name: weights for name, (weights, _) in named.items()})
    on_plan(*_plan(sides, arms, network, config))
    rates, trials = _all_trials(Bench(sides, network, config, folder, on_trial), arms)
    result = judge(trials, rates, probed, [case.id for case in sides.test], network, config)
    output.publish_bytes(RESULT, (result.model_dump_json(indent=1) + "\n").encode())
    return result


def _all_trials(bench: Bench, arms: Sequence[Arm]) -> tuple[dict[str, float], list[Trial]]:
    """Learning rates, and the trials of all arms with a network and of the floor.

    The control learns as scratch does, permuted weights as the weights.
    """
    rates: dict[str, float] = {}
    for arm in arms:
        rates[arm.name] = bench.tuned(arm) if arm.kind in ("scratch", "weights") else rates[list(rates)[-1]]
    config, trials = bench.config, list[Trial]()
    for seed in range(config.seeds):
        for labelled in config.labelled:
            trials += [bench.tested(arm, labelled, seed, rates[arm.name]) for arm in arms]
            floors = (RIDGE, RULE) if config.task == "lesions" else (RIDGE,)
            trials += [bench.floor(name, labelled, seed) for name in floors]
    return rates, trials


def _plan(sides: Sides, arms: Sequence[Arm], network: NetworkConfig, config: ProbeConfig) -> tuple[int, float]:
    """Number of trials, and seconds for all, by one step and one look that are done for it."""
    tuned = sum(arm.kind in ("scratch", "weights") for arm in arms) * len(config.learning_rates)
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


def _named(
    known: Sequence[tuple[Weights, PretrainedModel | None]],
) -> dict[str, tuple[Weights, PretrainedModel | None]]:
    """Weights by a name each: recipe and run where a record tells, else the file's."""
    named: dict[str, tuple[Weights, PretrainedModel | None]] = {}
    for weights, record in known:
        name = f"{record.parameters.corruption.recipe} {record.run_id}" if record else weights.path.stem
        if name in named:
            raise ConfigError(f"{weights.path}: another one of the weights has the name {name!r}; name each file once")
        named[name] = weights, record
    if not named:
        raise ConfigError("no weights are named; give --weights F, once or more")
    return named


def _check_learnt(weights: Weights, record: PretrainedModel | None, config: ProbeConfig) -> None:
    explained = record.metrics.get("explained_variance") if record else None
    if explained is not None and explained <= 0 and not config.force:
        raise unusable(
            weights.path,
            f"its explained variance is {explained:.1%}: it restores no better than one constant for each channel, and "
            "cannot be expected to help; train it longer, or probe it all the same with --force",
        )


def _network_of(weights: Sequence[Weights]) -> NetworkConfig:
    first = weights[0]
    for other in weights:
        if (other.channels, other.merge, other.in_channels) != (first.channels, first.merge, 6):
            raise CheckpointError(
                f"{other.path}: {other.in_channels} input channels, channels {other.channels}, merge {other.merge!r}, "
                f"but {first.path} has {first.in_channels}, {first.channels} and {first.merge!r}; probe weights of one "
                "network with six input channels at a time"
            )
    return NetworkConfig(channels=first.channels, merge=first.merge)


def _described(name: str, weights: Weights, record: PretrainedModel | None) -> ProbedWeights:
    return ProbedWeights(
        name=name,
        sha256=sha256_of(weights.path),
        recipe=record.parameters.corruption.recipe if record else None,
        explained=record.metrics.get("explained_variance") if record else None,
        trained_cases=len({one.case_id for one in record.data if one.subset != VALIDATION_SUBSET}) if record else None,
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
