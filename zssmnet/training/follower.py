"""A process that follows a leader's: it takes its share of each batch, and writes nothing.

    python -m zssmnet.training.follower

is how a leader starts one; under torchrun every process but the first becomes one by itself.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import torch

from zssmnet.errors import ZssmnetError
from zssmnet.storage import open_storage
from zssmnet.storage.keys import printable
from zssmnet.training.acceleration import choose_device
from zssmnet.training.dataset import open_training_data
from zssmnet.training.team import MEETING, Job, Meeting, SharedTeam, own_meeting
from zssmnet.training.trainer import Learner, initial_state


def follow(meeting: Meeting) -> None:
    """Take part in the leader's trainings, one after another, until it lets its followers go.

    Raises:
        ZssmnetError: training cannot go on here.
    """
    while given := meeting.next_job():
        name, job = given
        device = choose_device(job.config.training.device, meeting.local_rank)
        team = meeting.team(name, device)
        try:
            _train(team, job, device)
        finally:
            team.leave()


def _train(team: SharedTeam, job: Job, device: torch.device) -> None:
    training, validation = open_training_data(open_storage(job.cubes), job.config.training.batch_size)
    state = initial_state(job.config, device)
    learner = Learner(state, training, validation, job.config, team)
    while team.is_called():
        learner.epoch()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from the terminal is for the leader
    threading.Thread(target=_end_with_leader, daemon=True).start()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        follow(own_meeting(Path(os.environ[MEETING]), rank, size))
    except ZssmnetError as error:
        sys.exit(printable(str(error)))


def _end_with_leader() -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read(), whose lock would abort an end of its own accord
        pass
    os._exit(1)


if __name__ == "__main__":
    _main()
