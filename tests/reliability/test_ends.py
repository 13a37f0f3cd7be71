"""SIGTERM and SIGINT end a run in order, with one line; whichever way a run ends, no process of it is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import Command, Commands
from tests.reliability.gated import OPEN, REACHED, SIGNALLED
from tests.reliability.ledger import Ledger
from tests.reliability.undisturbed import Undisturbed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
PATIENCE_S = 900
AT_ONCE_S = 60
"""On a busy machine; a run that goes on at the gate would take for ever."""
FILES = {
    "preparation": "SSL/data/subset",
    "cubes": r"SSL/generated_cubes/.*\.npy$",
    "training": "SSL/pretrained_weights/training/.*/last.checkpoint$",
    "publication": r"SSL/pretrained_weights/versions/.*\.model$",
}
FAULTS = {signal.SIGTERM: "asked to end (SIGTERM)", signal.SIGINT: "interrupted (SIGINT)"}
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
LAST_LINE = {
    signal.SIGTERM: "zssmnet: terminated; the same command continues where it stopped",
    signal.SIGINT: "zssmnet: interrupted; the same command continues where it stopped",
}
MARK = "ZSSMNET_TEST_RUN"


class Run:
    """A run that is stopped at the gate of a stage, and all processes of its session."""

    def __init__(self, commands: Commands, words: list[str], folder: Path, files: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._command: Command = commands.start("tests.reliability.gated", [str(folder), files, *words])

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._command.poll() is None, f"it ended too early: {self._command.communicate(1)}"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def at_the_gate(self) -> list[str]:
        """The files that have come to the gate."""
        reached = self._folder / REACHED
        return reached.read_text().splitlines() if reached.exists() else []

    def send(self, how: signal.Signals) -> None:
        """Send a signal to the run alone."""
        os.kill(self._command.pid, how)

    def knows_of_a_signal(self) -> bool:
        return (self._folder / SIGNALLED).exists()

    def open(self) -> None:
        """Let it go on."""
        (self._folder / OPEN).touch()

    def ended(self, timeout: float = PATIENCE_S) -> tuple[int, str]:
        """Exit status and what was said."""
        said = "".join(self._command.communicate(timeout))
        return self._command.returncode, said

    def nothing_left(self) -> bool:
        """Whether all its processes end, within patience."""
        deadline = time.monotonic() + PATIENCE_S
        while any(session == self._command.pid for session in sessions()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def sessions() -> Iterator[int]:
    """The sessions of all processes that run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if state != "Z":
            yield int(session)


def assert_ends_in_order(run: Run, root: Path, how: signal.Signals) -> None:
    run.wait(lambda: bool(run.at_the_gate()))
    run.send(how)
    run.open()
    status, said = run.ended()
    assert status == STATUS[how], said
    assert said.splitlines().count(LAST_LINE[how]) == 1, said
    assert "Traceback" not in said
    assert run.nothing_left()
    assert not [*root.rglob(".partial")]


HOWS = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=[] if one == "training" else [pytest.mark.long]) for one in FILES]
)
@pytest.mark.parametrize("how", FAULTS)
def test_a_command_ends_in_order(
    how: signal.Signals, stage: str, undisturbed: Undisturbed, tmp_path: Path, commands: Commands, ledger: Ledger
) -> None:
    root = tmp_path / "root"
    run = Run(commands, undisturbed.words(root), tmp_path / "gate", FILES[stage])
    with ledger.tried(f"{stage} on a folder", FAULTS[how]):
        assert_ends_in_order(run, root, how)


@pytest.mark.long
@pytest.mark.parametrize("stage", FILES)
def test_a_killed_command_leaves_no_process(
    stage: str, undisturbed: Undisturbed, tmp_path: Path, commands: Commands, ledger: Ledger
) -> None:
    run = Run(commands, undisturbed.words(tmp_path / "root"), tmp_path / "gate", FILES[stage])
    with ledger.tried(f"{stage} on a folder", "killed (SIGKILL), processes left"):
        run.wait(lambda: bool(run.at_the_gate()))
        run.send(signal.SIGKILL)
        assert run.ended()[0] == -signal.SIGKILL
        assert run.nothing_left()


@pytest.mark.parametrize("stage", ["preparation", "training"])
@pytest.mark.parametrize("how", HOWS)
def test_a_flow_ends_in_order(
    how: signal.Signals, stage: str, undisturbed: Undisturbed, tmp_path: Path, flow_commands: Commands, ledger: Ledger
) -> None:
    root = tmp_path / "root"
    run = Run(flow_commands, undisturbed.words(root), tmp_path / "gate", FILES[stage])
    with ledger.tried(f"flow, {stage},", FAULTS[how]):
        assert_ends_in_order(run, root, how)


