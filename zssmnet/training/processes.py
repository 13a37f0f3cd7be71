"""Rendezvous of a training's processes: one alone, workers that rank 0 starts, or those of torchrun.

Rank 0 is the command's own process. The processes meet at a store, a file on one machine or torchrun's over the
network, in which rank 0 also announces what is to be trained.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
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
from zssmnet.training.distributed import POLL_INTERVAL_S, Group, connected, failures_reported, in_thread
from zssmnet.training.fit import fit
from zssmnet.training.precision import choose_device
from zssmnet.training.workers import end_with_rank_0, started_worker

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
        store, group = launch
        _check_size(group.size, job.config.training)
        with failures_reported(group), connected(replace(group, device=device), _announce(store, job)) as group:
            yield group
        return
    if (size := _size(job.config.training, device)) == 1:
        yield Group(device=device)
        return
    with ExitStack() as stack:
        file = str(stack.enter_context(temporary_folder()) / "store")
        places = [(rank, (file, str(rank), str(size))) for rank in range(1, size)]
        workers = [stack.enter_context(started_worker(rank, __name__, *place)) for rank, place in places]
        group = Group(0, size, 0, device, workers)
        yield stack.enter_context(connected(group, _announce(FileStore(file, size), job)))


@contextmanager
def torchrun_command() -> Iterator[bool]:
    """Under torchrun: rank 0 runs the command, every other rank takes part in its trainings until it is done.

    Yields:
        Whether this process was such a worker, for which nothing is left to do.

    Raises:
        ConfigError: torchrun's variables make no sense.
        TrainingError: the other processes cannot be reached.
    """
    launch = _torchrun()
    if launch and launch[1].rank:
        _work(*launch)
        yield True
        return
    try:
        yield False
    finally:
        if launch:
            with suppress(dist.DistError):  # torchrun itself may have ended
                _announce(launch[0], None)


@cache
def _torchrun() -> tuple[Store, Group] | None:
    """The store of torchrun's processes, and this one among them; None where it started none, or one alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # other launchers set RANK and WORLD_SIZE, too
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
    return PrefixStore(f"attempt {attempt}/", store), Group(rank, size, local_rank)


def _announce(store: Store, job: Job | None) -> Store:
    """Announce the next job to workers, or the end of all; the store of this job alone."""
    number = int(store.add("jobs", 1))
    store.set(f"job {number}", job.model_dump_json() if job else "")
    return PrefixStore(f"job {number}/", store)


def _work(store: Store, group: Group) -> None:
    """As a worker: take part in rank 0's trainings, one after another, until there are no more."""
    number = 1
    with failures_reported(group):
        while announced := _wait_for(store, f"job {number}", group):
            job = Job.model_validate_json(announced)
            here = replace(group, device=choose_device(job.config.training.device, group.local_rank))
            cubes = open_training_data(open_storage(job.cubes), job.config.training.batch_size)
            with connected(here, PrefixStore(f"job {number}/", store)):
                fit(*cubes, job.config, None, group=here)
            number += 1


def _wait_for(store: Store, key: str, group: Group) -> bytes:
    """Poll, so that signals are handled."""
    log.info("rank %d of %d: waiting for rank 0 to start a training", group.rank, group.size)
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not store.check([key]):
        if time.monotonic() > deadline:
            raise TrainingError(f"rank {group.rank}: rank 0 started no training within {JOB_TIMEOUT_S / 3600:g} h")
        time.sleep(POLL_INTERVAL_S)
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
    if size > 1 and recipe.device == "mps":
        raise InputError(
            f"device = 'mps' trains in one process, not in {size}; choose --processes 1 or another --device"
        )


def _main() -> None:
    end_with_rank_0()
    store, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        _work(FileStore(store, size), Group(rank, size, rank))
    except ZssmnetError as error:
        sys.exit(printable(str(error)))


if __name__ == "__main__":
    _main()
