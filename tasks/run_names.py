"""Names of flow runs, by which Prefect's UI and the logs find them: flow, working root, date."""

import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from prefect.context import FlowRunContext

from zssmnet.storage.keys import printable
from zssmnet.storage.layout import ROOT_FOLDER

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi"
    "|omega"
)
_PRAISE = (
    "Rustic|Awesome|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic"
    "|Handcrafted|Tasty|Handmade|Incredible"
)
_OF_THE_FORM = re.compile(rf"({_GREEK})\d*(-[a-z]+)+|({_PRAISE})-[A-Z].{{0,5}}")
"""Names that the run forms of Prefect's UIs propose: a Greek letter, a number perhaps, and places; in the new one an
adjective and a short animal.
"""


def named_after(parameter: str) -> Callable[[], str]:
    """A flow's ``flow_run_name``: flow, last part of the working root in a parameter, date.

    A name that a user gave is kept; one that Prefect has drawn is replaced.
    """

    def name() -> str:
        context = FlowRunContext.get()
        assert context
        assert context.flow
        assert context.flow_run
        if not _is_drawn(context.flow_run.name):
            return str(context.flow_run.name)
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


def _is_drawn(name: str) -> bool:
    """Whether Prefect drew a name by lot, as for every run that nobody names: of words of its lists, or its form's."""
    return bool(_OF_THE_FORM.fullmatch(name)) or (set(name.split("-")) <= _words() and "-" in name)


@cache
def _words() -> frozenset[str]:
    from coolname.data import config

    lists: list[Any] = [*config.values()]
    words = [word for one in lists for word in one.get("words", [])]
    words += [word for one in lists for phrase in one.get("phrases", []) for word in phrase]
    return frozenset(part for word in words for part in word.split("-"))
