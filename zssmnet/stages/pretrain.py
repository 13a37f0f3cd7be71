"""Stage: from cubes to published weights, one part; alone, or as a challenger of the published model."""

import time

from pydantic import BaseModel

from zssmnet.config import MarginPercent, PretrainConfig, RetrainingConfig
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import ServiceError
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.registry.challenge import JUDGEMENT, Judgement, challenge
from zssmnet.registry.runs import train_and_publish
from zssmnet.registry.versions import MODEL, stable_model, version_key
from zssmnet.report.gallery import draw_losses, draw_restored, publish_training_pictures
from zssmnet.report.model_page import embedded, model_section
from zssmnet.runner import PlainRunner, Progress, Runner, Summary, current_progress
from zssmnet.storage import Address, open_storage
from zssmnet.storage.layout import reports_beside
from zssmnet.storage.records import read_record
from zssmnet.training.checkpoint import EpochResult, TrainingState
from zssmnet.training.dataset import CubeSet
from zssmnet.training.diagnostics import training_warnings

STAGE = "pretrain"


class PretrainingSummary(Summary):
    """The published model, and how it was trained.

    Attributes:
        model: address of the weights under their stable name.
        version: address of the same weights in the folder of their version, which stays.
        run_id, sha256: of the published model.
        history: losses of its training, epoch by epoch.
        is_new: whether anything was done.
        published: whether this training's model is the published one; a challenger that is not better is not.
        challenger_loss, champion_loss: validation losses of both in a challenge, on the same cubes.
    """

    model: str
    version: str
    run_id: str
    sha256: str
    history: tuple[EpochResult, ...]
    best_epoch: int
    best_validation_loss: float
    is_new: bool
    published: bool = True
    challenger_loss: float | None = None
    champion_loss: float | None = None


class Training(BaseModel, frozen=True):
    """The one part of this stage: cubes, where the weights and pictures go, and how to train.

    Attributes:
        challenge: start from the published model, and publish only what is better on the same validation cubes.
        margin_percent: by how much the challenger's validation loss must be lower.
    """

    cubes_path: str
    output_path: str
    config: PretrainConfig
    reports_path: str
    challenge: bool = False
    margin_percent: float = 0.0

    def __str__(self) -> str:
        return "train"


def pretrain(
    cubes_path: Address,
    output_path: Address,
    config: PretrainConfig | None = None,
    *,
    challenge: bool = False,
    margin_percent: MarginPercent = 0.0,
    reports_path: Address | None = None,
    runner: Runner | None = None,
) -> PretrainingSummary:
    """Train MNet to restore corrupted cubes and publish the best model as ``ssl_mnet_zonal.model``.

    An interrupted training continues from its last checkpoint; a finished one is not done again.

    Args:
        cubes_path: the six files of cubes.
        output_path: where weights, versions, checkpoints and TensorBoard logs go.
        config: network, corruption and training recipe; none: the published ones.
        challenge: start from the published model, and publish only what is better on the same validation cubes.
        margin_percent: by how much the challenger's validation loss must be lower.
        reports_path: folder for loss curves and restored cubes; none: ``reports`` beside the weights.
        runner: what runs the training; none: this process.

    Raises:
        ConfigError: a margin out of range.
        CubesError: cubes that cannot be used.
        TrainingError: training that cannot go on.
        LockedError: another run trains there.
    """
    cubes, weights = open_storage(cubes_path), open_storage(output_path)
    reports = open_storage(reports_path or reports_beside(weights.uri))
    work = Training(
        cubes_path=cubes.uri,
        output_path=weights.uri,
        config=PretrainConfig.of(config),
        reports_path=reports.uri,
        challenge=challenge,
        margin_percent=RetrainingConfig(margin_percent=margin_percent).margin_percent,
    )
    (summary,) = (runner or PlainRunner()).map(train_part, [work])
    return summary


def train_part(work: Training) -> PretrainingSummary:
    """Train, publish, and draw the pictures."""
    cubes, weights, reports = (open_storage(path) for path in (work.cubes_path, work.output_path, work.reports_path))
    weights.sweep()
    before = stable_model(weights)
    shown = EpochDisplay(work, current_progress() or Progress())
    if work.challenge:
        _, is_new = challenge(
            cubes, weights, work.config, shown.on_epoch, shown.on_step, shown.end, work.margin_percent
        )
    else:
        _, is_new = train_and_publish(cubes, weights, work.config, shown.on_epoch, shown.on_step, shown.end)
    shown.skip_to(work.config.training.epochs)
    publish_training_pictures(cubes, weights, reports)
    if made := stable_model(weights):
        shown.progress.show("Model", lambda: model_section(weights, reports, made, before))
    return summary_of_training(work, is_new)


