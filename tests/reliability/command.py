"""Commands of zssmnet, run in this process."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import cli


@dataclass(frozen=True)
class Ended:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        (line,) = (line for line in self.err.splitlines() if re.match(r"zssmnet( [\w-]+)?: error: ", line))
        return line


def zssmnet(*arguments: str | Path) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit:
        cli.main([str(argument) for argument in arguments])
    ended = Ended(int(exit.value.code or 0), out.getvalue(), err.getvalue())
    assert "Traceback" not in ended.out + ended.err
    return ended
