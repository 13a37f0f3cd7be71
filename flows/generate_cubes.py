"""Flow: from prepared cases to cubes, a task a subset."""

import logging
from typing import Annotated

from prefect import flow
from prefect.futures import as_completed
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.parameter_help import with_parameter_help
from tasks.cubes import STAGE, SubsetOutcome, cut_cubes, tidy_cubes
from tasks.folders import alone_in, check_outputs_visible, check_valid_everywhere
from tasks.pictures import show_cases
from tasks.progress import display, shown_in_run
from tasks.run_names import named_after
from zssmnet.config import CubesConfig
from zssmnet.data.splits import SUBSETS
from zssmnet.preparation.cubes import check_prepared, cubes_key
from zssmnet.storage import open_storage
from zssmnet.storage.layout import reports_beside

log = logging.getLogger("zssmnet.flows")

CubesSettings = Annotated[
    CubesConfig | None, Field(description="Number, size, type and seed of the cubes; none: the defaults")
]


class CubesSummary(BaseModel):
    """What came of cutting cubes."""

    cubes_path: str
    subsets: list[SubsetOutcome]

    @property
    def cubes(self) -> int:
        """Cubes in all subsets together."""
        return sum(outcome.cubes for outcome in self.subsets)


@flow(
    name="generate-cubes",
    flow_run_name=named_after("output_path"),
    task_runner=chosen_runner(),
)
@with_parameter_help
def generate_cubes(
    data_path: Annotated[str, Field(description="Folder of the prepared cases, SSL/data of a working root")],
    output_path: Annotated[str, Field(description="Folder for the cubes, SSL/generated_cubes of a working root")],
    subsets: Annotated[list[int] | None, Field(description="Subsets to cut, of 0 to 5; none: all six")] = None,
    config: CubesSettings = None,
    reports_path: Annotated[
        str | None, Field(description="Folder for pictures; none: reports beside the cubes")
    ] = None,
) -> CubesSummary:
    """Cut random cubes of 64 x 64 x 16 voxels from every prepared case, one file a subset."""
    check_valid_everywhere(data_path, output_path, reports_path)
    config = config or CubesConfig()
    wanted = list(SUBSETS) if subsets is None else sorted(set(subsets))
    counts = check_prepared(open_storage(data_path), wanted)
    with alone_in(output_path), shown_in_run():
        output = open_storage(output_path)
        output.sweep()
        shown = display()
        shown.begin(STAGE, sum(counts.values()), "cases")
        futures = [cut_cubes.submit(subset, data_path, output_path, config) for subset in wanted]
        outcomes: list[SubsetOutcome] = []
        for future in as_completed(futures):
            outcomes.append(outcome := future.result())
            shown.advance(STAGE, outcome.cases - outcome.shown, earlier=not outcome.is_new)
        outcomes.sort(key=lambda outcome: outcome.subset)
        check_outputs_visible(output, [cubes_key(config, outcome.subset) for outcome in outcomes])
        if subsets is None:
            tidy_cubes(output_path, config)
    show_cases(data_path, output_path, reports_path or reports_beside(output_path), wanted, config)
    summary = CubesSummary(cubes_path=output_path, subsets=outcomes)
    new = sum(outcome.is_new for outcome in outcomes)
    log.info("%d cubes in %d subsets, %d of them new or renewed", summary.cubes, len(outcomes), new)
    return summary
