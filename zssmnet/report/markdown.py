"""Text in Markdown: what comes from data stands there as it is, and is neither markup nor a link.

Prefect's UI shows artifacts as Markdown, the cells of tables too, and Markdown lets HTML through.
"""

import re
from collections.abc import Iterable, Sequence

from zssmnet.storage.keys import printable

_MARKUP = re.compile(
    r"[\\`*{}\[\]<>#|&~!@^$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # at the edge of a word, where it emphasises
    r"|:(?=//)|(?<=www)\.",  # where an address would become a link
    re.IGNORECASE,
)


def text(value: str) -> str:
    """``value`` as text of one line: what could be markup is written as HTML's character references."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(value))


def code(value: str) -> str:
    """``value`` in the letters of code, as far as it can stand there."""
    return text(value) if "`" in value or "|" in value else f"`{printable(value)}`"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown already, see `text` and `code`."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))
