"""Work in a fresh process, its memory watched from outside, and limited if wanted.

    python -m benchmarks.fresh benchmarks.cubes:cut '{"cases": 20}' result.json

is how such a process is started: the function takes the values as its arguments and returns plain values, or yields
them, each more complete than the one before, so that not all is lost if it does not come to its end. Memory is known on
Linux only; elsewhere it is reported as 0.
"""

import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_S = 0.02
_KINDS = {"anonymous": "RssAnon", "mapped": "RssFile"}


class FreshProcessError(Exception):
    """The work in a fresh process failed; the message is the last it said."""


@dataclass(frozen=True)
class Watched:
    """What came of work in a fresh process.

    Attributes:
        result: what the function returned.
        seconds: from its call to its end, without the start of the process.
        base: bytes of memory by kind when the function was called: `anonymous` (what no file backs, so that only the
            process can give it back) and `mapped` (pages of files, which the system takes back as it likes).
        peak: the largest that was seen by kind; `together` is the system's own count of the largest sum.
        trouble: why the process did not come to its end, if so; the result is the last one before.
    """

    result: Any
    seconds: float
    base: dict[str, int]
    peak: dict[str, int]
    trouble: str = ""

    @property
    def grown(self) -> int:
        """Bytes of anonymous memory that the work took."""
        return max(0, self.peak["anonymous"] - self.base["anonymous"])

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "result": self.result,
            "seconds": self.seconds,
            "base_bytes": self.base,
            "peak_bytes": self.peak,
            "anonymous_grown_bytes": self.grown,
            "trouble": self.trouble,
        }


@dataclass
class Sampler:
    """Looks at the memory of processes again and again, in a thread.

    Args:
        processes: ids of those that are looked at, as they are at the moment.
        period_s: between two looks.
    """

    processes: Callable[[], Iterable[int]]
    period_s: float = SAMPLE_S
    seen: list[tuple[float, int, int]] = field(default_factory=list)

    def __enter__(self) -> "Sampler":
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="memory")
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._done.set()
        self._thread.join()

    def peak(self) -> dict[str, int]:
        """The largest that was seen, by kind."""
        anonymous, mapped = (max((one[place] for one in self.seen), default=0) for place in (1, 2))
        return {"anonymous": int(anonymous), "mapped": int(mapped)}

    def _look(self) -> None:
        while not self._done.wait(self.period_s):
            found = [memory(process) for process in self.processes()]
            sums = [sum(one.get(kind, 0) for one in found) for kind in _KINDS]
            self.seen.append((time.monotonic(), sums[0], sums[1]))


def in_fresh_process(
    function: str,
    arguments: Mapping[str, Any],
    limit_bytes: int | None = None,
    timeout_s: float | None = None,
) -> Watched:
    """Call a function in a fresh process.

    Args:
        function: its module and its name, such as ``benchmarks.cubes:cut``.
        arguments: plain values.
        limit_bytes: so much memory for data may the process take beyond what it has when it begins; mapped files do
            not count (RLIMIT_DATA).
        timeout_s: the process is ended then.

    Raises:
        FreshProcessError: it raised an error, was killed or took too long, before there was any result.
    """
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-") as folder:
        answer, said = Path(folder) / "answer.json", Path(folder) / "said"
        command = [sys.executable, "-m", "benchmarks.fresh", function, json.dumps(arguments), str(answer)]
        if limit_bytes is not None:
            command.append(str(limit_bytes))
        with said.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        with Sampler(lambda: [process.pid]) as sampler:
            trouble = _wait(process, timeout_s)
        if trouble or not answer.exists():
            lines = said.read_text(errors="replace").strip().splitlines() or ["without a word"]
            trouble = f"{function} {trouble or 'ended'}: {lines[-1]}"
        if not answer.exists():
            raise FreshProcessError(trouble)
        reported = json.loads(answer.read_text())
    peak = {kind: max(bytes_, reported["end"].get(kind, 0)) for kind, bytes_ in sampler.peak().items()}
    peak["together"] = reported["end"].get("together", 0)
    return Watched(reported["result"], reported["seconds"], reported["base"], peak, trouble)


def _wait(process: "subprocess.Popen[bytes]", timeout_s: float | None) -> str:
    """Wait for a process; what was wrong with its end, if anything."""
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"was ended after {timeout_s:.0f} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return f"ended with status {status}" if status else ""


def memory(process: int | str = "self") -> dict[str, int]:
    """Bytes of a process's memory by kind, and its largest sum so far; empty if it has ended or this is no Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    reported = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    names = _KINDS | {"together": "VmHWM", "data": "VmData"}
    return {kind: 1024 * int(reported[name][0]) for kind, name in names.items() if name in reported}


def family(process: int) -> list[int]:
    """A process and all that it started, as far down as they go."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [process, *(one for child in children for one in family(child))]


def _limit(more_bytes: int) -> None:
    """RLIMIT_DATA counts what is private and can be written, not what is mapped from files to be read."""
    import resource

    limit = memory().get("data", 0) + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _forget_the_peak() -> None:
    """Let the system count the largest memory from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def main(function: str, arguments: str, answer: str, limit_bytes: str | None = None) -> None:
    """As the fresh process: call the function, and write down what came of it."""
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    _forget_the_peak()
    base = memory()
    if limit_bytes is not None:
        _limit(int(limit_bytes))
    start = time.perf_counter()
    found = work(**json.loads(arguments))
    for result in found if inspect.isgenerator(found) else [found]:
        reported = {"result": result, "seconds": time.perf_counter() - start, "base": base, "end": memory()}
        Path(f"{answer}.partial").write_text(json.dumps(reported), encoding="utf-8")
        Path(f"{answer}.partial").replace(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
