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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from zssmnet.errors import TrainingError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Longer than any publication by rank 0, for which workers wait; a process that ends is noticed at once."""
HANG_TIMEOUT_S = 300.0
"""After which a process that others wait for is named and ended; a first step, with compiling, takes half as long."""
NOTE_INTERVAL_S = 5.0
RENDEZVOUS_TIMEOUT_S = 600.0
"""For the processes to start: a busy machine takes a minute to import PyTorch."""
POLL_INTERVAL_S = 0.1
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """This process among those that train together; by default it trains alone.

    Attributes:
        rank: its number; 0 decides and writes.
        size: number of processes.
        local_rank: its number on its machine, and of its GPU.
        check: raises a `TrainingError` if a worker has ended.
        enters: called before each exchange with the others.
        kill: ends the worker with this rank; None where another program started it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU
    check: Callable[[], None] = lambda: None
    enters: Callable[[], object] = lambda: None
    kill: Callable[[int], None] | None = None

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch, perhaps none."""
        self.check()
        return batch.tensor_split(self.size)[self.rank]

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of a network's weights by their sums over the processes, sent as one tensor."""
        if self.size == 1:
            return
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        self.enters()
        dist.all_reduce(together)
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, as a new tensor."""
        if self.size == 1:
            return value
        total = value.clone()
        self.enters()
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
        self.enters()
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
        TrainingError: a worker has ended or hangs, or not all processes arrive in time.
        RuntimeError: a connection broke.
    """
    threads = torch.get_num_threads()
    if group.device.type == "cpu":
        torch.set_num_threads(max(1, threads // group.size))  # the processes share the cores
    try:
        _wait_for_all(group, store)
        _connect(group, store)
        with _watched(group, store) as group:
            yield group
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


@contextmanager
def _watched(group: Group, store: Store) -> Iterator[Group]:
    """Each process notes that it lives, and how many exchanges it has entered; rank 0 names and ends one that does not
    live, or lags behind, for minutes.
    """
    done, found, entered = threading.Event(), list[str](), 0

    def enters() -> None:
        nonlocal entered
        entered += 1

    def watch() -> None:
        seen = dict.fromkeys(range(1, group.size), ("", ""))  # count and life
        still = {rank: [0, 0] for rank in seen}  # looks, not time, since which each is unchanged: rank 0 may sleep, too
        for life in itertools.count():
            store.set(f"entered {group.rank}", f"{entered} {life} {platform.node()}")
            if done.wait(NOTE_INTERVAL_S):
                return
            for rank, before in seen.items() if not group.rank else ():
                noted = (
                    store.get(f"entered {rank}").decode() if store.check([f"entered {rank}"]) else "-1 -1 its machine"
                )
                count, lives, machine = noted.split(" ", 2)
                unchanged = (count == before[0] and int(count) < entered, lives == before[1])
                seen[rank] = count, lives
                still[rank] = [looks + 1 if is_so else 0 for looks, is_so in zip(still[rank], unchanged, strict=True)]
                if max(still[rank]) * NOTE_INTERVAL_S > HANG_TIMEOUT_S:
                    found.append(
                        f"rank {rank} of {group.size}, on {machine}, hangs: the others have waited for it for "
                        f"{HANG_TIMEOUT_S:g} s; look at that machine, and run it again to continue from the last "
                        "checkpoint"
                    )
                    _end(group, rank, found[0])
                    return

    threading.Thread(target=watch, daemon=True, name="hang watch").start()
    try:
        yield replace(group, enters=enters)
    except RuntimeError as error:
        if found:
            raise TrainingError(found[0]) from error
        raise
    finally:
        done.set()


def _end(group: Group, rank: int, reason: str) -> None:
    """End the waiting for a process that hangs."""
    if group.kill:
        group.kill(rank)
    elif dist.get_backend() != "nccl":  # Gloo lets go of no one, but torchrun ends all where one ends
        log.error("%s", reason)
        os._exit(1)
    abort_collectives()


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


def abort_collectives() -> None:
    """End what waits for a lost process: NCCL would wait until its timeout; Gloo notices on its own."""
    if dist.is_initialized() and dist.get_backend() == "nccl" and dist.group.WORLD:
        dist.group.WORLD.abort()


def _wait_for_all(group: Group, store: Store) -> None:
    """Wait until all processes have arrived at the store."""
    log.info("rank %d of %d: waiting at most %g s for the others", group.rank, group.size, RENDEZVOUS_TIMEOUT_S)
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT_S
    arrived = store.add("arrived", 1)
    while arrived < group.size:
        group.check()
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
        in_thread(connect, group.check)
    except BaseException:
        if not dist.is_initialized():
            # PyTorch names a group by the number of attempts in its process; the end of a group resets that number
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        raise
