"""Fine-tuning of one network on a few labelled cases, and its predictions for the test cases."""

from collections.abc import Iterator, Sequence

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
    test: Sequence[LabelledCase],
    learning_rate: float,
    seed: int,
    config: ProbeConfig,
    head_factor: float = 1.0,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Train, with AdamW, a warm-up and a cosine over all steps, and predict the test cases after some of them.

    Windows, their order and their flips follow from the seed alone: all arms see the same.

    Args:
        head_factor: by how much faster new heads learn than the rest.

    Yields:
        The number of steps, and class probabilities (K, Z, Y, X) of each test case.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    scale, steps = config.scale, config.looks[-1]
    training = TrainingConfig(
        epochs=steps,  # of one step each
        batch_size=scale.batch_size,
        learning_rate=learning_rate,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warm_up_epochs=max(1, steps // 5),
    )
    recipe = Recipe(training, scale.window, head_factor=head_factor)
    tuner = FineTuner(model, labelled, CLASSES[config.task], recipe, _DRAWS + seed)
    for step in range(1, steps + 1):
        loss = tuner.epoch()
        if step in config.looks:
            tuner.checked(loss)
            with tuner.computing():
                found = predict(tuner.network, [case.input_CZYX for case in test], scale.window, scale.batch_size)
            yield step, found
