"""Names and messages of the states in which runs end, as Prefect's UI shows them."""

from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow
from prefect.exceptions import MissingResult
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel

SummaryT = TypeVar("SummaryT")
ModelT = TypeVar("ModelT", bound=BaseModel)
P = ParamSpec("P")
_ended: dict[str, Any] = {}
"""The last summary of each flow in this process, by the flow's name."""


def ended(summary: SummaryT, name: str, message: str) -> SummaryT:
    """What a flow returns to end in a state of this name, with this message; `summary_of` gives the summary itself."""
    _ended[str(flow_run.flow_name)] = summary
    return cast(SummaryT, Completed(name=name, message=message, data=summary))


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


def as_summary(kind: type[ModelT], returned: object) -> ModelT:
    """What a subflow has returned. Of a run that is started again, Prefect gives what the subflow stored, a dict."""
    return kind.model_validate(returned)
