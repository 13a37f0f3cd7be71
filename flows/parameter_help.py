"""Help texts of a flow's parameters, for the run form of Prefect's UI."""

import inspect
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def with_parameter_help(function: FunctionT) -> FunctionT:
    """Write the descriptions of a flow's parameters into its docstring: Prefect takes its form's help from there.

    Prefect 3.8 drops the description of ``Annotated[..., Field(description=...)]``, where we keep them, one a
    parameter, however many flows have it.
    """
    helps = list(_helps(function))
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *helps])
    return function


def _helps(function: Callable[..., Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = get_args(parameter.annotation) if get_origin(parameter.annotation) in (Union, UnionType) else ()
        for annotation in (parameter.annotation, *kinds):
            described = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
            for one in described:
                if isinstance(one, FieldInfo) and one.description:
                    yield f"    {name}: {one.description}"
