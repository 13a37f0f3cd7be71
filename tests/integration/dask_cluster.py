"""A real Dask cluster: a scheduler, and two workers that are processes of their own."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

PATIENCE_S = 400


class Cluster:
    """Two workers, and what they do."""

    def __init__(self, cluster: LocalCluster, client: Client) -> None:
        self.address: str = cluster.scheduler_address
        self._cluster = cluster
        self._client = client

    def busy(self) -> list[int]:
        """Process numbers of the workers that are at a task."""
        processes = self._client.run(os.getpid, on_error="ignore")
        working = [address for address, keys in self._client.processing().items() if keys]
        return [processes[address] for address in working if address in processes]

    def kill_a_busy_worker(self) -> int:
        """Kill a worker at its task, as a machine that is lost; its number."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if busy := self.busy():
                os.kill(busy[0], signal.SIGKILL)
                return busy[0]
            time.sleep(0.01)
        raise TimeoutError("no worker was busy")

    @contextmanager
    def watched(self) -> Iterator[dict[str, set[str]]]:
        """Which workers came to do which tasks, by the tasks' names; filled on leaving."""
        from distributed import get_task_stream

        done: dict[str, set[str]] = {}
        with get_task_stream(client=self._client) as stream:
            yield done
        for task in stream.data:
            done.setdefault(task["key"].rpartition("-")[0], set()).add(task["worker"])


@contextmanager
def two_workers() -> Iterator[Cluster]:
    """A cluster on this machine; its workers have the environment of this moment."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Cluster(cluster, client)
