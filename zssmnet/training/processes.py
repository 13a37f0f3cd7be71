"""Rendezvous of a training's processes: one alone, workers that rank 0 starts, or those of torchrun.

Rank 0 is the command's own process. The processes meet at a store, a file on one machine or torchrun's over the
network, in which rank 0 also announces what is to be trained.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.errors import ConfigError, InputError, TrainingError, ZssmnetError
from zssmnet.storage import open_storage
from zssmnet.storage.keys import printable
from zssmnet.storage.temporary import temporary_folder
from zssmnet.training.dataset import open_training_data
from zssmnet.training.distributed import POLL_INTERVAL_S, Group, connected, in_thread
from zssmnet.training.fit import fit
from zssmnet.training.precision import choose_device
from zssmnet.training.workers import check_workers, end_with_rank_0, failures_reported, started_worker

log = logging.getLogger(__name__)

STORE_TIMEOUT = timedelta(seconds=60)
"""For torchrun's store to answer: torchrun has it before it starts a process."""
JOB_TIMEOUT_S = 24 * 3600.0
"""For rank 0 to announce a training: before it there may be an archive to prepare."""


class Job(BaseModel, frozen=True, extra="forbid"):
    """Description of a training for workers."""

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
        file = str(stack.enter_context(temporary_folder()) / "store")
        launch = _Launch(FileStore(file, size), 0, size, 0)
        number = _announce(launch.store, job)
        places = [(rank, (file, str(rank), str(size))) for rank in range(1, size)]
        workers = [stack.enter_context(started_worker(rank, __name__, *place)) for rank, place in places]
        stack.enter_context(failures_reported(workers))
        check, kill = (lambda: check_workers(workers)), (lambda rank: workers[rank - 1].process.kill())
        yield stack.enter_context(launch.connected(number, device, check, kill))


@contextmanager
def torchrun_command() -> Iterator[bool]:
    """Under torchrun: rank 0 runs the command, every other rank takes part in its trainings until it is done.

    Torchrun is at work where ``TORCHELASTIC_RUN_ID`` is set. ``RANK`` and ``WORLD_SIZE`` alone, which other launchers
    set too, mean nothing.

    Yields:
        Whether this process was such a worker, for which nothing is left to do.

    Raises:
        ConfigError: torchrun's variables make no sense.
        TrainingError: the other processes cannot be reached.
    """
    launch = _torchrun()
    if launch and launch.rank:
        _work(launch)
        yield True
        return
    try:
        yield False
    finally:
        if launch:
            with suppress(dist.DistError):  # torchrun itself may have ended
                _announce(launch.store, None)


@dataclass(frozen=True)
class _Launch:
    """Launch of this process: the store where all meet, and its rank."""

    store: Store
    rank: int
    size: int
    local_rank: int

    def connected(
        self,
        job: int,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
        kill: Callable[[int], None] | None = None,
    ) -> AbstractContextManager[Group]:
        """The process group of a job."""
        group = Group(self.rank, self.size, self.local_rank, device, check, kill=kill)
        return connected(group, PrefixStore(f"job {job}/", self.store))


@cache
def _torchrun() -> _Launch | None:
    """This process's place among those of torchrun; None where it started none, or one alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
    try:
        rank, size, local_rank, _ = map(int, given.values())
        if not 0 <= local_rank <= rank < size:
            raise ValueError
        if size == 1:
            return None
        store, *_ = in_thread(lambda: next(iter(rendezvous("env://", timeout=STORE_TIMEOUT))))
    except ValueError as error:
        raise ConfigError(
            f"{listed} are not what torchrun sets; start the command with torchrun, or unset TORCHELASTIC_RUN_ID"
        ) from error
    except dist.DistError as error:
        raise TrainingError(
            f"torchrun cannot be reached within {STORE_TIMEOUT.seconds} s ({listed}); start the command with torchrun, "
            "or unset TORCHELASTIC_RUN_ID"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a restart must not read what was announced before it
    return _Launch(PrefixStore(f"attempt {attempt}/", store), rank, size, local_rank)


def _announce(store: Store, job: Job | None) -> int:
    """Announce the next job to workers, or the end of all; returns its number."""
    number = int(store.add("jobs", 1))
    store.set(f"job {number}", job.model_dump_json() if job else "")
    return number


def _work(launch: _Launch) -> None:
    """As a worker: take part in rank 0's trainings, one after another, until there are no more."""
    number = 1
    with _lost_connection_reported(launch):
        while announced := _wait_for(launch, f"job {number}"):
            job = Job.model_validate_json(announced)
            device = choose_device(job.config.training.device, launch.local_rank)
            with launch.connected(number, device) as group:
                cubes = open_training_data(open_storage(job.cubes), job.config.training.batch_size)
                fit(*cubes, job.config, None, group=group)
            number += 1


def _wait_for(launch: _Launch, key: str) -> bytes:
    """Poll, so that signals are handled."""
    log.info("rank %d of %d: waiting for rank 0 to start a training", launch.rank, launch.size)
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not launch.store.check([key]):
        if time.monotonic() > deadline:
            raise TrainingError(f"rank {launch.rank}: rank 0 started no training within {JOB_TIMEOUT_S / 3600:g} h")
        time.sleep(POLL_INTERVAL_S)
    return bytes(launch.store.get(key))


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


@contextmanager
def _lost_connection_reported(launch: _Launch) -> Iterator[None]:
    """Report a broken connection where this process did not start the others; torchrun names the one that has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise TrainingError(
            f"rank {launch.rank} of {launch.size} lost its connection to another process, which has ended "
            f"({printable(reason)}); run it again to continue from the last checkpoint"
        ) from error


def _main() -> None:
    end_with_rank_0()
    store, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        _work(_Launch(FileStore(store, size), rank, size, rank))
    except ZssmnetError as error:
        sys.exit(printable(str(error)))


if __name__ == "__main__":
    _main()
