"""Keys: names of files below a storage's root, as POSIX paths."""

import sys
import unicodedata
from pathlib import PurePosixPath

from zssmnet.errors import InputError

LONGEST_NAME = 255
"""Bytes of a file's name on common file systems."""
_UNNAMEABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no key may hold: control characters, halves of characters, line separators."""
_USE_UTF8 = "set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8"


def checked_key(key: str) -> str:
    """``key``, if it can name a file below the root.

    Raises:
        InputError: it is absolute or leads out of the root, has control characters, or a name in it is too long.
    """
    if reason := unusable(key):
        raise InputError(f"{key!r} is no name of a file: {reason}")
    return key


def unusable(key: str) -> str:
    """Why ``key`` cannot name a file below the root; "" if it can."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return "it would lie outside the working root"
    if key.rpartition("/")[2] in ("", "."):
        return "it names a folder"
    if reason := unnameable(key):
        return reason
    is_long = any(len(name.encode()) > LONGEST_NAME for name in path.parts)
    return f"a name in it has more than {LONGEST_NAME} bytes" if is_long else ""


def unnameable(name: str) -> str:
    """Why no file can have this name because of its characters; "" if one can."""
    encoding = sys.getfilesystemencoding()
    try:
        name.encode(encoding)
    except UnicodeEncodeError:
        if encoding != "utf-8":
            return f"a character of it is not in this locale's encoding, {encoding}; {_USE_UTF8}"
    return "it has control characters, or is not UTF-8" if printable(name) != name else ""


def printable(text: str) -> str:
    """``text`` for a message of one line: line breaks and the like are escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNNAMEABLE else character
        for character in text
    )
