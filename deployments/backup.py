"""Backup of the service on one machine: Prefect's database and the password, in one file.

Schedules, parameters, automations, blocks, runs and their logs are in the database; archive and working roots are the
user's own, and each file below a root is whole at any moment. A restored run continues from what its root has.
"""

import os
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from deployments.local_settings import DATABASE, STATE, StackError, State, read_state


def back_up(folder: Path, file: Path) -> None:
    """Write the backup of a service, which may run, in one step; a file of that name is replaced.

    Raises:
        StackError: its database is another program's, or the file cannot be written.
    """
    if read_state(folder).database:
        raise StackError(
            f"the database is not in {folder}: back it up with its own program (PostgreSQL: pg_dump), and copy "
            f"{folder / STATE}; see 'Back up' in docs/operations.md"
        )
    partial = file.with_name(f"{file.name}.partial")
    try:
        with TemporaryDirectory(dir=folder, prefix="backup-") as name, partial.open("wb") as target:
            copy = Path(name) / DATABASE
            # in one transaction, which waits for nobody and delays nobody
            with closing(_opened(folder / DATABASE)) as theirs, closing(sqlite3.connect(copy)) as ours:
                theirs.backup(ours)
            with ZipFile(target, "w", ZIP_DEFLATED) as archive:
                archive.write(copy, DATABASE)
                archive.write(folder / STATE, STATE)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(file)
    except sqlite3.Error as error:
        raise StackError(f"{folder / DATABASE}: cannot be copied: {error}") from error
    except OSError as error:
        raise StackError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def restore(folder: Path, file: Path) -> None:
    """Make a backup the service of a folder that has none; it is not started.

    Raises:
        StackError: there is a service already, or the file is no backup, or a damaged one.
    """
    if (folder / STATE).exists() or (folder / DATABASE).exists():
        raise StackError(f"{folder}: there is a service already; stop it and move the folder away, then restore")
    try:
        with TemporaryDirectory(dir=folder, prefix="restore-") as name, ZipFile(file) as archive:
            new = Path(name)
            for member in (DATABASE, STATE):
                with archive.open(member) as source, (new / member).open("wb") as target:
                    shutil.copyfileobj(source, target)  # and compare its checksum
            with closing(_opened(new / DATABASE)) as database:
                (fault,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if fault != "ok":
                    raise StackError(f"{file}: its database is damaged: {fault}")
            # the old service may still run on this machine: its processes are not ours
            state = State(**read_state(new).model_dump(exclude={"mark"}))
            (new / STATE).write_text(state.model_dump_json(indent=2))
            for member in (DATABASE, STATE):
                (new / member).replace(folder / member)
    except (BadZipFile, KeyError, EOFError, zlib.error, sqlite3.DatabaseError, RuntimeError) as error:
        raise StackError(f"{file}: no backup of 'zssmnet-service backup', or a damaged one: {error}") from error
    except OSError as error:
        raise StackError(f"{file}: cannot be restored: {error.strerror or error}") from error


def _opened(database: Path) -> sqlite3.Connection:
    """A connection to a database that is there."""
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)