def preparing(undisturbed: Undisturbed, tmp_path: Path, commands: Commands) -> Run:
    """A run that prepares as many of the six cases as there are threads, and stops when each has an image."""
    words = ["--images_path", str(undisturbed.folder / "nnunet_raw")]
    words += ["--zonal_mask_path", str(undisturbed.folder / "zonal_masks"), "--output_path", str(tmp_path / "data")]
    run = Run(commands, ["prepare", *words], tmp_path / "gate", r"/data/subset./.*_0000\.nii\.gz$")
    threads = min(2, len(os.sched_getaffinity(0)))
    run.wait(lambda: len(run.at_the_gate()) == threads)
    return run


@pytest.mark.parametrize("how", FAULTS)
def test_cases_that_are_being_prepared_are_finished_and_no_other_is_begun(
    how: signal.Signals, undisturbed: Undisturbed, tmp_path: Path, commands: Commands, ledger: Ledger
) -> None:
    run = preparing(undisturbed, tmp_path, commands)
    with ledger.tried("preparation on a folder", FAULTS[how]):
        run.send(how)
        run.wait(run.knows_of_a_signal)
        run.open()
        status, said = run.ended()
        assert (status, said.splitlines().count(LAST_LINE[how])) == (STATUS[how], 1), said
        begun = {Path(file).name.removesuffix("_0000.nii.gz") for file in run.at_the_gate()}
        files = {path.relative_to(tmp_path) for path in (tmp_path / "data").glob("subset*/*")}
        assert {path.name.removesuffix(".nii.gz").partition("_000")[0] for path in files} == begun
        assert len(begun) < 6
        assert len(files) == 4 * len(begun)
        assert {path.stem for path in (tmp_path / "data/records").glob("*.json")} == begun
        whole = undisturbed.root / "SSL"
        assert all((tmp_path / file).read_bytes() == (whole / file).read_bytes() for file in files)
        assert run.nothing_left()


def test_a_second_interrupt_ends_a_command_at_once(
    undisturbed: Undisturbed, tmp_path: Path, commands: Commands, ledger: Ledger
) -> None:
    """What is published is whole, and the same command continues."""
    run = preparing(undisturbed, tmp_path, commands)
    with ledger.tried("preparation on a folder", "interrupted twice (SIGINT)"):
        run.send(signal.SIGINT)
        run.wait(run.knows_of_a_signal)
        run.send(signal.SIGINT)
        assert run.ended(AT_ONCE_S)[0] == STATUS[signal.SIGINT]
        assert run.nothing_left()
        assert not [*(tmp_path / "data").glob("subset*/*.nii.gz")]


class LeftError(Exception):
    """Processes are left."""


class TestOnATemporaryServer:
    """With ``--prefect``, Prefect starts a server beside the command, and ends it at the command's end."""

    @pytest.mark.long
    @pytest.mark.parametrize(
        "how",
        [
            signal.SIGTERM,
            pytest.param(
                signal.SIGKILL,
                marks=pytest.mark.xfail(raises=LeftError, strict=True, reason="Prefect ends it at exit alone"),
            ),
        ],
    )
    def test_no_process_is_left(
        self, how: signal.Signals, undisturbed: Undisturbed, tmp_path: Path, ledger: Ledger
    ) -> None:
        root, mark = tmp_path / "root", f"{MARK}={tmp_path}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
        environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), MARK: str(tmp_path)}
        with (tmp_path / "said").open("w") as said:
            command = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *undisturbed.words(root), "--prefect"],
                env=environment | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not [*root.glob("SSL/data/subset*/*")]:
                assert command.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            command.send_signal(how)
            with ledger.tried("temporary server", FAULTS.get(how, "its command killed (SIGKILL)")):
                assert command.wait(PATIENCE_S) == STATUS.get(how, -how)
                deadline = time.monotonic() + AT_ONCE_S
                while left := marked(mark):
                    if time.monotonic() > deadline:
                        raise LeftError(f"{len(left)} processes are left")
                    time.sleep(0.1)
                lines = (tmp_path / "said").read_text().splitlines()
                assert lines.count(LAST_LINE[how]) == 1, lines
        finally:
            for process in marked(mark):
                os.kill(process, signal.SIGKILL)
            command.wait()


def marked(mark: str) -> list[int]:
    """Processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_text(errors="replace").split("\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found
