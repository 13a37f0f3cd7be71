"""Names of flow runs, by which Prefect's UI and the logs find them: flow, working root, date."""

from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath

from prefect.context import FlowRunContext

from zssmnet.storage.keys import printable
from zssmnet.storage.layout import ROOT_FOLDER


def named_after(parameter: str) -> Callable[[], str]:
    """A flow's ``flow_run_name``: flow, last part of the working root in a parameter, date."""

    def name() -> str:
        context = FlowRunContext.get()
        assert context
        assert context.flow
        return run_name(context.flow.name, str((context.parameters or {}).get(parameter, "")))

    return name


def run_name(flow: str, address: str) -> str:
    """The name of a run of a flow over a working root, or over a folder of one, that starts now."""
    return printable(f"{flow} {_root_name(address)} {datetime.now().astimezone():%Y-%m-%d %H:%M}")


def _root_name(address: str) -> str:
    parts = PurePosixPath(address).parts
    if ROOT_FOLDER in parts[1:]:
        parts = parts[: len(parts) - 1 - parts[::-1].index(ROOT_FOLDER)]
    return parts[-1] if parts else "nothing"
