"""Retraining on new data: a challenger starts from the published model, and replaces it only if it is better.

A run may be killed between publishing a model and publishing its judgement. Before the model, a record of what is to
come takes the judgement's place, so that a later run finds that this work is not done (`seen_data`).
"""

import logging
import math
from collections.abc import Callable

from zssmnet.config import ChallengerConfig, CubesConfig, NetworkConfig, PretrainConfig
from zssmnet.errors import CheckpointError
from zssmnet.preparation.cubes import SubsetCubes
from zssmnet.registry.lineage import CaseData, training_inputs
from zssmnet.registry.runs import METHOD, Run, decisive, identify, train_and_publish
from zssmnet.registry.versions import (
    MODEL,
    PretrainedModel,
    checked_model,
    find_version,
    keep_stable,
    publish,
    stable_model,
    version_key,
)
from zssmnet.storage import Storage
from zssmnet.storage.records import (
    NOT_YET,
    Input,
    Name,
    Output,
    Record,
    publish_record,
    read_record,
    read_records,
    same_content,
)
from zssmnet.training.checkpoint import EpochResult, Progress
from zssmnet.training.dataset import open_training_data
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch, evaluate, is_finished

log = logging.getLogger(__name__)

JUDGEMENT = "challenge"
"""The record of the last judgement, in the weights' folder."""
_INHERITED = (
    *("batch_size", "momentum", "halve_every", "optimizer", "weight_decay", "schedule", "warm_up_epochs"),
    *("calibrated_head", "loss_weighting"),
)
"""Settings of the training recipe that are the champion's where no other is asked for."""


class Judgement(Record):
    """Outcome of a challenge.

    Attributes:
        inputs: the six files of cubes.
        data: the cases behind them.
        run_id: the challenger, whose checkpoints lie in ``training/<run id>/``.
        champion: run id of the model that it was to beat; None if there was none.
        champion_loss: validation loss of the champion on these cubes; None without one, or if it is not finite.
        challenger_loss: that of the challenger, corrupted in the same way.
        published: whether the challenger became the stable model.
        margin_percent: by how much its loss had to be smaller.
    """

    run_id: Name
    champion: Name | None
    champion_loss: float | None
    challenger_loss: float
    published: bool
    parameters: PretrainConfig
    data: tuple[CaseData, ...]
    best_epoch: int
    history: tuple[EpochResult, ...]
    margin_percent: float = 0.0

    def stands(self, files: tuple[Input, ...], config: PretrainConfig, margin_percent: float) -> bool:
        """Whether it was made of the same cubes in the same way, and no more epochs are asked for."""
        return (
            self.method == METHOD
            and self.margin_percent == margin_percent
            and same_content(self.inputs, files)
            and decisive(self.parameters) == decisive(config)
            and is_finished(Progress(list(self.history), self.best_epoch), config.training)
        )


def challenge(
    cubes: Storage,
    weights: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
    before_publication: Callable[[], None] = lambda: None,
    margin_percent: float = 0.0,
) -> tuple[Judgement, bool]:
    """Train a challenger on the cubes in a folder, and publish it if it is better than the champion, the stable model.

    It starts from the champion's weights, and both are validated with the same cubes, corrupted alike. A judgement of
    the same cubes in the same way stands, whichever model was made the stable one since. Where there is no model yet,
    or where plain pre-training on these cubes has made it, that one is published unopposed.

    Args:
        before_publication: called when training is done; where it raises an error, nothing is judged or published.
        margin_percent: by how much the challenger's loss must be smaller.

    Returns:
        The judgement, and whether any work was done.

    Raises:
        CubesError: cubes that cannot be used.
        TrainingError: training that cannot go on.
        CheckpointError: a checkpoint that cannot be used, a published model without a record, or one with another
            network than ``config`` asks for.
    """
    last = read_record(weights, JUDGEMENT, Judgement)
    inputs = training_inputs(cubes, last.inputs if last else ())
    if last and weights.stat(MODEL) and last.stands(inputs.files, config, margin_percent):
        return last, False
    champion = _champion(weights, inputs.files, config)
    champion_loss, is_better = math.inf, True
    if champion is None:
        _announce_judgement(weights, inputs.files)
        made, _ = train_and_publish(cubes, weights, config, on_epoch, on_step, before_publication)
        challenger_loss = made.best_validation_loss
        log.info("%s is published: there was no model to challenge", made.run_id)
    else:
        _check_network(weights, champion, config.network)
        run = Run(cubes, weights, config, inputs, _as_input(weights, champion))
        made, champion_loss, challenger_loss, is_better = _contest(
            run, champion, on_epoch, on_step, before_publication, margin_percent
        )
    judgement = Judgement(
        method=METHOD,
        inputs=inputs.files,
        outputs=(),
        run_id=made.run_id,
        champion=champion.run_id if champion else None,
        champion_loss=champion_loss if math.isfinite(champion_loss) else None,
        challenger_loss=challenger_loss,
        published=is_better,
        parameters=made.parameters,
        data=inputs.data,
        best_epoch=made.best_epoch,
        history=made.history,
        margin_percent=margin_percent,
    )
    if champion:
        publish_record(weights, f"{JUDGEMENT}-{made.run_id}", judgement.model_copy(update={"inputs": ()}))
    publish_record(weights, JUDGEMENT, judgement)
    return judgement, True


def judgements(weights: Storage) -> list[tuple[str, Judgement]]:
    """The last judgement of each challenger, and the name of its record, without its inputs."""
    return list(read_records(weights, Judgement, f"{JUDGEMENT}-"))