def summary_of_training(work: Training, is_new: bool) -> PretrainingSummary:
    """The summary of a training by its records, wherever it ran; ServiceError if there is no such record."""
    summary = recorded_summary(work)
    if summary is None:
        raise ServiceError(f"{work.output_path}: pre-training ended, but its record is not there; run it again")
    return summary.model_copy(update={"is_new": is_new})


def recorded_summary(work: Training) -> PretrainingSummary | None:
    """The summary by the present records, as if it were new; None if there are none."""
    weights = open_storage(work.output_path)
    model = stable_model(weights)
    judgement = read_record(weights, JUDGEMENT, Judgement) if work.challenge else None
    if model is None or (work.challenge and judgement is None):
        return None
    contest = judgement.model_dump(include={"published", "challenger_loss", "champion_loss"}) if judgement else {}
    return PretrainingSummary(
        model=weights.where(MODEL),
        version=weights.where(version_key(model.run_id)),
        run_id=model.run_id,
        sha256=model.outputs[0].sha256,
        history=model.history,
        best_epoch=model.best_epoch,
        best_validation_loss=model.best_validation_loss,
        is_new=True,
        **contest,
    )


class EpochDisplay:
    """Shows the epochs, also those that a resumed run does not repeat; their losses, speed and pictures."""

    EVERY_EPOCHS, EVERY_S, NOT_WITHIN_S = 5, 180.0, 20.0
    """Pictures are drawn after so many epochs or seconds, but seldom: they take time and are large."""

    def __init__(self, work: Training, progress: Progress) -> None:
        self.progress, self._work, self._recipe = progress, work, work.config.training
        progress.begin(STAGE, self._recipe.epochs, "epochs", may_end_early=True)
        self._done = self._reached = self._steps = self._drawn_epoch = 0
        self._losses = ""
        self._epoch_began, self._drawn = time.monotonic(), 0.0

    def on_epoch(self, state: TrainingState) -> None:
        """Show that an epoch is done, and its losses."""
        progress, result = state.progress, state.progress.history[-1]
        self._losses = (
            f"loss {result.train_loss:.4f}, validation {result.validation_loss:.4f}"
            f" (best {progress.best_loss:.4f}, epoch {progress.best_epoch})"
        )
        if result.quality:
            self._losses += f", {result.quality}"
        if found := training_warnings(progress.history, self._steps):
            self._losses += f" · warnings: {', '.join(found)}"
        if epochs := progress.epoch - progress.best_epoch:
            self._losses += f" · ends in {self._recipe.patience - epochs} epochs unless it improves"
        self._epoch_began = time.monotonic()
        self.skip_to(result.epoch - 1)
        self._reached = result.epoch
        self.progress.note(STAGE, self._losses)
        epochs, seconds = progress.epoch - self._drawn_epoch, time.monotonic() - self._drawn
        is_due = seconds >= self.NOT_WITHIN_S and (epochs >= self.EVERY_EPOCHS or seconds >= self.EVERY_S)
        if is_due or not self._drawn_epoch:
            self.progress.show("Model", lambda: self._drawn_now(state))
            self._drawn_epoch, self._drawn = progress.epoch, time.monotonic()

    def on_step(self, done: int, steps: int) -> None:
        """Show the steps within an epoch, and how fast they go."""
        if done == 1:
            self._advance()
        self._steps = steps
        rate = done * self._recipe.batch_size / max(time.monotonic() - self._epoch_began, 1e-9)
        within = f"step {done} of {steps}, {rate:.1f} cubes/s"
        self.progress.note(STAGE, f"{self._losses} · {within}" if self._losses else within)

    def skip_to(self, epoch: int) -> None:
        """Show that the epochs up to this one were done before, or need not be done."""
        self._advance()
        if epoch > self._done:
            self.progress.advance(STAGE, epoch - self._done, earlier=True)
            self._done = self._reached = epoch

    def end(self) -> None:
        """The training is done, and is published next."""
        self._advance()
        self.progress.end(STAGE)

    def _advance(self) -> None:
        """Count an epoch as done when its checkpoint is published: where this raises an error, it is not repeated."""
        if self._reached > self._done:
            self.progress.advance(STAGE, self._reached - self._done)
            self._done = self._reached

    def _drawn_now(self, state: TrainingState) -> str:
        progress, result = state.progress, state.progress.history[-1]
        cubes = open_storage(self._work.cubes_path)
        validation = CubeSet([open_cubes(cubes.local(find_cubes(cubes)[VALIDATION_SUBSET]))])
        title = f"After epoch {result.epoch}, validation loss {result.validation_loss:.4f}, {result.quality}"
        curves = draw_losses(progress.history, progress.best_epoch, f"After epoch {result.epoch}")
        restored = draw_restored(state.model, validation, self._work.config, title)
        return "\n\n".join([f"is being trained: {self._losses}", embedded(curves), embedded(restored)])
