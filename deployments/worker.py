"""Prefect's worker of process pools, which waits with a run that was resumed until the run's process has ended.

``prefect worker start`` finds it by this package's entry point in the group ``prefect.collections``. Prefect's own
counts a run by its id as long as its process lives, and ends with all its runs when the same one comes once more.
"""

import warnings
from typing import TYPE_CHECKING

from prefect.client.schemas.objects import FlowRun
from prefect.workers import process
from typing_extensions import override

if TYPE_CHECKING:
    from prefect.client.schemas.responses import WorkerFlowRunResponse

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it is to take the place of the other

    class ProcessWorker(process.ProcessWorker):
        """Starts runs as processes of its machine."""

        type = "process"

        @override
        async def _submit_scheduled_flow_runs(self, flow_run_response: "list[WorkerFlowRunResponse]") -> list[FlowRun]:
            alive = self._limiter.statistics().borrowers if self._limiter else ()
            return await super()._submit_scheduled_flow_runs(
                [one for one in flow_run_response if one.flow_run.id not in alive]
            )
