"""Looking for a stack's passwords and keys wherever a run may have left them."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

import s3fs

from deployments.stack import LocalStack

MEANT = ("state.json", "env", "supervisord.conf")
"""Files of the stack that hold them on purpose, readable by their owner alone."""


class Secrets:
    """What must stand nowhere. What is found is named by its place, so that a failing test does not tell it."""

    def __init__(self, stack: LocalStack, more: Mapping[str, str]) -> None:
        self._stack = stack
        api = stack.environment["PREFECT_API_AUTH_STRING"]
        self._secrets = {
            "the API's password": api.partition(":")[2],
            "the API's password in a header": base64.b64encode(api.encode()).decode(),
            "the S3 key": stack.environment["AWS_SECRET_ACCESS_KEY"],
            **more,
        }

    def found_in_commands(self) -> list[str]:
        """In command lines of processes, which every user of the machine can read."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    found += self._found((process / "cmdline").read_bytes(), f"process {process.name}")
                except OSError:
                    continue  # has ended
        return found

    def found_in_files(self, folder: Path) -> list[str]:
        """In files below a folder, but those that are meant to hold them and that only their owner can read."""
        found = []
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            if path.parent == self._stack.folder and path.name in MEANT:
                found += [f"{path} is open to others"] * bool(path.stat().st_mode & 0o077)
                continue
            found += self._found(path.read_bytes(), str(path))
        return found

    def found_in_bucket(self, bucket: str) -> list[str]:
        """In the files of a bucket and in their names."""
        files = s3fs.S3FileSystem(use_listings_cache=False)
        paths = files.find(bucket)
        assert paths
        return [where for path in paths for where in self._found(path.encode() + files.cat_file(path), path)]

    def found_in_database(self) -> list[str]:
        """In anything that Prefect's server keeps: parameters, states, logs, artifacts, events, variables, blocks."""
        dump = self._dump()
        assert b"zssmnet.model.published" in dump  # it is the right one
        return [where for line in dump.splitlines() for where in self._found(line, f"database: {line[:80]!r}")]

    def _dump(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._stack.folder.glob("prefect.db*"))

    def _found(self, content: bytes, where: str) -> Iterator[str]:
        return (f"{name} in {where}" for name, value in self._secrets.items() if value.encode() in content)
