"""Lock the folders that a flow run works in, so that of two runs over one root the second reports the first."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.context import FlowRunContext

from tasks.addresses import STARTED_BY_WORKER
from zssmnet.storage import open_storage
from zssmnet.storage.lock import LockOptions, lock_options, locked


@contextmanager
def alone_in(*folders: str) -> Iterator[None]:
    """Lock folders, under the name of this flow run.

    A run of a deployment waits for another that has a lock: nobody watches it, and it may have been started because
    that other one seemed to have crashed. A command reports which run has the lock, and ends.

    Raises:
        LockedError: another run has locked a folder.
    """
    context = FlowRunContext.get()
    name = f"run {context.flow_run.name!r}" if context and context.flow_run else LockOptions.name
    timeout_s = math.inf if os.environ.get(STARTED_BY_WORKER) else LockOptions.timeout_s
    with ExitStack() as stack:
        stack.enter_context(lock_options(LockOptions(name, timeout_s)))
        for folder in folders:
            stack.enter_context(locked(open_storage(folder)))
        yield
