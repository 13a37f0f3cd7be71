"""TensorBoard logs of a run: losses, learning rate and restored cubes."""

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


def publish_logs(workplace: Storage, state: TrainingState, validation: CubeSet, config: PretrainConfig) -> None:
    """Log the last epoch of a run as an event file of its own; StorageError if it cannot be written.

    TensorBoard reads files in the order of their names, which is that of the epochs. The letter puts them behind those
    of earlier versions, whose names begin with a time. What an earlier process logged of this epoch or later ones,
    perhaps in one file with the epochs before, is hidden.
    """
    result = state.progress.history[-1]
    with temporary_errors(), temporary_folder() as folder:
        with SummaryWriter(str(folder), purge_step=result.epoch) as writer:
            for name, value in _scalars(result).items():
                writer.add_scalar(name, value, result.epoch)
            if result.epoch == 1 or result.epoch % PICTURE_EVERY == 0:
                examples = validation_examples(state.model, validation, config, LOGGED_EXAMPLES)
                writer.add_image("restored cubes", examples_grid(examples), result.epoch, dataformats="HW")
        (file,) = folder.iterdir()
        content = file.read_bytes()
    workplace.publish_bytes(f"{LOGS}/events.out.tfevents.epoch{result.epoch:07d}", content)


def _scalars(result: EpochResult) -> dict[str, float]:
    found = {"loss/training": result.train_loss, "loss/validation": result.validation_loss}
    if result.explained is not None:
        found["explained variance"] = result.explained
    for name, values in (("explained variance", result.explained_by_channel), ("spread", result.spread)):
        found |= {f"{name}/{channel}": value for channel, value in zip(CHANNELS, values or (), strict=False)}
    return found | {"learning rate": result.learning_rate}


def validation_examples(model: torch.nn.Module, validation: CubeSet, config: PretrainConfig, count: int) -> Restored:
    """Some validation cubes, spread over all, corrupted as in validation, restored; on the CPU."""
    chosen = validation.spread(count)
    ((_, keys),) = validation_batches(len(validation), len(validation), config.training.validation_seed)
    model.eval()
    with torch.no_grad():
        return restore(model, validation.batch(chosen), keys[chosen], config.corruption)


def examples_grid(examples: Restored) -> Tensor:
    """Middle slices as one image: a row for each example and channel, in columns corrupted, restored and target."""
    images_3NCZYX = torch.stack((examples.corrupted, examples.restored, examples.target))
    middle_3NCYX = images_3NCZYX[..., images_3NCZYX.shape[3] // 2, :, :]
    columns, _, _, _, x = middle_3NCYX.shape
    return middle_3NCYX.permute(1, 2, 3, 0, 4).reshape(-1, columns * x).clamp(0, 1)
