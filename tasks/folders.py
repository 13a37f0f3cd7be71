"""Folders of a run: the same for each of its processes, or refused before any work; locked; seen by all machines.

On a machine where a disk is not mounted every file seems to be missing, and what is published there is lost.
"""

import math
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from prefect.context import FlowRunContext

from zssmnet.data.archive import shortened
from zssmnet.errors import InputError, StorageError
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.storage.lock import LockOptions, lock_options, locked
from zssmnet.storage.records import record_names

STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""A variable that Prefect sets for the runs of deployments."""


def check_valid_everywhere(*addresses: str | None, elsewhere: bool = False) -> None:
    """Check that addresses mean the same in every process that a run has.

    Args:
        addresses: folders and files; None is none.
        elsewhere: whether a part of the run works in another process, though the run itself was started here.

    Raises:
        InputError: one depends on the current folder or on the user, in a run of a deployment, whose current folder
            is a temporary one, or in one with parts elsewhere.
    """
    context = FlowRunContext.get()
    deployed = bool(
        os.environ.get(STARTED_BY_WORKER) or (context and context.flow_run and context.flow_run.deployment_id)
    )
    for address in addresses if deployed or elsewhere else ():
        if address and "://" not in address and not address.startswith("/"):
            raise InputError(
                f"{address}: means another folder in another process, where this run works: name the whole path from "
                "/ on, or s3://bucket/prefix"
            )


def given(**parameters: str | None) -> tuple[str, ...]:
    """The values of parameters that schedules and events must find in the deployment.

    Prefect starts no run, or one that crashes with a traceback, where a required parameter is missing: the flows that
    schedules and events start require none, and this says it, as a run that fails.

    Raises:
        InputError: one is missing.
    """
    if missing := ", ".join(name for name, value in parameters.items() if not value):
        raise InputError(
            f"not given: {missing}; set it once in the deployment's parameters (in the UI: Deployments, Edit), where "
            "every schedule and event finds it"
        )
    return tuple(str(value) for value in parameters.values())


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


_SHARE = "let all machines see this folder under the same path, or keep it on S3"


def check_visible(*inputs: Storage) -> None:
    """Raise a StorageError if a folder with inputs is not there, or empty, as where a disk is not mounted."""
    for storage in inputs:
        if isinstance(storage, LocalStorage) and not _has_content(storage):
            raise StorageError(f"{storage.uri}: not there, or empty, on {socket.gethostname()}; {_SHARE}")


def check_outputs_visible(output: Storage, names: Iterable[str]) -> None:
    """Raise a StorageError if what tasks published, by the names of its records, cannot be seen on this machine."""
    if absent := sorted(set(names) - set(record_names(output))):
        raise StorageError(
            f"{output.uri}: was written by tasks elsewhere, but is not visible on {socket.gethostname()}: "
            f"{shortened(absent)}; {_SHARE}"
        )


def _has_content(storage: LocalStorage) -> bool:
    try:
        return next(storage.folder.iterdir(), None) is not None
    except OSError:
        return False
