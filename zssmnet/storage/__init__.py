"""One interface over storage. A file is published whole, in one step, or not at all.

Keys are POSIX paths relative to a storage's root, for example ``subset0/11373_1001396.nii.gz``.
"""

import os

from zssmnet.errors import InputError, without_credentials
from zssmnet.storage.interface import Entry, Storage, sha256_of
from zssmnet.storage.local import LocalStorage

__all__ = ["Entry", "LocalStorage", "Storage", "open_storage", "read_file", "sha256_of"]


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at ``uri``: a local folder, or ``s3://bucket/prefix``.

    Raises:
        InputError: another kind of address, none, or one with a key in it.
    """
    if not str(uri).strip():
        raise InputError("an empty address was given for a folder; name a local folder or s3://bucket/prefix")
    if "://" in str(uri) and without_credentials(str(uri)) != str(uri):
        raise InputError(
            f"{uri}: logs and records repeat an address, so no key belongs into it; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if str(uri).startswith("s3://"):
        from zssmnet.storage.s3 import S3Storage  # slow to import, seldom needed

        return S3Storage(str(uri))
    if "://" in str(uri):
        raise InputError(f"{uri}: only local folders and s3://bucket/prefix can be used")
    return LocalStorage(uri)


def read_file(uri: str) -> bytes:
    """The content of one file, wherever it lies.

    Raises:
        StorageError: it is not there or cannot be read.
    """
    folder, _, name = uri.rpartition("/")
    return open_storage(folder or ("/" if uri.startswith("/") else ".")).read(name)
