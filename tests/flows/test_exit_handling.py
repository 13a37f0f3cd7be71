"""A command ends with a status and at most one line, whatever happens to it or to its streams."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.exit_handling import run_to_its_end
from zssmnet.errors import ConfigError, InputError

END = "import sys; from flows.exit_handling import run_to_its_end, say; sys.exit(run_to_its_end(lambda: {work}))"


def ended(work: str, shell: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """What a process that does this work says; ``shell`` is what a shell does with its streams."""
    words = ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, END.format(work=work)]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def fail(error: BaseException) -> int:
    def work() -> None:
        raise error

    return run_to_its_end(work)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("no\nfile"), 1, r"error: no\\x0afile|error: no file|error: no\\nfile"),
        (ConfigError("epochs = 0"), 2, "error: epochs = 0"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues where it stopped"),
        (
            ModuleNotFoundError("No module named 'prefect'", name="prefect.flows"),
            1,
            ".*: pip install 'zssmnet.service.'",
        ),
    ],
)
def test_foreseen_ends_are_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(error) == status
    (said,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"zssmnet: ({line})", said)


def test_what_nobody_foresaw_is_one_line_and_a_file_with_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert fail(ZeroDivisionError("a\nb at https://user:secret@host/x")) == 1
    (said,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert said.startswith("zssmnet: error: unexpected ZeroDivisionError: a b at ")
    assert said.endswith(f"its traceback is in {file}, please report it")
    assert "Traceback" in file.read_text()
    assert "secret" not in said + file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_closed_streams_do_not_matter() -> None:
    done = ended("say('done')", "<&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    for shell in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert ended("say('done')", shell).returncode == 0
    assert ended("open('/no such file')", "<&- >&- 2>&-").returncode == 1


def test_a_last_line_that_cannot_be_printed_fails_nothing() -> None:
    done = ended("say('Größe')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Gr\\xf6\\xdfe\n", "")
    assert ended("say('done')", ">/dev/full").returncode == 0
    piped = ended("[say('x' * 1000) for _ in range(1000)]", "| true; exit 0")
    assert piped.stderr == ""


@pytest.mark.parametrize(
    ("before", "status", "line"),
    [("SIG_DFL", 143, "zssmnet: terminated; the same command continues where it stopped\n"), ("SIG_IGN", 0, "")],
)
def test_a_terminal_that_closes_ends_a_command_in_order_but_not_under_nohup(
    before: str, status: int, line: str
) -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.{before}); "
    code += END.format(work="signal.raise_signal(signal.SIGHUP)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (status, line)


def test_a_current_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    work = f"__import__('os').chdir({str(tmp_path)!r}), __import__('os').rmdir('../{tmp_path.name}')"
    work = f"({work}, __import__('pathlib').Path('root').absolute())"
    done = ended(work)
    assert (done.returncode, done.stderr) == (
        1,
        "zssmnet: error: the current folder is not there any more; change to one that is there (cd) and run again\n",
    )
