"""Processes that train one network together: each takes its share of every batch, and all learn from the whole.

The process of rank 0 leads: it starts the others (or `torchrun` does), decides whether there is another epoch, and
alone publishes. The others follow: they hold the same state, change it in the same way, and write nothing.

They meet at a store, a file on one machine or torchrun's over the network. Through it the leader gives out jobs as
JSON; tensors go by `torch.distributed`, as plain bytes that are read without running code.
"""

import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from zssmnet.config import PretrainConfig

MEETING = "ZSSMNET_MEETING"
"""Variable with the file where a leader meets the followers that it has started."""
PATIENCE = timedelta(days=30)
"""How long a follower waits for its leader's word: a leader that has gone takes its followers with it."""
_NEXT, _LAST = "another epoch", "no more epoch"


class Job(BaseModel):
    """What followers need to know of a training.

    Attributes:
        cubes: address of the folder of cubes.
        config: everything that decides the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cubes: str
    config: PretrainConfig


class Team:
    """One process that trains alone: the team of which nobody else is a member.

    Attributes:
        rank: number of this process; 0 leads.
        size: number of processes.
        local_rank: number of this process on its machine, and of its GPU.
    """

    rank = 0
    size = 1
    local_rank = 0

    def share(self, batch: Tensor) -> Tensor:
        """The part of a batch that is this process's: its rows of a tensor, perhaps none."""
        return batch.tensor_split(self.size)[self.rank]

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of a network's weights by their sums over the processes."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, as a new tensor."""
        return value

    def hand_round(self, content: dict[str, Any]) -> dict[str, Any]:
        """The leader's content, tensors and plain values, to all; others give theirs in vain."""
        return content

    def call(self, *, another_epoch: bool) -> None:
        """As the leader: tell the others whether there is another epoch."""


ALONE = Team()


class SharedTeam(Team):
    """One of several processes.

    Args:
        store: where they meet.
        rank, size, local_rank: as in `Team`.
        device: this process's device, which decides how they talk: NCCL between GPUs, Gloo otherwise.
        name: of this training; each at one store has its own.
    """

    def __init__(self, store: Store, rank: int, size: int, local_rank: int, device: torch.device, name: str) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._device = device
        self._store = PrefixStore(name, store)
        self._epochs = 0
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=size)

    def leave(self) -> None:
        """End the talk between the processes."""
        dist.destroy_process_group()

    def sum_gradients(self, network: nn.Module) -> None:
        """See `Team`: all of them as one tensor.

        PyTorch's DistributedDataParallel would send them in parts, while others are still computed; but it needs a
        gradient of every weight, which the unused heads have not, and gradients in a memory layout of its own.
        """
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def total(self, value: Tensor) -> Tensor:
        """See `Team`."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def hand_round(self, content: dict[str, Any]) -> dict[str, Any]:
        """See `Team`."""
        stream = io.BytesIO()
        if self.rank == 0:
            torch.save(content, stream)
        sent = torch.frombuffer(bytearray(stream.getvalue() or b"-"), dtype=torch.uint8).to(self._device)
        length = torch.tensor(len(sent), device=self._device)
        dist.broadcast(length, 0)
        if self.rank != 0:
            sent = torch.empty(int(length), dtype=torch.uint8, device=self._device)
        dist.broadcast(sent, 0)
        if self.rank == 0:
            return content
        received: dict[str, Any] = torch.load(
            io.BytesIO(sent.cpu().numpy().tobytes()), map_location="cpu", weights_only=True
        )
        return received

    def call(self, *, another_epoch: bool) -> None:
        """See `Team`; through the store, where followers can wait for hours."""
        self._store.set(f"epoch {self._epochs}", _NEXT if another_epoch else _LAST)
        self._epochs += 1

    def is_called(self) -> bool:
        """As a follower: wait for the leader's word, whether there is another epoch."""
        key = f"epoch {self._epochs}"
        self._epochs += 1
        self._store.wait([key], PATIENCE)
        return self._store.get(key) == _NEXT.encode()


class Meeting:
    """Where the processes of a team find each other, and the leader gives out jobs one after another.

    Args:
        store: what all of them see.
        rank, size, local_rank: of this process.
    """

    def __init__(self, store: Store, rank: int, size: int, local_rank: int) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store = store
        self._jobs = 0

    def give_out(self, job: Job) -> str:
        """As the leader: announce a job; returns its name."""
        return self._announce(job.model_dump_json())

    def dismiss(self) -> None:
        """As the leader: let the followers go."""
        self._announce("")

    def next_job(self) -> tuple[str, Job] | None:
        """As a follower: wait for a job; its name and what it is, or None when all is done."""
        name = f"job {self._jobs}"
        self._jobs += 1
        self._store.wait([name], PATIENCE)
        told = self._store.get(name)
        return (name, Job.model_validate_json(told)) if told else None

    def team(self, name: str, device: torch.device) -> SharedTeam:
        """The team for a job, once all of its processes are there."""
        return SharedTeam(self._store, self.rank, self.size, self.local_rank, device, f"{name}/")

    def _announce(self, told: str) -> str:
        name = f"job {self._jobs}"
        self._jobs += 1
        self._store.set(name, told)
        return name


def own_meeting(file: Path, rank: int, size: int) -> Meeting:
    """The meeting of a leader and the followers that it has started on this machine."""
    return Meeting(FileStore(str(file), size), rank, size, rank)


def torchrun_meeting() -> Meeting:
    """The meeting of the processes that torchrun has started."""
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    return Meeting(store, rank, size, int(os.environ.get("LOCAL_RANK", rank)))


def threads_each(size: int) -> int:
    """Threads of each of several processes that share this machine's cores."""
    return max(1, torch.get_num_threads() // size)
