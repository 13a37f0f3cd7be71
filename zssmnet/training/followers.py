"""The processes that a leader starts beside itself, one for each further GPU; none of them outlives it.

A follower's standard input is a pipe from its leader: it ends with the leader, however that ends, and the follower with
it. So nothing is left of a run that was stopped, cancelled or killed.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
import torch.distributed as dist

from zssmnet.errors import InputError, TrainingError
from zssmnet.storage.temporary import temporary_folder
from zssmnet.training.team import (
    ALONE,
    MEETING,
    Job,
    Meeting,
    SharedTeam,
    Team,
    own_meeting,
    threads_each,
    torchrun_meeting,
)

_LAST_WORDS = 2000
_GRACE_S = 10.0
"""How long a follower may take to end by itself when its leader is done."""
_BLAME_S = 5.0
"""How long after a broken talk it may take until it is seen who has ended."""
_NOTICE_S = 1.0


@dataclass
class _Follower:
    rank: int
    process: "subprocess.Popen[bytes]"
    told: IO[bytes]

    def last_words(self) -> str:
        """The last line that it wrote."""
        self.told.seek(max(0, self.told.seek(0, os.SEEK_END) - _LAST_WORDS))
        lines = self.told.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


@dataclass
class _Torchrun:
    """What lasts as long as a command that torchrun has started."""

    meeting: Meeting | None = field(default=None)


_torchrun = _Torchrun()


@contextmanager
def leading_torchrun() -> Iterator[None]:
    """For the leader among processes that torchrun has started: let the others go when the command is done."""
    _torchrun.meeting = torchrun_meeting()
    try:
        yield
    finally:
        _torchrun.meeting.dismiss()
        _torchrun.meeting = None


@contextmanager
def team_for(job: Job, device: torch.device) -> Iterator[Team]:
    """The team that trains: one process alone, those of torchrun, or further ones that are started now.

    Raises:
        InputError: more processes than GPUs or than cubes in a batch.
        TrainingError: another process has ended.
    """
    if _torchrun.meeting:
        _check_shares(_torchrun.meeting.size, job)
        with _working(_torchrun.meeting, job, device) as team:
            yield team
        return
    size = _team_size(job, device)
    if size == 1:
        yield ALONE
        return
    with ExitStack() as stack:
        file = stack.enter_context(temporary_folder()) / "meeting"
        followers = [stack.enter_context(_started(rank, size, file)) for rank in range(1, size)]
        meeting = own_meeting(file, 0, size)
        stack.enter_context(_watched(followers))
        with _working(meeting, job, device) as team:
            yield team
            meeting.dismiss()


def _team_size(job: Job, device: torch.device) -> int:
    recipe = job.config.training
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    size = recipe.processes or max(1, min(gpus, recipe.batch_size))
    _check_shares(size, job)
    if gpus and size > gpus:
        raise InputError(f"{size} processes need as many GPUs, but there are {gpus}; choose --processes {gpus}")
    return size


def _check_shares(size: int, job: Job) -> None:
    batch_size = job.config.training.batch_size
    if size > batch_size:
        raise InputError(
            f"{size} processes cannot share a batch of {batch_size}; choose fewer with --processes (or torchrun's "
            "--nproc-per-node), or a larger --batch-size"
        )


@contextmanager
def _working(meeting: Meeting, job: Job, device: torch.device) -> Iterator[SharedTeam]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(threads_each(meeting.size))
    team = meeting.team(meeting.give_out(job), device)
    try:
        yield team
    finally:
        team.leave()
        torch.set_num_threads(threads)


@contextmanager
def _started(rank: int, size: int, meeting: Path) -> Iterator[_Follower]:
    """A follower, until it has ended."""
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        MEETING: str(meeting),
        "OMP_NUM_THREADS": str(threads_each(size)),
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with TemporaryFile() as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "zssmnet.training.follower"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=told,
            env=environment,
        )
        try:
            yield _Follower(rank, process, told)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _watched(followers: list[_Follower]) -> Iterator[None]:
    """A follower that has failed ends the work, in one line; where GPUs wait for it, they are told not to."""
    done = threading.Event()
    threading.Thread(target=_free_when_one_fails, args=(followers, done), daemon=True, name="followers").start()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # how Gloo and NCCL tell that another process is gone
        failed = _failed(followers)
        if failed is None:
            raise
        raise TrainingError(
            f"process {failed.rank} of {len(followers) + 1} that trained together ended with status "
            f"{failed.process.returncode}: {failed.last_words()}; run it again to continue from the last checkpoint"
        ) from error
    finally:
        done.set()


def _failed(followers: list[_Follower]) -> _Follower | None:
    deadline = time.monotonic() + _BLAME_S
    while time.monotonic() < deadline:
        for follower in followers:
            if follower.process.poll():
                return follower
        time.sleep(0.05)
    return None


def _free_when_one_fails(followers: list[_Follower], done: threading.Event) -> None:
    """NCCL waits for a process that is gone, for ten minutes; Gloo sees it by itself."""
    while not done.wait(_NOTICE_S):
        if any(follower.process.poll() for follower in followers):
            if dist.is_initialized() and dist.get_backend() == "nccl":
                dist.group.WORLD.abort()  # type: ignore[union-attr]
            return
