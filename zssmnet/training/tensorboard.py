"""TensorBoard logs of a run: losses, learning rate and restored cubes."""

import shutil
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from zssmnet.config import PretrainConfig
from zssmnet.data.archive import CHANNELS
from zssmnet.storage import Storage
from zssmnet.storage.temporary import temporary_errors, temporary_folder
from zssmnet.training.checkpoint import EpochResult, TrainingState
from zssmnet.training.dataset import CubeSet
from zssmnet.training.epoch import validation_batches
from zssmnet.training.loss import Restored, restore

LOGS = "tensorboard"
PICTURE_EVERY = 10
"""Epochs between two pictures of restored cubes."""
LOGGED_EXAMPLES = 3


class Monitor(ExitStack):
    """Writes the logs of a run, and publishes them after each epoch into the folder ``tensorboard`` of the run.

    They are event files of a few epochs each, so that what is published grows as they do, and not with their square:
    each ends with a picture, which is most of it.
    """

    def __init__(self, workplace: Storage, validation: CubeSet, config: PretrainConfig) -> None:
        super().__init__()
        self._workplace = workplace
        self._validation = validation
        self._config = config
        with temporary_errors():
            self._folder = self.enter_context(temporary_folder())
        self.callback(self._close)
        self._writer: SummaryWriter | None = None
        self._first_epoch = 0
        self._has_logged = False

    def on_epoch(self, state: TrainingState) -> None:
        """Log the last epoch; StorageError if the logs cannot be written, here or into the run's folder."""
        with temporary_errors():
            self._log(state)
        (file,) = self._folder.iterdir()
        with self._workplace.publishing(f"{LOGS}/{_file_name(self._first_epoch)}") as path:
            shutil.copyfile(file, path)
        if state.progress.epoch % PICTURE_EVERY == 0:
            self._end_file()

    def _end_file(self) -> None:
        self._close()
        with temporary_errors():
            for file in self._folder.iterdir():
                file.unlink()

    def _close(self) -> None:
        with temporary_errors():
            if self._writer:
                self._writer.close()
            self._writer = None

    def _log(self, state: TrainingState) -> None:
        result = state.progress.history[-1]
        if self._writer is None:
            # what an earlier process has logged of this epoch and later ones is hidden, once
            purge_step = None if self._has_logged else result.epoch
            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            self._first_epoch = result.epoch
            self._has_logged = True
        self._writer.add_scalar("loss/training", result.train_loss, result.epoch)
        self._writer.add_scalar("loss/validation", result.validation_loss, result.epoch)
        for name, value in _quality(result).items():
            self._writer.add_scalar(name, value, result.epoch)
        self._writer.add_scalar("learning rate", result.learning_rate, result.epoch)
        if result.epoch == 1 or result.epoch % PICTURE_EVERY == 0:
            examples = validation_examples(state.model, self._validation, self._config, LOGGED_EXAMPLES)
            self._writer.add_image("restored cubes", examples_grid(examples), result.epoch, dataformats="HW")
        self._writer.flush()


def _file_name(first_epoch: int) -> str:
    """The name of an event file. TensorBoard reads files in the order of their names, which is that of epochs here.

    PyTorch's names have the second and a count in them: of several in one second the tenth comes before the second. The
    letter puts them behind those of earlier versions, which begin with a time.
    """
    return f"events.out.tfevents.epoch{first_epoch:07d}"


def _quality(result: EpochResult) -> dict[str, float]:
    """Results of validation beside the loss, by the names of their scalars."""
    spreads = zip(CHANNELS, result.spread or (), strict=False)
    explained = {} if result.explained is None else {"explained variance": result.explained}
    return explained | {f"spread/{channel}": spread for channel, spread in spreads}


def validation_examples(model: torch.nn.Module, validation: CubeSet, config: PretrainConfig, count: int) -> Restored:
    """Some validation cubes, spread over all, corrupted as in validation, restored; on the CPU."""
    chosen = torch.linspace(0, len(validation) - 1, min(count, len(validation))).round().long()
    ((_, keys),) = validation_batches(len(validation), len(validation), config.training.validation_seed)
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        shown = restore(model, validation.batch(chosen).to(device), keys[chosen], config.corruption)
    return Restored(shown.corrupted.cpu(), shown.restored.cpu(), shown.target.cpu())


def examples_grid(examples: Restored) -> Tensor:
    """Middle slices as one image: a row for each example and channel, in columns corrupted, restored and target."""
    images_3NCZYX = torch.stack((examples.corrupted, examples.restored, examples.target))
    middle_3NCYX = images_3NCZYX[..., images_3NCZYX.shape[3] // 2, :, :]
    columns, _, _, _, x = middle_3NCYX.shape
    return middle_3NCYX.permute(1, 2, 3, 0, 4).reshape(-1, columns * x).clamp(0, 1)
