"""Names and messages of the states in which runs end, as Prefect's UI shows them."""

from typing import TypeVar, cast

from prefect.states import Completed
from pydantic import BaseModel

SummaryT = TypeVar("SummaryT")
ModelT = TypeVar("ModelT", bound=BaseModel)


def ended(summary: SummaryT, name: str, message: str) -> SummaryT:
    """What a flow returns to end in a state of this name, with this message: its caller gets the summary itself."""
    return cast(SummaryT, Completed(name=name, message=message, data=summary))


def as_summary(kind: type[ModelT], returned: object) -> ModelT:
    """What a subflow has returned. Of a run that is started again, Prefect gives what the subflow stored, a dict."""
    return kind.model_validate(returned)
