"""A command that stops at a gate: where it is about to publish certain files, which are written and not yet visible.

    python -m tests.reliability.gated FOLDER PATTERN run --images_path ...

FOLDER/reached has a line for each such file; FOLDER/signalled is there once the command knows of a signal; it goes on
when FOLDER/open is there. At most two cores are used, so that more cases than threads are no large number.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import cli
from zssmnet.storage import LocalStorage

REACHED, SIGNALLED, OPEN = "reached", "signalled", "open"
CORES = 2


def make_gated(folder: Path, pattern: str) -> None:
    """Let local storage stop at the gate."""
    publishing = LocalStorage.publishing

    @contextmanager
    def gated_publishing(self: LocalStorage, key: str) -> Iterator[Path]:
        with publishing(self, key) as path:
            yield path
            if re.search(pattern, self.where(key)):
                wait(folder, self.where(key))

    LocalStorage.publishing = gated_publishing  # type: ignore[assignment, method-assign]


def wait(folder: Path, address: str) -> None:
    """Note what has come to the gate, and wait until it opens."""
    before = handlers()
    with (folder / REACHED).open("a") as file:
        file.write(f"{address}\n")
    while not (folder / OPEN).exists():
        if handlers() != before:
            (folder / SIGNALLED).touch()
        time.sleep(0.02)


def handlers() -> list[object]:
    """What is done at signals: a command does something else once it has had one."""
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def main() -> None:
    folder, pattern, *words = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    make_gated(Path(folder), pattern)
    cli.main(words)


if __name__ == "__main__":
    main()
