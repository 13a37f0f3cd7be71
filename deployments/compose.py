"""The services of docker-compose.yml, read to run them without containers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).resolve().parent
COMPOSE_FILE = next(
    folder / "docker-compose.yml" for folder in (_HERE, _HERE.parent) if (folder / "docker-compose.yml").exists()
)
"""In a wheel beside this module, in a checkout at its top."""
IS_INSTALLED = COMPOSE_FILE.parent == _HERE
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")


def read_compose(path: Path = COMPOSE_FILE) -> dict[str, Any]:
    """The whole file, anchors and merges resolved, variables not."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of its ``${VARIABLE}``s; KeyError for one without value and default."""

    def value(found: "re.Match[str]") -> str:
        name, default = found.groups()
        if not variables.get(name) and default is None:
            raise KeyError(name)
        return variables.get(name) or default

    return _VARIABLE.sub(value, text)
