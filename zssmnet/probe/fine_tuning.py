"""Fine-tuning of one network on a few labelled cases, and its predictions for the test cases."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from zssmnet.config import ProbeConfig, ProbeScale, TrainingConfig
from zssmnet.corruption import LAYOUT
from zssmnet.errors import NonFiniteLossError
from zssmnet.probe.labels import LabelledCase
from zssmnet.training.optimizer import make_optimizer, make_schedule
from zssmnet.training.precision import accelerated

CLASSES = {"lesions": 2, "zones": 3}
_DRAWS = 20_000
_PREDICTED = 4
"""Batches of training in one of prediction, which keeps nothing for gradients."""


class WithFrequencies(nn.Module):
    """A network that predicts, before it is trained, the classes' frequencies.

    Their logarithms are added to its logits (Menon et al., ICLR 2021). Without it the first hundred steps go into
    learning that lesions are rare, and the initial seed decides when they end.

    Args:
        network: (N, 6, Z, Y, X) to logits (N, K, Z, Y, X).
        frequencies_K: shares of the classes, which sum to 1.
    """

    def __init__(self, network: nn.Module, frequencies_K: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", frequencies_K.log()[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K, Z, Y, X)."""
        logits: Tensor = self.network(x) + self.offset
        return logits


def class_frequencies(cases: Sequence[LabelledCase], classes: int) -> Tensor:
    """Share of each class among all voxels of the cases (K,); one voxel more of each, so that none is 0."""
    counts = torch.bincount(torch.cat([case.label_ZYX.flatten() for case in cases]), minlength=classes) + 1
    return counts / counts.sum()


def fine_tune(
    model: nn.Module,
    labelled: Sequence[LabelledCase],
    test: Sequence[LabelledCase],
    learning_rate: float,
    seed: int,
    config: ProbeConfig,
) -> Iterator[tuple[int, list[Tensor]]]:
    """Train, with AdamW, a warm-up and a cosine over all steps, and predict the test cases after some of them.

    Windows, their order and their flips follow from the seed alone: all arms see the same.

    Yields:
        The number of steps, and class probabilities (K, Z, Y, X) of each test case.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    scale = config.scale
    device = next(model.parameters()).device
    steps = config.looks[-1]
    recipe = TrainingConfig(
        epochs=steps,
        learning_rate=learning_rate,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warm_up_epochs=max(1, steps // 5),
    )
    network = WithFrequencies(accelerated(model, device, recipe), class_frequencies(labelled, CLASSES[config.task]))
    optimizer = make_optimizer(model, device, recipe)
    schedule = make_schedule(optimizer, recipe)  # a step of it is a step of training here
    generator = torch.Generator().manual_seed(_DRAWS + seed)
    for step in range(1, steps + 1):
        inputs, labels = _batch(labelled, scale, generator)
        network.train()
        optimizer.zero_grad(set_to_none=True)
        loss = segmentation_loss(network(inputs.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step in config.looks:
            if not loss.isfinite():
                raise NonFiniteLossError(f"fine-tuning at learning rate {learning_rate:g}: the loss is {loss.item()}")
            yield step, predict(network, test, scale)


def segmentation_loss(logits_NKZYX: Tensor, label_NZYX: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of the foreground, as nnU-Net sums them."""
    probability = logits_NKZYX.softmax(dim=1)
    truth = functional.one_hot(label_NZYX, logits_NKZYX.shape[1]).movedim(-1, 1).to(probability.dtype)
    overlap = (probability * truth).sum(dim=(0, 2, 3, 4))[1:]
    sizes = (probability + truth).sum(dim=(0, 2, 3, 4))[1:]
    dice = (2 * overlap + 1) / (sizes + 1)
    return functional.cross_entropy(logits_NKZYX, label_NZYX) + 1 - dice.mean()


@torch.no_grad()
def predict(network: nn.Module, cases: Sequence[LabelledCase], scale: ProbeScale) -> list[Tensor]:
    """Class probabilities (K, Z, Y, X) of whole boxes, on the CPU, by windows as large as those of training."""
    if not cases:
        return []
    device = next(network.parameters()).device
    network.eval()
    x, y, z = scale.window
    nx, ny, nz = scale.windows
    tiles = [
        case.input_CZYX.reshape(-1, nz, z, ny, y, nx, x).permute(1, 3, 5, 0, 2, 4, 6).flatten(0, 2) for case in cases
    ]
    batches = torch.split(torch.cat(tiles), _PREDICTED * scale.batch_size)
    found = [network(some.contiguous(memory_format=LAYOUT).to(device)).softmax(dim=1).cpu() for some in batches]
    return [
        one.reshape(nz, ny, nx, -1, z, y, x).permute(3, 0, 4, 1, 5, 2, 6).reshape(-1, *case.label_ZYX.shape)
        for one, case in zip(torch.split(torch.cat(found), nz * ny * nx), cases, strict=True)
    ]


def _batch(cases: Sequence[LabelledCase], scale: ProbeScale, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows (N, 6, Z, Y, X) and labels (N, Z, Y, X): every other window lies around a voxel of the foreground."""
    inputs, labels = [], []
    for number in range(scale.batch_size):
        case = cases[int(torch.randint(len(cases), (1,), generator=generator))]
        part = _window(case, scale, generator, around_foreground=number % 2 == 0)
        window, label = case.input_CZYX[:, *part], case.label_ZYX[part]
        if torch.rand(1, generator=generator) < 0.5:
            window, label = window.flip(-1), label.flip(-1)
        inputs.append(window)
        labels.append(label)
    return torch.stack(inputs).contiguous(memory_format=LAYOUT), torch.stack(labels)


def _window(
    case: LabelledCase, scale: ProbeScale, generator: torch.Generator, around_foreground: bool
) -> tuple[slice, slice, slice]:
    shape, size = case.label_ZYX.shape, scale.window[::-1]
    draws = torch.rand(4, generator=generator).tolist()
    starts = [int(share * (n - m + 1)) for share, n, m in zip(draws, shape, size, strict=False)]
    foreground = torch.nonzero(case.label_ZYX) if around_foreground else torch.empty(0)
    if len(foreground):
        place = foreground[int(draws[3] * len(foreground))].tolist()
        # the voxel lies anywhere in the window's middle half
        shifts = [int(m * (0.25 + share / 2)) for share, m in zip(draws, size, strict=False)]
        starts = [min(max(0, at - by), n - m) for at, by, n, m in zip(place, shifts, shape, size, strict=True)]
    z, y, x = (slice(start, start + m) for start, m in zip(starts, size, strict=True))
    return z, y, x
