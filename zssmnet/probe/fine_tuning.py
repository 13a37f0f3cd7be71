"""Fine-tuning of one network on a few labelled cases, and its predictions for others."""

from collections.abc import Sequence

from torch import Tensor, nn

from zssmnet.config import ProbeConfig, TrainingConfig
from zssmnet.finetuning.fit import FineTuner, Recipe
from zssmnet.finetuning.windows import predict
from zssmnet.probe.labels import LabelledCase

CLASSES = {"lesions": 2, "zones": 3}
_DRAWS = 20_000


def fine_tune(
    model: nn.Module,
    labelled: Sequence[LabelledCase],
    cases: Sequence[LabelledCase],
    learning_rate: float,
    seed: int,
    config: ProbeConfig,
    head_factor: float = 1.0,
) -> list[Tensor]:
    """Train, with AdamW, a warm-up and a cosine over all steps; class probabilities (K, Z, Y, X) of each of the cases.

    Windows, their order and their flips follow from the seed alone: all arms see the same.

    Args:
        head_factor: by how much faster new heads learn than the rest.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    scale = config.scale
    training = TrainingConfig(
        epochs=config.steps,  # of one step each
        batch_size=scale.batch_size,
        learning_rate=learning_rate,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warm_up_epochs=max(1, config.steps // 5),
    )
    recipe = Recipe(training, scale.window, head_factor=head_factor)
    tuner = FineTuner(model, labelled, CLASSES[config.task], recipe, _DRAWS + seed)
    losses = [tuner.epoch() for _ in range(config.steps)]
    tuner.checked(losses[-1])
    with tuner.computing():
        return predict(tuner.network, [case.input_CZYX for case in cases], scale.window, scale.batch_size)
