"""Tasks on pictures: published under the reports, and shown in Prefect's UI as artifacts of the run."""

import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import cast
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.markdown import code
from tasks.progress import send
from zssmnet.config import CubesConfig, PretrainConfig
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.report.gallery import (
    Picture,
    draw_losses,
    draw_restored,
    publish_case_pictures,
    publish_training_pictures,
)
from zssmnet.storage import Storage, open_storage
from zssmnet.training.checkpoint import TrainingState
from zssmnet.training.dataset import CubeSet

EXPLAINED_VARIANCE = "Explained variance is 100 % where the cubes are restored perfectly, 0 for the best constant."


@task(task_run_name="show-cases", cache_policy=NO_CACHE, persist_result=False)
def show_cases(
    data_path: str, cubes_path: str, reports_path: str, subsets: Sequence[int], config: CubesConfig
) -> list[str]:
    """Pictures of prepared cases with their zones and cubes."""
    reports = open_storage(reports_path)
    keys = publish_case_pictures(open_storage(data_path), open_storage(cubes_path), reports, subsets, config)
    for key in keys:
        _show(reports, key, "A prepared case with its zones and the positions of its cubes")
    return [reports.where(key) for key in keys]


@task(task_run_name="show-training", cache_policy=NO_CACHE, persist_result=False)
def show_training(cubes_path: str, weights_path: str, reports_path: str) -> list[str]:
    """Pictures of the training: loss curves, restored cubes."""
    reports = open_storage(reports_path)
    keys = publish_training_pictures(open_storage(cubes_path), open_storage(weights_path), reports)
    for key in keys:
        _show(reports, key, "How pre-training went")
    return [reports.where(key) for key in keys]


class LivePictures:
    """Loss curves and restored cubes while training goes on: two artifacts, drawn anew now and then."""

    EVERY_EPOCHS, EVERY_S, NOT_WITHIN_S = 5, 180.0, 20.0
    """After so many epochs or seconds, whichever comes first; but seldom, since pictures take time and are large."""

    def __init__(self, cubes_path: str, config: PretrainConfig) -> None:
        self._cubes_path = cubes_path
        self._config = config
        self._artifacts: dict[str, UUID] = {}
        self._epoch, self._time = 0, 0.0

    def on_epoch(self, state: TrainingState) -> None:
        """Draw them, if it is time."""
        epochs, seconds = state.progress.epoch - self._epoch, time.monotonic() - self._time
        if self._epoch and (seconds < self.NOT_WITHIN_S or (epochs < self.EVERY_EPOCHS and seconds < self.EVERY_S)):
            return
        progress = state.progress
        result = progress.history[-1]
        cubes = open_storage(self._cubes_path)
        validation = CubeSet([open_cubes(cubes.local(find_cubes(cubes)[VALIDATION_SUBSET]))])
        explained = "" if result.explained is None else f", explained variance {result.explained:.0%}"
        title = f"Validation cubes after epoch {result.epoch}, loss {result.validation_loss:.4f}{explained}"
        self._show(draw_losses(progress.history, progress.best_epoch, f"After epoch {result.epoch}"))
        self._show(draw_restored(state.model, validation, self._config, title))
        self._epoch, self._time = progress.epoch, time.monotonic()

    def _show(self, picture: Picture) -> None:
        send(picture.key, partial(self._publish, artifact_key(picture.key), embedded(picture)))

    def _publish(self, key: str, markdown: str) -> None:
        markdown = f"{markdown}\n\n{EXPLAINED_VARIANCE}"
        if known := self._artifacts.get(key):
            with get_client(sync_client=True) as client:
                client.update_artifact(known, ArtifactUpdate(data=markdown))
        else:
            made = create_markdown_artifact(key=key, markdown=markdown, description="How pre-training goes")
            self._artifacts[key] = cast(UUID, made)


def artifact_key(key: str) -> str:
    """The key of the artifact that shows a published picture."""
    return key.removesuffix(".png").replace("/", "-").replace("_", "-")


def embedded(picture: Picture) -> str:
    """A picture in Markdown, itself as a data URI, so that the UI loads it from nowhere else."""
    return f"![{artifact_key(picture.key)}](data:image/png;base64,{base64.b64encode(picture.png).decode()})"


def _show(reports: Storage, key: str, description: str) -> None:
    markdown = f"{embedded(Picture(key, reports.read(key)))}\n\n{code(reports.where(key))}"
    create_markdown_artifact(key=artifact_key(key), markdown=markdown, description=description)
