"""Two runs over one root at the same time: both end right, or the second reports who has locked it."""

from pathlib import Path

import pytest

from tests.commands import Commands
from tests.reliability.ledger import Ledger
from tests.reliability.undisturbed import Undisturbed
from zssmnet.storage import Storage, open_storage
from zssmnet.storage.verification import verify_root

pytestmark = [pytest.mark.integration, pytest.mark.long]
TIMEOUT_S = 900
CLI = "flows.cli"


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A working root in the place of this test."""
    return request.getfixturevalue("s3_root") if request.param == "S3" else str(tmp_path / "root")


def contents(storage: Storage) -> dict[str, bytes]:
    """What a run publishes but what tells the time: logs, and the records of when inputs were written."""
    names = [entry.key for entry in storage.list() if "tensorboard" not in entry.key and "records" not in entry.key]
    return {name: storage.read(name) for name in names}


@pytest.fixture(scope="module")
def expected(undisturbed: Undisturbed) -> dict[str, bytes]:
    """What one undisturbed run publishes."""
    return contents(open_storage(undisturbed.root))


@pytest.mark.parametrize("root", ["a folder", "S3"], indirect=True)
def test_of_two_commands_one_reports_who_has_locked_the_root(
    undisturbed: Undisturbed, root: str, expected: dict[str, bytes], commands: Commands, ledger: Ledger
) -> None:
    with ledger.tried("two at once", f"two commands over {'S3' if root.startswith('s3') else 'a folder'}"):
        runs = [commands.start(CLI, undisturbed.words(root)) for _ in range(2)]
        logs = [run.communicate(timeout=TIMEOUT_S)[1] for run in runs]
        assert sorted(run.returncode for run in runs) == [0, 1], logs
        (refused,) = [log for run, log in zip(runs, logs, strict=True) if run.returncode]
        (line,) = [line for line in refused.splitlines() if line.startswith("zssmnet: error:")]
        assert f"{root}/SSL/data: is locked by a command (process " in line
        assert "Traceback" not in refused
        assert contents(open_storage(root)) == expected
        assert verify_root(root) == []


def test_of_two_runs_of_a_deployment_one_waits_for_the_other(
    undisturbed: Undisturbed, tmp_path: Path, expected: dict[str, bytes], flow_commands: Commands, ledger: Ledger
) -> None:
    """As the runs that a worker starts: nobody sits beside them."""
    root = str(tmp_path / "root")
    with ledger.tried("two at once", "two runs of a deployment over a folder"):
        by_worker = {"PREFECT__FLOW_RUN_ID": "00000000-0000-0000-0000-000000000000"}
        runs = [flow_commands.start(CLI, undisturbed.words(root), by_worker) for _ in range(2)]
        reported = [run.communicate(timeout=TIMEOUT_S) for run in runs]
        assert [run.returncode for run in runs] == [0, 0], reported
        assert sum("6 up to date" in said for said, _ in reported) == 1
        assert contents(open_storage(root)) == expected
        assert verify_root(root) == []


def test_of_two_trainings_one_reports_who_trains(
    undisturbed: Undisturbed, tmp_path: Path, expected: dict[str, bytes], commands: Commands, ledger: Ledger
) -> None:
    root = tmp_path / "root"
    for name, content in expected.items():
        if not name.startswith("SSL/pretrained_weights"):
            open_storage(root).publish_bytes(name, content)
    words = ["--data", str(root / "SSL/generated_cubes"), "--output", str(root / "SSL/pretrained_weights")]
    words += ["--config", str(undisturbed.folder / "quick.toml")]
    with ledger.tried("two at once", "two trainings of the same cubes"):
        runs = [commands.start(CLI, ["pretrain", *words]) for _ in range(2)]
        logs = [run.communicate(timeout=TIMEOUT_S)[1] for run in runs]
        codes = [run.returncode for run in runs]
        assert sorted(codes) in ([0, 0], [0, 1]), logs  # both, if one came when the other had ended
        for code, log in zip(codes, logs, strict=True):
            assert (": is locked by a command" in log) or not code
            assert "Traceback" not in log
        assert {name: open_storage(root).read(name) for name in expected} == expected
