"""From cubes to published weights, with their record.

When a run has finished, its best model is published as a version, and as ``ssl_mnet_zonal.model`` in one step.
"""

import logging
from collections.abc import Callable

from zssmnet.config import PretrainConfig
from zssmnet.registry.runs import describe, identify, take_stock, train, workplace_of
from zssmnet.registry.versions import MODEL, PretrainedModel, find_version, promote, publish, stable_model
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import BEST
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch

log = logging.getLogger(__name__)


def pretrain(
    cubes: Storage,
    weights: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
    before_publication: Callable[[], None] = lambda: None,
) -> tuple[PretrainedModel, bool]:
    """Pre-train on the cubes in a folder and publish the best model, unless that was done already; see `fit`.

    Args:
        before_publication: called when training is done; where it raises an error, nothing is published.

    Returns:
        The model's record, and whether any work was done.
    """
    stable = stable_model(weights)
    supply = take_stock(cubes, stable.inputs if stable else ())
    run_id = identify(supply.inputs, config)
    known = find_version(weights, run_id) or (stable if stable and stable.run_id == run_id else None)
    if known and known.is_finished(config.training):
        return known, promote(weights, run_id)
    workplace = workplace_of(weights, run_id)
    progress = train(cubes, workplace, config, on_epoch, on_step)
    before_publication()
    record = publish(weights, describe(run_id, supply.inputs, supply, config, progress), workplace.local(BEST))
    log.info("published %s: epoch %d, validation loss %.5f", MODEL, progress.best_epoch, progress.best_loss)
    return record, True
