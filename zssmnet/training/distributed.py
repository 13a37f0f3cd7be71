"""The processes that train one network together, as one of them sees it: PyTorch's process group, or no group.

Each takes its share of every batch, and all run the same loop (`fit`). Rank 0 decides, and alone writes.
"""

import io
import itertools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from zssmnet.errors import TrainingError
from zssmnet.storage.keys import printable
from zssmnet.training.workers import Worker, check_workers

log = logging.getLogger(__name__)

Result = TypeVar("Result")
COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Longer than any publication by rank 0, for which workers wait; a process that ends is noticed at once."""
HANG_TIMEOUT_S = 300.0
"""After which a process that others wait for is named and ended; a first step, with compiling, takes half as long."""
NOTE_INTERVAL_S = 5.0
RENDEZVOUS_TIMEOUT_S = 600.0
"""For the processes to start: a busy machine takes a minute to import PyTorch."""
EXIT_STATUS_TIMEOUT_S = 30.0
"""From a broken connection until the process that has ended is found; on a busy machine it takes seconds to end."""
POLL_INTERVAL_S = 0.1
CPU = torch.device("cpu")


@dataclass
class Group:
    """This process among those that train together; by default it trains alone.

    Attributes:
        rank: its number; 0 decides and writes.
        size: number of processes.
        local_rank: its number on its machine, and of its GPU.
        workers: the other processes, where this one has started them.
        entered: number of exchanges with the others that it has begun.
        hanging: a message about a process that hangs, once one does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU
    workers: Sequence[Worker] = ()
    entered: int = 0
    hanging: str = ""

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch, perhaps none."""
        check_workers(self.workers)
        return batch.tensor_split(self.size)[self.rank]

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of a network's weights by their sums over the processes, sent as one tensor."""
        if self.size == 1:
            return
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        together = self.total(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, as a new tensor."""
        if self.size == 1:
            return value
        total = value.clone()
        self.entered += 1
        dist.all_reduce(total)
        return total

    def broadcast(self, content: Any) -> Any:
        """Rank 0's tensors and plain values, in every other process on the CPU.

        As a file's content, not as `torch.distributed.broadcast_object_list` sends it: that is a pickle, with which
        whoever reaches a worker's port can run code there.
        """
        if self.size == 1:
            return content
        file = io.BytesIO()
        if not self.rank:
            torch.save(content, file)
        length = torch.tensor([file.tell()], device=self.device)
        self.entered += 1
        dist.broadcast(length, src=0)
        data = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if not self.rank:
            data.copy_(torch.frombuffer(file.getbuffer(), dtype=torch.uint8))
        dist.broadcast(data, src=0)
        if not self.rank:
            return content
        return torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location=CPU, weights_only=True)


SINGLE = Group()
"""A process that trains alone."""


@contextmanager
def connected(group: Group, store: Store) -> Iterator[Group]:
    """A group, once all its processes are connected through a store that only they use.

    Raises:
        TrainingError: a process has ended or hangs, or not all processes arrive in time.
    """
    threads, done = torch.get_num_threads(), threading.Event()
    if group.device.type == "cpu":
        torch.set_num_threads(max(1, threads // group.size))  # the processes share the cores
    try:
        with failures_reported(group):
            _wait_for_all(group, store)
            _connect(group, store)
            threading.Thread(target=_watch, args=(group, store, done), daemon=True, name="hang watch").start()
            yield group
    finally:
        done.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


@contextmanager
def failures_reported(group: Group) -> Iterator[None]:
    """Report a broken connection: by the worker that has ended, or in general, where torchrun names that."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what Gloo, NCCL and stores raise
        if group.hanging:
            raise TrainingError(group.hanging) from error
        deadline = time.monotonic() + EXIT_STATUS_TIMEOUT_S
        while group.workers:
            check_workers(group.workers)
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_INTERVAL_S)
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise TrainingError(
            f"rank {group.rank} of {group.size} lost its connection to another process, which has ended "
            f"({printable(reason)}); run it again to continue from the last checkpoint"
        ) from error


def _watch(group: Group, store: Store, done: threading.Event) -> None:
    """Note that this process lives, and how many exchanges it has entered.

    Rank 0 names and ends one that does not live, or lags behind, for minutes. It counts looks, not time: it may sleep,
    too.
    """
    seen = dict.fromkeys(range(1, group.size) if not group.rank else (), ("", ""))
    looks = dict.fromkeys(seen, 0)
    for life in itertools.count():
        store.set(f"entered {group.rank}", f"{group.entered} {life} {platform.node()}")
        if done.wait(NOTE_INTERVAL_S):
            return
        if any(worker.process.poll() is not None for worker in group.workers):
            _abort_collectives()
            return
        for rank, before in seen.items():
            key = f"entered {rank}"
            noted = store.get(key).decode() if store.check([key]) else "-1 -1 its machine"
            count, lives, machine = noted.split(" ", 2)
            lags = count == before[0] and (int(count) < group.entered or lives == before[1])
            seen[rank], looks[rank] = (count, lives), looks[rank] + 1 if lags else 0
            if looks[rank] * NOTE_INTERVAL_S > HANG_TIMEOUT_S:
                group.hanging = (
                    f"rank {rank} of {group.size}, on {machine}, hangs: the others have waited for it for "
                    f"{HANG_TIMEOUT_S:g} s; look at that machine, and run it again to continue from the last checkpoint"
                )
                _end(group, rank)
                return


def _end(group: Group, rank: int) -> None:
    """End the waiting for a process that hangs."""
    if group.workers:
        group.workers[rank - 1].process.kill()
    elif dist.get_backend() != "nccl":  # Gloo lets go of no one, but torchrun ends all where one ends
        log.error("%s", group.hanging)
        os._exit(1)
    _abort_collectives()


def _abort_collectives() -> None:
    """End what waits for a lost process: NCCL would wait until its timeout; Gloo notices on its own."""
    if dist.is_initialized() and dist.get_backend() == "nccl" and dist.group.WORLD:
        dist.group.WORLD.abort()


def in_thread(call: Callable[[], Result], check: Callable[[], None] = lambda: None) -> Result:
    """The result of a call that waits within PyTorch, which would let no signal through; ``check`` is polled."""
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rendezvous").start()
    while not wait([result], POLL_INTERVAL_S).done:
        check()
    return result.result()


def _wait_for_all(group: Group, store: Store) -> None:
    """Wait until all processes have arrived at the store."""
    log.info("rank %d of %d: waiting at most %g s for the others", group.rank, group.size, RENDEZVOUS_TIMEOUT_S)
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT_S
    arrived = store.add("arrived", 1)
    while arrived < group.size:
        check_workers(group.workers)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"only {arrived} of {group.size} processes arrived within {RENDEZVOUS_TIMEOUT_S:g} s; check that all "
                "of them were started for this training, and run it again"
            )
        time.sleep(POLL_INTERVAL_S)
        arrived = store.add("arrived", 0)


def _connect(group: Group, store: Store) -> None:
    backend = "nccl" if group.device.type == "cuda" else "gloo"

    def connect() -> None:
        dist.init_process_group(
            backend, store=store, rank=group.rank, world_size=group.size, timeout=COLLECTIVE_TIMEOUT
        )

    try:
        in_thread(connect, lambda: check_workers(group.workers))
    except BaseException:
        if not dist.is_initialized():
            # PyTorch names a group by the number of attempts in its process; the end of a group resets that number
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        raise
