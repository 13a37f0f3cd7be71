"""Tasks on a Dask cluster, with errors of one line. Only imported where the environment asks for it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distributed import CancelledError, Client, KilledWorker, LocalCluster
from distributed.deploy.cluster import Cluster
from prefect.utilities.importtools import from_qualified_name
from prefect_dask.client import PrefectDaskClient
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture
from typing_extensions import override

from flows.dask_settings import ADDRESS, ARGUMENTS, CLUSTER, check_server_is_named
from zssmnet.errors import ConfigError, ServiceError

logging.getLogger("distributed.client").addFilter(lambda record: not record.exc_info)
"""What Dask's client logs with a traceback, a lost scheduler, ends the run with an error of one line."""


class TaskOnDask(PrefectDaskFuture[Any]):
    """A task that was sent to the cluster. One whose worker ends is done again by another; not for ever."""

    @override
    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        try:
            return super().result(timeout, raise_on_failure)
        except KilledWorker as error:
            raise ServiceError(
                f"Dask gave a task up after {error.allowed_failures + 1} workers had ended at it, the last at "
                f"{error.last_worker.address if error.last_worker else 'an unknown address'}: look into their logs "
                "(memory?) and run again; what is done is not done again"
            ) from error
        except CancelledError as error:
            raise ServiceError(
                f"Dask's scheduler has gone, and the tasks with it: {_line(error)}; see to it and run again: what is "
                "done is not done again"
            ) from error


class OnDask(DaskTaskRunner):
    """Prefect's runner for Dask."""

    @classmethod
    def at(cls, address: str) -> "OnDask":
        """On a cluster that is there."""
        return cls(address=address)

    @classmethod
    def started(cls, name: str, arguments: Mapping[str, Any]) -> "OnDask":
        """On a cluster that is started for a flow.

        Raises:
            ConfigError: there is no such class, or an argument is not the user's to give.
        """
        try:
            found = from_qualified_name(name)
        except Exception as error:  # whatever that module raises when it is imported
            raise ConfigError(f"{CLUSTER}={name}: cannot be imported: {_line(error)}; {_A_CLASS}") from error
        if not (isinstance(found, type) and issubclass(found, Cluster)):
            raise ConfigError(f"{CLUSTER}={name}: no class of a Dask cluster; {_A_CLASS}")
        try:
            return cls(cluster_class=name, cluster_kwargs=dict(arguments))
        except ValueError as error:
            raise ConfigError(f"{ARGUMENTS}: {_line(error)}") from error

    @property
    @override
    def client(self) -> PrefectDaskClient:
        if not self._client:
            check_server_is_named()
            with self._errors_in_one_line():
                if not self.address and not self._cluster:
                    self._cluster = self._exit_stack.enter_context(self._start())
                client: Any = super().client
                self._say_if_nobody_works(client)
                if isinstance(self._cluster, LocalCluster):
                    hide_tracebacks()
                    client.register_worker_callbacks(hide_tracebacks)
        return super().client

    @override
    def submit(self, *task: Any, **more: Any) -> TaskOnDask:  # type: ignore[override]
        sent: PrefectDaskFuture[Any] = super().submit(*task, **more)
        return TaskOnDask(task_run_id=sent.task_run_id, wrapped_future=sent.wrapped_future)

    def _start(self) -> Cluster:
        start: Any = self.resolved_cluster_class
        cluster: Cluster = start(**self.cluster_kwargs)
        return cluster

    def _say_if_nobody_works(self, client: Client) -> None:
        if not client.scheduler_info()["workers"]:
            self.logger.warning("the Dask cluster has no worker yet: tasks wait for the first one")

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        if self.address:
            named, variables = f"{ADDRESS}={self.address}", ADDRESS
        else:
            named, variables = f"{CLUSTER}={self.cluster_class}", f"{CLUSTER} and {ARGUMENTS}"
        try:
            yield
        except (TypeError, ValueError) as error:  # an argument that the class does not know, no address at all
            raise ConfigError(f"{named}: {_line(error)}; change {variables}, or unset it") from error
        except Exception as error:  # a queue that refuses, a cloud without credentials: each class has its own
            raise ServiceError(f"{named}: {_line(error)}; see to the cluster, or change {variables}") from error


def hide_tracebacks() -> None:
    """Let Dask log lines alone in this process.

    The processes of a local cluster write where the command does, and a worker that is told to end in the moment of a
    heartbeat logs that as an error, with a traceback.
    """
    for handler in logging.getLogger("distributed").handlers:
        handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


_A_CLASS = "name one with its module, like dask.distributed.LocalCluster or dask_jobqueue.SLURMCluster"


def _line(error: BaseException) -> str:
    """The message of an error; of "Nanny failed to start.", which explains nothing, that of its cause."""
    while isinstance(error, RuntimeError) and error.__cause__:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
