"""Names and messages of the states in which runs end, as Prefect's UI shows them."""

from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow
from prefect.exceptions import MissingResult
from prefect.runtime import flow_run
from prefect.states import Completed

from zssmnet.stages.prepare import PreparationSummary

SummaryT = TypeVar("SummaryT")
P = ParamSpec("P")
_ended: dict[str, Any] = {}
"""The last summary of each flow in this process, by the flow's name."""


def ended(summary: SummaryT, name: str, message: str) -> SummaryT:
    """What a flow returns to end in a state of this name, with this message; `summary_of` gives the summary itself."""
    _ended[str(flow_run.flow_name)] = summary
    return cast(SummaryT, Completed(name=name, message=message, data=summary))


def state_after(prepared: PreparationSummary) -> tuple[str, str]:
    """Name and message of the state in which a run ends that prepared these cases."""
    name = "Cases left out" if prepared.left_out else "With warnings" if prepared.warnings else "Completed"
    used = f"{prepared.used} of {prepared.used + len(prepared.left_out)} cases used"
    return name, f"{used}, {prepared.warnings} with warnings" if prepared.warnings else used


def summary_of(flow: Flow[P, SummaryT], *args: P.args, **kwargs: P.kwargs) -> SummaryT:
    """Run a flow in this process; its summary.

    Prefect takes it from the state that the server has accepted. If the answer was lost, or came too late, the state is
    sent again, and what comes back is the server's own, without the summary.
    """
    _ended.pop(flow.name, None)
    try:
        return flow(*args, **kwargs)
    except MissingResult:
        if flow.name not in _ended:
            raise
        return cast(SummaryT, _ended[flow.name])
