"""Addresses that users give: ``s3://bucket/prefix``, or a local path; what is neither is refused in one place."""

import os
import re
import textwrap
from pathlib import Path

from zssmnet.errors import InputError
from zssmnet.storage.keys import printable, unnameable

Address = str | os.PathLike[str]
"""A local folder or file, or ``s3://bucket/prefix``."""

S3 = "s3://"
_ACCESS_POINT = "arn:aws:s3:"
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_OTHER = re.compile(
    r"[^/]*://|(s3[an]?|file|gs|https?|arn):|[a-z][a-z0-9+.-]+:(/|$)|(.*/)?(s3|file):/"
    r"|[a-z]:([\\/]|$)|\\\\|\$\{?\w|%\w+%|([\"']).*\6$",
    re.IGNORECASE,
)
"""Other schemes, and addresses with one slash, as tools that tidy paths write them; drives of Windows; variables and
quotation marks that no shell has replaced: no local folders."""


def checked_address(address: Address) -> str:
    """``address`` as text, if it can name a place in S3 or a local one.

    Raises:
        InputError: neither text nor a path, an empty address, one of another kind, with a user or password in it, or
            one that cannot be encoded in this locale.
    """
    if not isinstance(address, str | os.PathLike):
        raise InputError(
            f"{textwrap.shorten(repr(address), 80)}: is no address; name a local folder or file, or s3://bucket/prefix"
        )
    address = os.fspath(address)
    scheme, is_remote, rest = address.partition("://")
    place = rest.partition("/")[0]
    if is_remote and ("@" in place or (":" in place and not place.startswith(_ACCESS_POINT))):
        raise InputError(
            f"{scheme}://...: an address must have no user, key or password in it; "  # it would stand in every record
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and name s3://bucket/prefix"
        )
    if not address.strip():
        raise InputError("an empty address was given for a folder; name a local folder or s3://bucket/prefix")
    if reason := unnameable(address):
        raise InputError(f"{printable(address)}: this address cannot be used: {reason}")
    if address.startswith(S3):
        bucket, *folders = address.removeprefix(S3).rstrip("/").split("/")
        if not (_BUCKET.fullmatch(bucket) or bucket.startswith(_ACCESS_POINT)):
            raise InputError(f"{address}: names no bucket; expected s3://bucket/prefix")
        if {"", ".", ".."}.intersection(folders):
            raise InputError(f"{address}: has an empty part, '.' or '..' in its prefix; expected s3://bucket/prefix")
    elif "://" in address or _OTHER.match(address):
        hint = "" if address[0].isalpha() and address[1:2] != ":" else ", without quotes, variables and drive letters"
        raise InputError(f"{address}: only local folders and s3://bucket/prefix can be used{hint}")
    return address


def local_path(address: Address) -> Path:
    """The local path of an address, in which ``~`` is the home.

    Raises:
        InputError: it cannot be used, is in the home of a user that there is not, or in S3, for what works with local
            files alone.
    """
    text = checked_address(address)
    if text.startswith(S3):
        raise InputError(f"{text}: is in S3, but only a local path can be used here; 'zssmnet upload' sends a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: the home {Path(text).parts[0]} is not known; name the whole path") from error
