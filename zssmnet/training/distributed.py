"""The processes that train one network together, from the view of one: PyTorch's process group, or a process alone.

Each takes its share of every batch, and all run the same loop (`fit`). Rank 0 decides, and alone writes.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import Store

COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Longer than any publication by rank 0, for which workers wait; a process that ends is noticed at once."""
_POLL_S = 0.1
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """This process among those that train together; by default it trains alone.

    Attributes:
        rank: its number; 0 decides and writes.
        size: number of processes.
        local_rank: its number on its machine, and of its GPU.
        check: raises a `TrainingError` if a worker has ended.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU
    check: Callable[[], None] = lambda: None

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
        dist.all_reduce(together)
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        views = [part.view(gradient.shape) for gradient, part in zip(gradients, parts, strict=True)]
        torch._foreach_copy_(gradients, views)

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, as a new tensor."""
        if self.size == 1:
            return value
        total = value.clone()
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
        TrainingError: a worker has ended.
        RuntimeError: a connection broke.
    """
    threads = torch.get_num_threads()
    if group.device.type == "cpu":
        torch.set_num_threads(max(1, threads // group.size))  # the processes share the cores
    try:
        _rendezvous(group, store)
        yield group
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


def _rendezvous(group: Group, store: Store) -> None:
    """Connect in a thread: PyTorch would wait for a dead process until its timeout, and let no signal through."""
    errors: list[Exception] = []

    def connect() -> None:
        try:
            backend = "nccl" if group.device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                store=store,
                rank=group.rank,
                world_size=group.size,
                timeout=COLLECTIVE_TIMEOUT,
                _ranks=list(range(group.size)),  # names the group, else by a count of all attempts in this process
            )
        except Exception as error:
            errors.append(error)

    connecting = threading.Thread(target=connect, daemon=True, name="rendezvous")
    connecting.start()
    while connecting.is_alive():
        group.check()
        connecting.join(_POLL_S)
    if errors:
        raise errors[0]
