"""A PostgreSQL cluster of one's own in a folder, for one database, on one port of this machine only."""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.processes import StackError

DATABASE = "prefect"
USER = "prefect"
_SYSTEM_USERS = ("postgres", "nobody")
_PUBLIC = Path("/var/tmp")  # noqa: S108 - whatever lies there is looked at before it is used
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/opt/postgresql*/bin")


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes:
        binaries: the folder of PostgreSQL's programs.
        data: its files.
        user: the system's user that it runs as, since PostgreSQL refuses root; None for the present one.
    """

    binaries: Path
    data: Path
    user: str | None

    def make(self, password: str) -> None:
        """Make the cluster and its database, unless it is there.

        It is made beside its place and moved there when it is whole: what a killed start leaves behind is made anew.

        Raises:
            StackError: it cannot be made, or somebody else has put something in its place.
        """
        if self.data.exists():
            self._check_owner()
            return
        new, secret = self.data.with_suffix(".new"), self.data.with_suffix(".password")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600, exist_ok=False)  # a new file: not what somebody else has put there
        secret.write_text(password)
        if self.user:
            shutil.chown(new, self.user)
            shutil.chown(secret, self.user)
        try:
            options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
            self._run(["initdb", *options, f"--username={USER}", f"--pwfile={secret}", f"--pgdata={new}"])
            self._run(["postgres", "--single", "-D", str(new), "postgres"], f"CREATE DATABASE {DATABASE}\n")
        finally:
            secret.unlink()
        new.rename(self.data)

    def command(self, port: int) -> list[str]:
        """What starts the server: on TCP only, because the path of a socket may have no more than 107 bytes."""
        settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *words]

    def answers(self, port: int) -> bool:
        """Whether it takes connections."""
        command = [str(self.binaries / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
        return subprocess.run(command, check=False).returncode == 0

    def settings(self, port: int, password: str) -> Mapping[str, str]:
        """What Prefect's server needs to know of it."""
        values = {"HOST": "127.0.0.1", "PORT": str(port), "NAME": DATABASE, "USER": USER, "PASSWORD": password}
        return {f"PREFECT_SERVER_DATABASE_{name}": value for name, value in values.items()}

    def _check_owner(self) -> None:
        owner = pwd.getpwnam(self.user).pw_uid if self.user else os.geteuid()
        if self.data.lstat().st_uid != owner:
            raise StackError(f"{self.data}: belongs to another user, so PostgreSQL must not run on it; remove it")

    def _run(self, command: list[str], text: str = "") -> None:
        program = str(self.binaries / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self.user,
            group=self.user and pwd.getpwnam(self.user).pw_gid,
            extra_groups=None if self.user is None else (),
        )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise StackError(f"PostgreSQL: {command[0]} failed: {''.join(reason)}")


def find(folder: Path) -> Cluster | None:
    """The cluster for a stack in this folder; None where PostgreSQL is not installed."""
    binaries = _binaries()
    if binaries is None:
        return None
    user = _user() if os.geteuid() == 0 else None
    data = folder / "postgres"
    if user and not _can_be_entered(folder):  # as below /root: nobody but root gets there
        data = _PUBLIC / f"zssmnet-postgres-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    return Cluster(binaries, data, user)


def _binaries() -> Path | None:
    places = [Path(found).resolve().parent for name in ("initdb",) if (found := shutil.which(name))]
    for pattern in _PLACES:
        places += sorted(Path("/").glob(pattern.removeprefix("/")), key=_version, reverse=True)
    needed = ("initdb", "postgres", "pg_isready")
    return next((place for place in places if all((place / name).exists() for name in needed)), None)


def _version(binaries: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in "".join(c if c.isdecimal() else " " for c in str(binaries)).split())


def _user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in _SYSTEM_USERS if name in names), None)
    if found is None:
        raise StackError(
            "PostgreSQL does not run as root, and there is no user postgres or nobody: start as another user"
        )
    return found


def _can_be_entered(folder: Path) -> bool:
    """Whether every user gets to the folder; the folder itself is opened when it is made."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in folder.parents if place.exists())
