"""What was done to the program, how often, and whether it survived: counted by the tests that ran, shown as a table.

    pytest tests/reliability --long --reliability-report report.json
    python -m tests.reliability.ledger docs/reliability.md report.json

The second command puts reports into the page, between its two marks. Of several reports a later one replaces what an
earlier one tells of the same fault, so that a part can be tried again.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.page import in_markdown, put_into_page

ROOT = Path(__file__).resolve().parents[2]
MARKS = ("<!-- report: begin -->", "<!-- report: end -->")


@dataclass
class Count:
    """How often a fault was tried, and how often it did no harm."""

    tries: int = 0
    survived: int = 0


@dataclass
class Ledger:
    """The faults and the figures of one session of tests."""

    faults: dict[tuple[str, str], Count] = field(default_factory=dict)
    figures: dict[tuple[str, str], str] = field(default_factory=dict)

    @contextmanager
    def tried(self, area: str, fault: str, tries: int = 1) -> Iterator[None]:
        """Count so many tries of a fault: lost, if the checks inside fail; survived otherwise.

        Args:
            area: what the fault hits, such as "training on S3".
            fault: what is done, such as "killed (SIGKILL)".
            tries: how many tries the checks inside stand for.
        """
        count = self.faults.setdefault((area, fault), Count())
        count.tries += tries
        yield
        count.survived += tries

    def measured(self, what: str, figure: str, value: str) -> None:
        """Note a figure, such as ("1,500 cases on PostgreSQL", "memory of the server", "310 MB at most")."""
        self.figures[what, figure] = value

    def as_json(self) -> list[list[Any]]:
        """All of it in plain values, for another process."""
        faults = [[area, fault, count.tries, count.survived] for (area, fault), count in self.faults.items()]
        return [faults, [[*names, value] for names, value in self.figures.items()]]

    def add(self, reported: list[list[Any]]) -> None:
        """Add what the ledger of another process tells."""
        faults, figures = reported
        for area, fault, tries, survived in faults:
            count = self.faults.setdefault((area, fault), Count())
            count.tries += tries
            count.survived += survived
        for what, figure, value in figures:
            self.figures[what, figure] = value

    def report(self) -> str:
        """The report of this session, as JSON."""
        return json.dumps({"circumstances": _circumstances(), "tried": self.as_json()}, indent=1) + "\n"

    def rows(self) -> list[tuple[str, ...]]:
        """The table of faults, with a sum."""
        rows = [
            (*names, str(count.tries), str(count.survived), str(count.tries - count.survived))
            for names, count in sorted(self.faults.items())
        ]
        tries = sum(count.tries for count in self.faults.values())
        survived = sum(count.survived for count in self.faults.values())
        return [*rows, ("**all**", "", f"**{tries}**", f"**{survived}**", f"**{tries - survived}**")]


def as_markdown(reports: list[Path]) -> str:
    """Reports as a page shows them: when and where, the table of faults, the table of figures."""
    whole, circumstances = Ledger(), []
    for report in reports:
        content = json.loads(report.read_text(encoding="utf-8"))
        circumstances.append(content["circumstances"])
        for area, fault, *_ in content["tried"][0]:
            whole.faults.pop((area, fault), None)
        whole.add(content["tried"])
    parts = ["\n".join(dict.fromkeys(circumstances))]
    parts.append(in_markdown(("area", "fault", "tries", "survived", "lost"), whole.rows()))
    if whole.figures:
        rows = [(*names, value) for names, value in sorted(whole.figures.items())]
        parts.append(in_markdown(("run", "figure", "value"), rows))
    return "\n\n".join(parts)


def _circumstances() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}"
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit or 'unknown'}, {machine}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    page, *reports = (Path(name) for name in sys.argv[1:])
    text = as_markdown(reports)
    print(text)
    if page != Path("-"):
        put_into_page(text, page, MARKS)
