"""What a benchmark found: printed as it comes, and kept as JSON from which `benchmarks.report` makes the page."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "SimpleITK", "prefect", "triton")
MB = 2**20
GIB = 2**30


@dataclass
class Results:
    """The figures and tables of one benchmark; written anew after each part, so that nothing is lost.

    Attributes:
        name: of the benchmark.
        configuration: what it was asked to do.
        file: where the JSON goes; None writes none.
        figures: all numbers, by part.
        tables: what is shown of them.
        notes: what is to be said with them, such as parts that were left out.
    """

    name: str
    configuration: Mapping[str, Any]
    file: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.circumstances = circumstances()
        self.write()

    def add(self, part: str, figures: Any) -> None:
        """Keep the figures of a part."""
        self.figures[part] = figures
        self.write()

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table, and keep it."""
        self.tables.append({"title": title, "head": list(head), "rows": [list(row) for row in rows]})
        print(f"{title}\n{in_columns([head, *rows])}\n", flush=True)
        self.write()

    def note(self, text: str) -> None:
        """Say something, and keep it."""
        self.notes.append(text)
        print(text, flush=True)
        self.write()

    def write(self) -> None:
        """Write the JSON, whole or not at all."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        reported = {
            "benchmark": self.name,
            "circumstances": self.circumstances,
            "configuration": dict(self.configuration),
            "figures": self.figures,
            "tables": self.tables,
            "notes": self.notes,
        }
        beside = self.file.with_name(f"{self.file.name}.partial")
        beside.write_text(json.dumps(reported, indent=1, default=str) + "\n", encoding="utf-8")
        beside.replace(self.file)


def circumstances() -> dict[str, Any]:
    """When, of which commit, and on what."""
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()} | _versions(),
    }


def in_words(circumstances: Mapping[str, Any]) -> str:
    """Circumstances in a line."""
    gpus = ", ".join(gpu["name"] for gpu in circumstances["gpus"]) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in circumstances["versions"].items())
    memory = f"{circumstances['memory_gib']} GiB"
    machine = f"{circumstances['cores']} cores of {circumstances['processor']}, {memory}; {gpus}"
    return f"{circumstances['date']}, commit {circumstances['commit']}; {machine}; {versions}."


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _commit() -> str:
    """The commit, and whether the files have been changed since."""
    try:
        reported = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=9"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return "unknown"
    return reported.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> int:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB)


def _gpu(number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {"name": properties.name, "memory_gib": round(properties.total_memory / GIB, 1)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found
