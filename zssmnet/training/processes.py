"""How the processes of a training are started, and what happens when one of them ends.

Rank 0 is the command's own process: it starts the workers, one for each further GPU, or torchrun has started them.
No worker outlives it: a worker's standard input is a pipe
from rank 0, which ends with it, however it ends. The processes find each other through a store, a file on one machine
or torchrun's over the network, in which rank 0 also announces what is to be trained.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.errors import InputError, TrainingError, ZssmnetError
from zssmnet.storage import open_storage
from zssmnet.storage.keys import printable
from zssmnet.storage.temporary import temporary_folder
from zssmnet.training.dataset import open_training_data
from zssmnet.training.distributed import Group, connected
from zssmnet.training.fit import fit
from zssmnet.training.precision import choose_device

_LAST_LINES_BYTES = 2000
_END_TIMEOUT_S = 10.0
_EXIT_STATUS_TIMEOUT_S = 30.0
"""From a broken connection until the process that has ended is found; on a busy machine it takes seconds to end."""
_POLL_S = 0.1


class Job(BaseModel, frozen=True, extra="forbid"):
    """What workers need to know of a training."""

    cubes: str
    config: PretrainConfig


@contextmanager
def process_group(job: Job) -> Iterator[Group]:
    """As rank 0: the processes that run a training. This one alone, those of torchrun, or workers that are started now.

    Raises:
        InputError: more processes than GPUs or than cubes in a batch.
        TrainingError: another process has ended.
    """
    device = choose_device(job.config.training.device)
    if launch := _torchrun():
        _check_size(launch.size, job.config.training)
        with _lost_connection_reported(launch), launch.connected(_announce(launch.store, job), device) as group:
            yield group
        return
    size = _size(job.config.training, device)
    if size == 1:
        yield Group(device=device)
        return
    with ExitStack() as stack:
        file = stack.enter_context(temporary_folder()) / "store"
        launch = _Launch(FileStore(str(file), size), 0, size, 0)
        number = _announce(launch.store, job)
        workers = [stack.enter_context(_worker(rank, size, file)) for rank in range(1, size)]
        stack.enter_context(_failures_reported(workers))
        yield stack.enter_context(launch.connected(number, device, lambda: _check(workers)))


@contextmanager
def torchrun_command() -> Iterator[bool]:
    """Under torchrun: rank 0 runs the command, every other rank takes part in its trainings until it is done.

    Yields whether this process was such a worker, for which nothing is left to do; ZssmnetError if one cannot go on.
    """
    launch = _torchrun()
    assert launch
    if launch.rank:
        _work(launch)
        yield True
        return
    try:
        yield False
    finally:
        with suppress(dist.DistError):  # torchrun itself may have ended
            _announce(launch.store, None)


@dataclass(frozen=True)
class _Launch:
    """How this process was started: the store where all meet, and its place."""

    store: Store
    rank: int
    size: int
    local_rank: int

    def connected(
        self, job: int, device: torch.device, check: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Group]:
        """The process group of a job."""
        group = Group(self.rank, self.size, self.local_rank, device, check)
        return connected(group, PrefixStore(f"job {job}/", self.store))


@cache
def _torchrun() -> _Launch | None:
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    store, rank, size = next(iter(rendezvous("env://")))
    return _Launch(store, rank, size, int(os.environ.get("LOCAL_RANK", rank)))


def _announce(store: Store, job: Job | None) -> int:
    """Tell workers of the next job, or that there is none any more; returns its number."""
    number = int(store.add("jobs", 1))
    store.set(f"job {number}", job.model_dump_json() if job else "")
    return number


def _work(launch: _Launch) -> None:
    """As a worker: take part in rank 0's trainings, one after another, until there are no more."""
    number = 1
    with _lost_connection_reported(launch):
        while announced := _wait_for(launch.store, f"job {number}"):
            job = Job.model_validate_json(announced)
            device = choose_device(job.config.training.device, launch.local_rank)
            with launch.connected(number, device) as group:
                cubes = open_training_data(open_storage(job.cubes), job.config.training.batch_size)
                fit(*cubes, job.config, None, group=group)
            number += 1


def _wait_for(store: Store, key: str) -> bytes:
    """Poll, for as long as it takes, so that signals are handled."""
    while not store.check([key]):
        time.sleep(_POLL_S)
    return bytes(store.get(key))


def _size(recipe: TrainingConfig, device: torch.device) -> int:
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    size = recipe.processes or max(1, min(gpus, recipe.batch_size))
    _check_size(size, recipe)
    if gpus and size > gpus:
        raise InputError(f"{size} processes need as many GPUs, but there are {gpus}; choose --processes {gpus}")
    return size


def _check_size(size: int, recipe: TrainingConfig) -> None:
    if size > recipe.batch_size:
        raise InputError(
            f"{size} processes cannot share a batch of {recipe.batch_size}; choose fewer with --processes (or "
            "torchrun's --nproc-per-node), or a larger --batch-size"
        )


@dataclass
class _Worker:
    rank: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def last_line(self) -> str:
        """The last line that it wrote."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LAST_LINES_BYTES))
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


@contextmanager
def _worker(rank: int, size: int, store: Path) -> Iterator[_Worker]:
    """A worker, with this process's module path and without the current folder; it has ended when this is left."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-P", "-m", "zssmnet.training.processes", str(store), str(rank), str(size)]
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # an interrupt from the terminal is for rank 0
        )
        try:
            yield _Worker(rank, process, log)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _check(workers: list[_Worker]) -> None:
    """Raise a TrainingError if a worker has ended, which none does before rank 0 is done."""
    for worker in workers:
        if (status := worker.process.poll()) is not None:
            name = f" ({signal.Signals(-status).name})" if status < 0 else ""
            raise TrainingError(
                f"process {worker.rank} of {len(workers) + 1} that trained together ended with status {status}{name}: "
                f"{printable(worker.last_line())}; run it again to continue from the last checkpoint"
            )


@contextmanager
def _failures_reported(workers: list[_Worker]) -> Iterator[None]:
    """Where a connection broke, the error names the worker that has ended."""
    done = threading.Event()
    threading.Thread(target=_abort_when_one_ends, args=(workers, done), daemon=True, name="workers").start()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # what Gloo and NCCL raise
        deadline = time.monotonic() + _EXIT_STATUS_TIMEOUT_S
        while time.monotonic() < deadline:
            _check(workers)
            time.sleep(_POLL_S)
        raise
    finally:
        done.set()


def _abort_when_one_ends(workers: list[_Worker], done: threading.Event) -> None:
    """NCCL waits for a process that is gone until its timeout; Gloo notices by itself."""
    while not done.wait(_POLL_S):
        if any(worker.process.poll() is not None for worker in workers):
            if dist.is_initialized() and dist.get_backend() == "nccl":
                dist.group.WORLD.abort()  # type: ignore[union-attr]
            return


@contextmanager
def _lost_connection_reported(launch: _Launch) -> Iterator[None]:
    """Where a connection broke and this process did not start the others: torchrun names the one that has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise TrainingError(
            f"process {launch.rank} of {launch.size} that trained together lost its connection to another, which has "
            f"ended ({printable(reason)}); run it again to continue from the last checkpoint"
        ) from error


def _end_with_rank_0() -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read(), whose lock would abort an orderly end
        pass
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    store, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        _work(_Launch(FileStore(store, size), rank, size, rank))
    except ZssmnetError as error:
        sys.exit(printable(str(error)))


if __name__ == "__main__":
    _main()
