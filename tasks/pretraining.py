"""Task on weights: training from the cubes to the published model."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.progress import display
from zssmnet.config import PretrainConfig
from zssmnet.storage import open_storage
from zssmnet.training.checkpoint import TrainingState
from zssmnet.training.pretraining import MODEL, pretrain

STAGE = "pretrain"


class TrainingOutcome(BaseModel):
    """What became of pre-training."""

    model: str
    run_id: str
    epochs: int
    best_epoch: int
    first_validation_loss: float
    best_validation_loss: float
    is_new: bool


@task(task_run_name="train", cache_policy=NO_CACHE, persist_result=False)
def train(cubes_path: str, output_path: str, config: PretrainConfig) -> TrainingOutcome:
    """Train MNet and publish its best weights."""
    weights = open_storage(output_path)
    weights.sweep()
    shown = EpochDisplay(config.training.epochs)
    record, is_new = pretrain(open_storage(cubes_path), weights, config, shown.on_epoch, shown.on_step)
    shown.advance_to(config.training.epochs)
    return TrainingOutcome(
        model=weights.where(MODEL),
        run_id=record.run_id,
        epochs=len(record.history),
        best_epoch=record.best_epoch,
        first_validation_loss=record.history[0].validation_loss,
        best_validation_loss=record.best_validation_loss,
        is_new=is_new,
    )


class EpochDisplay:
    """Shows the epochs on the display, also those that a resumed run does not repeat."""

    def __init__(self, epochs: int) -> None:
        self._shown = display()
        self._shown.begin(STAGE, epochs)
        self._done = 0

    def on_epoch(self, state: TrainingState) -> None:
        """Show that an epoch is done, and its losses."""
        result = state.progress.history[-1]
        self._shown.note(STAGE, f"loss {result.train_loss:.4f}, validation {result.validation_loss:.4f}")
        self.advance_to(result.epoch)

    def on_step(self, done: int, steps: int) -> None:
        """Show the steps within an epoch, until there are losses to show."""
        if not self._done:
            self._shown.note(STAGE, f"step {done} of {steps}")

    def advance_to(self, epoch: int) -> None:
        """Show that all epochs up to this one are done."""
        self._shown.advance(STAGE, epoch - self._done)
        self._done = epoch
