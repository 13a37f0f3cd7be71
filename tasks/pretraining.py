"""Task on weights: training from the cubes to the published model, or to a challenger that is judged."""

import time
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.announcement import announce
from tasks.pictures import LivePictures
from tasks.progress import display, mark_run
from tasks.run_control import check_cancelled, check_now, check_suspended, wait_for_server
from zssmnet.config import PretrainConfig, ProbeJudge
from zssmnet.errors import ServiceError
from zssmnet.probe.run import compare_models
from zssmnet.registry.challenge import JUDGEMENT, Gain, Judgement, challenge
from zssmnet.registry.pretraining import pretrain
from zssmnet.registry.versions import MODEL, stable_model, version_key
from zssmnet.storage import open_storage
from zssmnet.storage.records import read_record
from zssmnet.training.checkpoint import TrainingState
from zssmnet.training.diagnostics import training_warnings

STAGE = "pretrain"


class TrainingOutcome(BaseModel):
    """The result of pre-training: the published model, and how it was trained.

    Attributes:
        model: address of the weights under their stable name.
        version: address of the same weights in the folder of their version, which stays.
        run_id, sha256: of the published model.
        published: whether this training's model is the published one; a challenger that is not better is not.
        challenger_loss, champion_loss: validation losses of both in a challenge, on the same cubes.
        gain: of the challenger over the champion by the probe, where it judged.
    """

    model: str
    version: str
    run_id: str
    sha256: str
    epochs: int
    best_epoch: int
    first_validation_loss: float
    best_validation_loss: float
    is_new: bool
    published: bool = True
    challenger_loss: float | None = None
    champion_loss: float | None = None
    gain: Gain | None = None


@task(task_run_name="train", cache_policy=NO_CACHE)
def train(
    cubes_path: str,
    output_path: str,
    config: PretrainConfig,
    as_challenger: bool,
    margin_percent: float = 0.0,
    by_probe: ProbeJudge | None = None,
) -> TrainingOutcome:
    """Train MNet and publish its best weights; a challenger only if it is better than the published model."""
    cubes, weights = open_storage(cubes_path), open_storage(output_path)
    weights.sweep()
    shown = EpochDisplay(cubes_path, config)
    judge = (by_probe, compare_models) if by_probe else None
    work = partial(challenge, margin_percent=margin_percent, by_probe=judge) if as_challenger else pretrain
    _, is_new = work(cubes, weights, config, shown.on_epoch, shown.on_step, check_now)
    shown.skip_to(config.training.epochs)
    wait_for_server()
    announce(weights, "challenge" if as_challenger else "pretraining")
    return outcome_of(output_path, as_challenger, is_new)


def outcome_of(output_path: str, as_challenger: bool, is_new: bool) -> TrainingOutcome:
    """The outcome by its records, wherever the training ran; ServiceError if there is no such record."""
    outcome = known_outcome(output_path, as_challenger)
    if outcome is None:
        raise ServiceError(f"{output_path}: pre-training ended, but its record is not there; run it again")
    return outcome.model_copy(update={"is_new": is_new})


def known_outcome(output_path: str, as_challenger: bool) -> TrainingOutcome | None:
    """The outcome by the present records, as if it were new; None if there are none."""
    weights = open_storage(output_path)
    model = stable_model(weights)
    judgement = read_record(weights, JUDGEMENT, Judgement) if as_challenger else None
    if model is None or (as_challenger and judgement is None):
        return None
    return TrainingOutcome(
        model=weights.where(MODEL),
        version=weights.where(version_key(model.run_id)),
        run_id=model.run_id,
        sha256=model.outputs[0].sha256,
        epochs=len(model.history),
        best_epoch=model.best_epoch,
        first_validation_loss=model.history[0].validation_loss,
        best_validation_loss=model.best_validation_loss,
        is_new=True,
        published=judgement.published if judgement else True,
        challenger_loss=judgement.challenger_loss if judgement else None,
        champion_loss=judgement.champion_loss if judgement else None,
        gain=judgement.gain if judgement else None,
    )


class EpochDisplay:
    """Shows the epochs on the display, also those that a resumed run does not repeat."""

    def __init__(self, cubes_path: str, config: PretrainConfig) -> None:
        self._pictures = LivePictures(cubes_path, config)
        self._patience = config.training.patience
        self._shown = display()
        self._shown.begin(STAGE, config.training.epochs, "epochs", may_end_early=True)
        self._batch_size = config.training.batch_size
        self._done = 0
        self._losses = ""
        self._steps = 0
        self._epoch_began = time.monotonic()

    def on_epoch(self, state: TrainingState) -> None:
        """Show that an epoch is done, and its losses."""
        progress = state.progress
        result = progress.history[-1]
        self._losses = (
            f"loss {result.train_loss:.4f}, validation {result.validation_loss:.4f}"
            f" (best {progress.best_loss:.4f}, epoch {progress.best_epoch})"
        )
        if result.explained is not None:
            self._losses += f", explained variance {result.explained:.1%}"
        if found := training_warnings(progress.history, self._steps):
            remark = f"warnings: {', '.join(one.name for one in found)}"
            self._losses += f" · {remark}"
            mark_run(remark)
        if epochs := progress.epoch - progress.best_epoch:
            self._losses += f" · ends in {self._patience - epochs} epochs unless it improves"
        self._epoch_began = time.monotonic()
        self.skip_to(result.epoch - 1)
        self._shown.advance(STAGE)
        self._done = result.epoch
        self._shown.note(STAGE, self._losses)
        self._pictures.on_epoch(state)

    def on_step(self, done: int, steps: int) -> None:
        """Show the steps within an epoch, and how fast they go; the run may be asked to end here."""
        check_cancelled()
        if done == 1:  # the checkpoint of the epoch before is published
            check_suspended()
        self._steps = steps
        rate = done * self._batch_size / max(time.monotonic() - self._epoch_began, 1e-9)
        within = f"step {done} of {steps}, {rate:.1f} cubes/s"
        self._shown.note(STAGE, f"{self._losses} · {within}" if self._losses else within)

    def skip_to(self, epoch: int) -> None:
        """Show that the epochs up to this one were done before, or need not be done."""
        if epoch > self._done:
            self._shown.advance(STAGE, epoch - self._done, earlier=True)
            self._done = epoch
