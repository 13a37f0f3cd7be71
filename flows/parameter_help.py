"""Parameters of flows, and their help texts for the run form of Prefect's UI."""

import inspect
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from tasks.hand_off import HandOff
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig

WorkingRoot = Annotated[
    str, Field(min_length=1, description="Working root, a folder or s3://bucket/prefix; all files go to SSL/ below it")
]
PreparationSettings = Annotated[
    PreparationConfig | None, Field(description="Resampling and cropping; none: the defaults")
]
CubesSettings = Annotated[
    CubesConfig | None, Field(description="Number, size, type and seed of the cubes; none: the defaults")
]
PretrainSettings = Annotated[
    PretrainConfig | None, Field(description="Network, corruption and training recipe; none: the defaults")
]
HandOffChoice = Annotated[HandOff, Field(description="Where pre-training runs")]
"""Sections of the run form; one that is none by default is folded."""

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
