"""Watching a run from outside: the memory of its processes, and other figures, second by second."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import fresh

MB = 1024 * 1024
SAMPLE_S = 1.0


@dataclass
class Watch:
    """Figures of a time, sampled again and again.

    Attributes:
        groups: the processes of each group, by their ids, as they are at the moment.
        gauges: other figures to sample.
        memory_mb: a group's memory at each sample at which it had processes.
        read: a gauge's value at each sample.
    """

    groups: Mapping[str, Callable[[], Iterable[int]]]
    gauges: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    memory_mb: dict[str, list[float]] = field(default_factory=dict)
    read: dict[str, list[int]] = field(default_factory=dict)

    def until(self, condition: Callable[[], bool], patience_s: float) -> None:
        """Sample until the condition is true."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened within {patience_s:g} s"
            self._sample()
            time.sleep(SAMPLE_S)

    def _sample(self) -> None:
        for group, processes in self.groups.items():
            if used := sum(memory(process) for process in processes()):
                self.memory_mb.setdefault(group, []).append(used / MB)
        for name, gauge in self.gauges.items():
            self.read.setdefault(name, []).append(gauge())


def memory(process: int) -> int:
    """Bytes of a process that no file backs, so that only it can give them back; what is shared counts in parts.

    0 if the process has ended.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * (kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"])


def family(process: int | None) -> list[int]:
    """A process and all that it started, as far down as they go."""
    return [] if process is None else fresh.family(process)


def thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """The largest value of the first, the middle and the last third."""
    size = max(1, len(values) // 3)
    return max(values[:size]), max(values[size:-size] or values), max(values[-size:])


def in_words(values: list[float]) -> str:
    """How memory went, in words."""
    return f"start {values[0]:.0f} MB, largest {max(values):.0f} MB, end {values[-1]:.0f} MB"
