"""One interface over storage. A file is published whole, in one step, or not at all.

Keys are POSIX paths relative to a storage's root, for example ``subset0/11373_1001396.nii.gz``.
"""

import os
import re

from zssmnet.errors import InputError, without_credentials
from zssmnet.storage.interface import Entry, Storage, sha256_of
from zssmnet.storage.keys import printable, unnameable
from zssmnet.storage.local import LocalStorage

Address = str | os.PathLike[str]
"""A local folder or file, or ``s3://bucket/prefix``."""

__all__ = ["Address", "Entry", "LocalStorage", "Storage", "check_address", "open_storage", "read_file", "sha256_of"]

_ACCESS_POINT = "arn:aws:s3:"
_OTHER_SCHEME = re.compile("(s3|file):", re.IGNORECASE)
"""Addresses with one slash, as tools that tidy paths write them: no local folders."""


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at ``uri``: a local folder, in which ``~`` is the home, or ``s3://bucket/prefix``.

    Raises:
        InputError: another kind of address, none, one with a user or password in it, or one that cannot be encoded
            in this locale.
    """
    uri = os.fspath(uri)
    check_address(uri)
    if not uri.strip():
        raise InputError("an empty address was given for a folder; name a local folder or s3://bucket/prefix")
    if reason := unnameable(uri):
        raise InputError(f"{printable(uri)}: this address cannot be used: {reason}")
    if uri.startswith("s3://"):
        if not uri.removeprefix("s3://").partition("/")[0].strip():
            raise InputError(f"{uri}: names no bucket; expected s3://bucket/prefix")
        if without_credentials(endpoint := os.environ.get("AWS_ENDPOINT_URL", "")) != endpoint:
            raise InputError(
                f"{uri}: AWS_ENDPOINT_URL has a user or password in it, with which no request can be signed; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
            )
        try:
            from zssmnet.storage.s3 import S3Storage  # slow to import, seldom needed
        except ModuleNotFoundError as error:
            raise InputError(f"{uri}: S3 needs {error.name}; install it with: pip install 'zssmnet[s3]'") from error
        return S3Storage(uri)
    if "://" in uri or _OTHER_SCHEME.match(uri):
        raise InputError(f"{uri}: only local folders and s3://bucket/prefix can be used")
    return LocalStorage(uri)


def check_address(uri: str) -> None:
    """Raise an InputError if a user or password stands in an address: it would stand in every log and record, too."""
    scheme, is_remote, rest = uri.partition("://")
    place = rest.partition("/")[0]
    if is_remote and ("@" in place or (":" in place and not place.startswith(_ACCESS_POINT))):
        raise InputError(
            f"{scheme}://...: an address must have no user, key or password in it; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and name s3://bucket/prefix"
        )


def read_file(uri: str | os.PathLike[str]) -> bytes:
    """The content of one file, wherever it lies; StorageError if it is not there or cannot be read."""
    uri = os.fspath(uri)
    folder, _, name = uri.rpartition("/")
    return open_storage(folder or ("/" if uri.startswith("/") else ".")).read(name)
