"""One interface over storage. A file is published whole, in one step, or not at all.

Keys are POSIX paths relative to a storage's root, for example ``subset0/11373_1001396.nii.gz``.
"""

import os

from zssmnet.errors import InputError, without_credentials
from zssmnet.storage.address import S3, Address, checked_address, local_path
from zssmnet.storage.interface import Entry, Storage, sha256_of
from zssmnet.storage.local import LocalStorage

__all__ = ["Address", "Entry", "LocalStorage", "Storage", "folder_and_name", "open_storage", "read_file", "sha256_of"]


def open_storage(uri: Address) -> Storage:
    """The storage at ``uri``: a local folder, in which ``~`` is the home, or ``s3://bucket/prefix``.

    Raises:
        InputError: an address that cannot be used, see `checked_address`.
    """
    uri = checked_address(uri)
    if not uri.startswith(S3):
        return LocalStorage(uri)
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


def folder_and_name(address: Address) -> tuple[Storage, str]:
    """The folder in which a file lies, local or in S3, and its name there."""
    uri = checked_address(address)
    if uri.startswith(S3):
        folder, _, name = uri.rstrip("/").rpartition("/")
        if folder == "s3:/":
            raise InputError(f"{uri}: names a bucket, but no file; expected s3://bucket/prefix/file")
        return open_storage(folder), name
    path = local_path(uri)
    if path.name in ("", ".."):
        path = path.resolve()
    return LocalStorage(path.parent), path.name


def read_file(uri: Address) -> bytes:
    """The content of one file, wherever it lies; StorageError if it is not there or cannot be read."""
    folder, name = folder_and_name(uri)
    return folder.read(name)
