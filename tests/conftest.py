"""Options and fixtures for all tests."""

import os
import re
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands
from tests.reliability.ledger import Ledger
from tests.reliability.undisturbed import undisturbed as undisturbed
from tests.s3_server import s3_endpoint as s3_endpoint
from tests.s3_server import s3_root as s3_root
from tests.server import SessionFolder
from tests.server import prefect_api as prefect_api
from tests.server import prefect_database as prefect_database

LEDGER = pytest.StashKey[Ledger]()
SLOWEST = "test_service.py"
TOGETHER = {f"tests/reliability/test_{name}.py" for name in ("ends", "killed", "storage_runs")}
"""They start commands, from processes that take seconds to start: one of pytest-xdist's processes has them all."""
LONG = re.compile(r"^pytestmark = .*\bpytest\.mark\.long\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--long", action="store_true", help="the long tests, and many tries where there are few otherwise")
    group.addoption("--reliability-report", type=Path, metavar="FILE", help="write what was tried and what survived")


def pytest_configure(config: pytest.Config) -> None:
    if not Path("/proc/driver/nvidia").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported
    config.stash[LEDGER] = Ledger()
    if not hasattr(config, "workerinput"):  # processes of pytest-xdist share it
        config.add_cleanup(SessionFolder().close)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of long tests alone are not even imported, unless they are asked for."""
    if config.getoption("--long") or collection_path.suffix != ".py":
        return None
    named = {config.invocation_params.dir / argument.partition("::")[0] for argument in config.args}
    return True if collection_path not in named and LONG.search(collection_path.read_text()) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as ``--dist loadfile`` does, but for those that belong together; long ones would wait for each other."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "commands" if file_of(nodeid) in TOGETHER else super()._split_scope(nodeid)

    is_wanted = config.getoption("dist") == "loadfile" and not config.getoption("--long")
    return Scheduling(config, log) if is_wanted else None


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow files come first, so that side by side none is left alone at the end; long tests only if asked for."""
    slow = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(
        key=lambda item: (item.path not in slow, item.path.name != SLOWEST, file_of(item.nodeid) not in TOGETHER)
    )
    if config.getoption("--long"):
        return
    is_long = [bool(item.get_closest_marker("long")) for item in items]
    config.hook.pytest_deselected(items=[*compress(items, is_long)])
    items[:] = [item for item, long in zip(items, is_long, strict=True) if not long]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Tests that run side by side, in processes of pytest-xdist, have a ledger each: they are added up."""
    if reported := getattr(node, "workeroutput", {}).get("ledger"):
        node.config.stash[LEDGER].add(reported)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["ledger"] = session.config.stash[LEDGER].as_json()
        return
    if file := session.config.getoption("--reliability-report"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(session.config.stash[LEDGER].report(), encoding="utf-8")


@pytest.fixture(scope="session")
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """What is tried, and what survives."""
    return request.config.stash[LEDGER]


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether many tries are wanted."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Starts plain commands."""
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def flow_commands(prefect_api: str) -> Iterator[Commands]:
    """Starts commands as flows on the session's server."""
    commands = Commands(prefect_api)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with the golden values and the data."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here: golden values are not checked")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Outputs of the published program."""
    return shared / "golden"
