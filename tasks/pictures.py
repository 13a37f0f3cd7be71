"""Tasks on pictures: published under the reports, and shown in Prefect's UI as artifacts of the run."""

import base64
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.markdown import code
from zssmnet.config import CubesConfig
from zssmnet.report.gallery import publish_case_pictures, publish_training_pictures
from zssmnet.storage import Storage, open_storage


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


def _show(reports: Storage, key: str, description: str) -> None:
    """An artifact with the picture itself as a data URI, so that the UI loads it from nowhere else."""
    name = key.removesuffix(".png").replace("/", "-").replace("_", "-")
    png = base64.b64encode(reports.read(key)).decode()
    create_markdown_artifact(
        key=name,
        markdown=f"![{name}](data:image/png;base64,{png})\n\n{code(reports.where(key))}",
        description=description,
    )
