"""The stages as flows: the same arguments, a runner that maps tasks, and a state that says what came of it."""

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar, cast, get_args

from prefect import Flow, flow
from prefect.exceptions import CancelledRun, MissingResult
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed
from pydantic import Field

from tasks.announcement import announce
from tasks.attention import check_disks
from tasks.folders import check_valid_everywhere, given
from tasks.hand_off import HERE, HandOff
from tasks.run_names import named_after
from tasks.runner import flow_runner, task_runner
from zssmnet.config import CasesPerTask
from zssmnet.errors import InputError
from zssmnet.runner import Summary
from zssmnet.stages.cubes import generate_cubes as cut_cubes
from zssmnet.stages.pipeline import run_pipeline
from zssmnet.stages.prepare import prepare_archive
from zssmnet.stages.pretrain import pretrain as train
from zssmnet.stages.probe import probe_weights
from zssmnet.stages.retrain import retrain
from zssmnet.stages.segment_zones import segment_zones as make_masks
from zssmnet.stages.train_zones import train_zones as train_networks
from zssmnet.storage import Address, open_storage
from zssmnet.storage.layout import Layout

SummaryT = TypeVar("SummaryT", bound=Summary)
HandOffChoice = Annotated[HandOff, Field(description="Where pre-training runs")]
_ended: dict[str, Any] = {}
"""The last summary of each flow in this process, by the flow's name."""


def as_flow(
    stage: Callable[..., SummaryT],
    name: str,
    root: str,
    more: dict[str, tuple[Any, Any]] | None = None,
    is_scheduled: bool = False,
) -> Flow[..., SummaryT]:
    """A flow that runs a stage.

    Args:
        root: the parameter after whose last folder runs are named.
        more: annotation and default of the flow's own parameters, those of `flow_runner`.
        is_scheduled: whether schedules and events start it, for which no parameter may be required.
    """
    own = more or {}
    taken = [one for one in inspect.signature(stage, eval_str=True).parameters.values() if one.name != "runner"]
    needed = [one.name for one in taken if is_scheduled and one.default is one.empty and one.annotation == Address]
    added = [
        inspect.Parameter(option, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)
        for option, (annotation, default) in own.items()
    ]
    signature = inspect.Signature([*(_parameter(one, is_scheduled) for one in taken), *added])

    def run(*values: Any, **named: Any) -> SummaryT:
        bound = signature.bind(*values, **named)
        bound.apply_defaults()
        arguments = bound.arguments
        given(**{name: arguments[name] for name in needed})
        options = {option: arguments.pop(option) for option in own}
        check_valid_everywhere(*_addresses(arguments), elsewhere=bool(options.get("hand_off", HERE).deployment))
        check_disks(arguments[root])
        try:
            with flow_runner(**options) as runner:
                done = stage(**arguments, runner=runner)
        except CancelledRun:  # no failure, and nothing for an automation to start again
            return cast(SummaryT, Cancelled(message="Cancelled by a user; run it again to continue."))
        if is_scheduled:  # also what an earlier run has published that was killed before this
            announce(open_storage(Layout(arguments["root"]).weights), "challenge")
        _ended[str(flow_run.flow_name)] = done
        state, message = done.outcome
        return cast(SummaryT, Completed(name=state, message=message, data=done))

    run.__name__ = run.__qualname__ = name.replace("-", "_")
    run.__signature__ = signature  # type: ignore[attr-defined]
    helps = "".join(f"    {option}: {get_args(annotation)[1].description}\n" for option, (annotation, _) in own.items())
    run.__doc__ = (inspect.getdoc(stage) or "").replace("Args:\n", f"Args:\n{helps}", 1)
    make = flow(name=name, flow_run_name=named_after(root), task_runner=task_runner())
    return cast("Flow[..., SummaryT]", make(run))


def _parameter(one: inspect.Parameter, is_scheduled: bool) -> inspect.Parameter:
    """A parameter of a stage as one of its flow's; an address is a text in the run form."""
    annotation, default = one.annotation, one.default
    if is_scheduled and default is one.empty:
        annotation, default = Address | None, None
    texts = {Address: str, Address | None: str | None}
    return one.replace(kind=one.POSITIONAL_OR_KEYWORD, annotation=texts.get(annotation, annotation), default=default)


def _addresses(arguments: dict[str, Any]) -> Iterator[str]:
    """The addresses among arguments; weights may be several, with commas. InputError for an empty one."""
    for name, value in arguments.items():
        if name == "weights" and value:
            yield from (file for one in ([value] if isinstance(value, str) else value) for file in one.split(","))
        elif isinstance(value, str) and (name in ("root", "model", "zones_model") or name.endswith("_path")):
            if not value[:1].strip():
                raise InputError(f"{name} is {value!r}: name a folder or file without blanks before it, or None")
            yield value


def summary_of(flow: Flow[..., SummaryT], arguments: dict[str, Any]) -> SummaryT:
    """Run a flow in this process; its summary.

    Prefect takes it from the state that the server has accepted. If the answer was lost, or came too late, the state is
    resubmitted, and what comes back is the server's own, without the summary.
    """
    _ended.pop(flow.name, None)
    try:
        return cast(SummaryT, flow(**arguments))
    except MissingResult:
        if flow.name not in _ended:
            raise
        return cast(SummaryT, _ended[flow.name])


_HAND_OFF = {"hand_off": (HandOffChoice, HERE)}
_CASES_PER_TASK = {"cases_per_task": (CasesPerTask, None)}

prepare_data = as_flow(prepare_archive, "prepare-data", "output_path", _CASES_PER_TASK)
generate_cubes = as_flow(cut_cubes, "generate-cubes", "output_path")
pretrain = as_flow(train, "pretrain", "output_path")
ssl_pretraining = as_flow(run_pipeline, "ssl-pretraining", "root", _CASES_PER_TASK | _HAND_OFF)
retrain_on_new_data = as_flow(retrain, "retrain-on-new-data", "root", _CASES_PER_TASK | _HAND_OFF, is_scheduled=True)
train_zones = as_flow(train_networks, "train-zones", "root")
segment_zones = as_flow(make_masks, "segment-zones", "output_path")
probe = as_flow(probe_weights, "probe", "output_path")
