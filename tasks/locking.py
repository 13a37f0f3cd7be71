"""A run holds the folders that it works in, so that of two over one root the second finds out who holds it."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.context import FlowRunContext

from zssmnet.storage import open_storage
from zssmnet.storage.lock import Manners, held, with_manners

_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""A variable that Prefect sets for the runs of deployments."""


@contextmanager
def alone_in(*folders: str) -> Iterator[None]:
    """Hold folders, under the name of this flow run.

    A run of a deployment waits for another that holds one: nobody sits beside it, and it may have been sent because
    that other one seemed to have gone. A command says who holds it, and ends.

    Raises:
        HeldError: another run holds a folder.
    """
    context = FlowRunContext.get()
    name = f"run {context.flow_run.name!r}" if context and context.flow_run else Manners.name
    patience_s = math.inf if os.environ.get(_STARTED_BY_WORKER) else Manners.patience_s
    with ExitStack() as stack:
        stack.enter_context(with_manners(Manners(name, patience_s)))
        for folder in folders:
            stack.enter_context(held(open_storage(folder)))
        yield
