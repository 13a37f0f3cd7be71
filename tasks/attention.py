"""Events about what a person must do something about: a run that does not advance, a disk that is nearly full.

A server that does not take them is no reason to fail; both are also lines of the run's log.
"""

import logging
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from prefect.events import Event
from prefect.runtime import flow_run
from prefect.settings import PREFECT_HOME

from tasks.server import send_events, server_may_be_away
from zssmnet.storage.environment import variable

log = logging.getLogger("zssmnet.tasks")

STALLED, DISK_FULL = "zssmnet.run.stalled", "zssmnet.disk.full"
FREE_GB, FREE_SHARE = 10.0, 0.1
"""What should be free of a disk that runs write to: so much, or this share of a small one."""
SILENCE_S, SILENCES = 1800.0, 10
"""A run does not advance if it was silent for so long, and for so many times its longest silence before."""


def check_disks(address: str | None = None) -> None:
    """Report disks that are nearly full: of a local address, Prefect's files, and copies of files on S3."""
    places = [Path(PREFECT_HOME.value()), variable("ZSSMNET_CACHE")]
    if address and "://" not in address:
        places.append(Path(address))
    there = [next(one for one in (place, *place.parents) if one.exists()) for place in places]
    for disk in {one.stat().st_dev: one for one in there}.values():
        usage = shutil.disk_usage(disk)
        if usage.free < min(FREE_GB * 1e9, usage.total * FREE_SHARE):
            free = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.0f} GB are free"
            _report(DISK_FULL, f"zssmnet.disk.{socket.gethostname()}:{disk}", f"{disk}: only {free}; make room")


@dataclass
class Signs:
    """When a stage last showed that it advances, and its longest silence before that, in seconds."""

    last: float
    longest: float = 0.0
    is_reported: bool = False


def check_advancing(signs: Signs | None) -> None:
    """Report, once, a run that does not advance any more; None: no stage is under way."""
    silence = time.monotonic() - signs.last if signs else 0.0
    if signs and not signs.is_reported and silence > max(SILENCE_S, SILENCES * signs.longest):
        signs.is_reported = True
        told = f"run {flow_run.name} has not advanced for {silence / 60:.0f} min; check its machine and storage"
        _report(STALLED, f"zssmnet.run.{flow_run.id}", told)


def _report(name: str, resource: str, message: str) -> None:
    log.warning(message)
    host = f"{message} ({socket.gethostname()})"
    with server_may_be_away():
        send_events(Event(event=name, resource={"prefect.resource.id": resource}, payload={"message": host}))
