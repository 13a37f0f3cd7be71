"""Where the tasks of a flow run, and how many at the same time: in threads here, or on a Dask cluster.

Chosen by environment variables, which are read when a flow is defined. Without them Dask is not even imported.
"""

import os
from typing import Any, NoReturn

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from typing_extensions import override

from flows.dask_settings import ADDRESS, ARGUMENTS, CLUSTER, check_server_is_named, cluster_arguments
from zssmnet.errors import ConfigError

Runner = TaskRunner[Any]


def chosen_runner() -> Runner:
    """What the environment asks for; where it cannot be had, a runner that raises the reason at its first task.

    A flow that could not even be imported would count as crashed, and be restarted repeatedly.
    """
    try:
        return dask_cluster() or one_task_a_core()
    except ConfigError as error:
        return _Refusing(error)


def check_choice() -> None:
    """Raise a ConfigError if tasks cannot run where the environment asks for, before anything is done."""
    if dask_cluster():
        check_server_is_named()


def one_task_a_core() -> Runner:
    """Threads, one a core: SimpleITK releases Python's lock, and each filter takes one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return ThreadPoolTaskRunner(max_workers=cores)


def dask_cluster() -> Runner | None:
    """The Dask cluster that the environment names, if any; nothing is started or connected to yet.

    Raises:
        ConfigError: variables that cannot be used, or Dask is not installed.
    """
    address, cluster = os.environ.get(ADDRESS), os.environ.get(CLUSTER)
    if not address and not cluster:
        if os.environ.get(ARGUMENTS):
            raise ConfigError(f"{ARGUMENTS} is set, but {CLUSTER} is not: name the cluster's class there, or unset it")
        return None
    if address and cluster:
        raise ConfigError(f"{ADDRESS}={address} and {CLUSTER}={cluster}: unset one of the two")
    if address and os.environ.get(ARGUMENTS):
        raise ConfigError(f"{ADDRESS}={address}: a cluster that is there takes no arguments; unset {ARGUMENTS}")
    try:
        from flows.on_dask import OnDask
    except ImportError as error:
        named = f"{ADDRESS}={address}" if address else f"{CLUSTER}={cluster}"
        raise ConfigError(f"{named}: {error}; install it with 'pip install prefect-dask', or unset it") from error
    return OnDask.at(address) if address else OnDask.started(str(cluster), cluster_arguments())


class _Refusing(ThreadPoolTaskRunner[Any]):
    """Refuses every task, with the reason."""

    def __init__(self, reason: ConfigError) -> None:
        super().__init__()
        self._reason = reason

    @override
    def duplicate(self) -> "_Refusing":
        return type(self)(self._reason)

    @override
    def submit(self, *task: Any, **more: Any) -> NoReturn:
        raise self._reason