def _contest(
    run: Run,
    champion: PretrainedModel,
    on_epoch: OnEpoch,
    on_step: OnStep,
    before_publication: Callable[[], None],
    margin_percent: float,
) -> tuple[PretrainedModel, float, float, bool]:
    """Train the challenger, and publish it if it is better: its record, both losses, and whether it is."""
    champion_model = checked_model(run.weights, champion)
    training, validation = open_training_data(run.cubes, run.config.training.batch_size)
    champion_loss = evaluate(champion_model, validation, run.config, training)
    if has_diverged := not math.isfinite(champion_loss):
        log.warning("the champion's loss is not finite: the challenger begins with new weights")
    made = run.train(on_epoch, on_step, None if has_diverged else champion_model)
    before_publication()
    challenger_loss = evaluate(run.model, validation, run.config, training)
    is_better = challenger_loss < champion_loss * (1 - margin_percent / 100)
    if is_better:
        _announce_judgement(run.weights, run.files)
        made = publish(run.weights, made, run.model)
    log.info(
        f"champion {champion.run_id} {champion_loss:.5f}, challenger {made.run_id} {challenger_loss:.5f} on "
        f"{len(validation)} validation cubes: {'published' if is_better else 'not better, not published'}"
    )
    return made, champion_loss, challenger_loss, is_better


def challenger_settings(
    weights: Storage, cubes: Storage, config: PretrainConfig, cut: CubesConfig | None
) -> tuple[PretrainConfig, CubesConfig]:
    """A challenger's settings, before any work: all but its budget is the champion's where no other is asked for.

    Args:
        config: what is asked for. A setting at its default stands for the champion's, and the learning rate for the
            champion's where that is smaller; the numbers of epochs are its own.
        cut: how cubes are asked for; None for as they were cut before.

    Raises:
        CheckpointError: another network than the champion's is asked for.
    """
    if champion := stable_model(weights):
        if config.network != NetworkConfig():
            _check_network(weights, champion, config.network)
        config = _with_recipe_of(champion.parameters, config)
        log.info(
            f"as the published model {champion.run_id}: a network with {_described(config.network)}, "
            f"recipe {config.corruption.recipe!r}, "
            f"optimizer {config.training.optimizer} at {config.training.learning_rate:g}"
        )
    return config, cut or next((record.parameters for _, record in read_records(cubes, SubsetCubes)), CubesConfig())


def _with_recipe_of(champion: PretrainConfig, asked: PretrainConfig) -> PretrainConfig:
    default = ChallengerConfig()
    recipe = {
        name: getattr(champion.training, name)
        for name in _INHERITED
        if getattr(asked.training, name) == getattr(default.training, name)
    }
    if asked.training.learning_rate == default.training.learning_rate:
        recipe["learning_rate"] = min(asked.training.learning_rate, champion.training.learning_rate)
    training = asked.training.model_copy(update=recipe)
    corruption = champion.corruption if asked.corruption == default.corruption else asked.corruption
    return asked.model_copy(update={"network": champion.network, "corruption": corruption, "training": training})


def seen_data(weights: Storage) -> frozenset[CaseData]:
    """The cases that the stable model was made from, and those that the last challenger saw, published or not.

    A stable model whose judgement is still to come was made by a run that was killed: what counts is the model that it
    replaced, so that its cases are new once more and the run is repeated to its end.
    """
    judgement, stable = read_record(weights, JUDGEMENT, Judgement), stable_model(weights)
    to_come = None if judgement else read_record(weights, JUDGEMENT, Record)
    if stable and to_come and to_come.outputs and same_content(stable.inputs, to_come.inputs):
        stable = find_version(weights, stable.replaces) if stable.replaces else None
    return frozenset(one for record in (stable, judgement) if record for one in record.data)


def _announce_judgement(weights: Storage, files: tuple[Input, ...]) -> None:
    """Publish a record of the judgement to come; a judgement it is not, so that it counts as none."""
    to_come = Output(key=MODEL, size=NOT_YET, sha256="")
    publish_record(weights, JUDGEMENT, Record(method=METHOD, inputs=files, outputs=(to_come,)))


def _champion(weights: Storage, files: tuple[Input, ...], config: PretrainConfig) -> PretrainedModel | None:
    """The version to beat; None if there is none, or only what plain pre-training on these cubes gives.

    A run that was killed after it had published its challenger finds that one as the stable model: the champion is
    the model that it replaced.
    """
    stable = keep_stable(weights)
    if stable is None or stable.run_id == identify(files, config):
        return None
    replaced = find_version(weights, stable.replaces) if stable.replaces else None
    if replaced and stable.run_id == identify((*files, _as_input(weights, replaced)), config):
        return replaced
    return stable


def _as_input(weights: Storage, version: PretrainedModel) -> Input:
    """A version as what training began with."""
    key = version_key(version.run_id)
    entry = weights.stat(key)
    (output,) = version.outputs
    return Input(name=key, size=output.size, version=entry.version if entry else "", sha256=output.sha256)


def _check_network(weights: Storage, champion: PretrainedModel, wanted: NetworkConfig) -> None:
    theirs = champion.parameters.network
    if wanted != theirs:
        raise CheckpointError(
            f"{weights.where(version_key(champion.run_id))}: the champion's network has {_described(theirs)}, "
            f"the settings ask for {_described(wanted)}; set pretraining.network to the champion's, "
            "or train anew with 'zssmnet run' or 'zssmnet pretrain'"
        )


def _described(network: NetworkConfig) -> str:
    return f"channels {', '.join(map(str, network.channels))} and merge {network.merge!r}"
