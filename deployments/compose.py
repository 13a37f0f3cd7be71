"""The services of docker-compose.yml, read to run them without containers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Service:
    """One service of the stack: program and arguments, and its settings but for those taken over from the shell."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


def read_compose(path: Path = COMPOSE_FILE) -> dict[str, Any]:
    """The whole file, anchors and merges resolved, variables not."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def read_service(name: str, variables: Mapping[str, str]) -> Service:
    """The service ``name``; ``${VARIABLE}`` and ``${VARIABLE:-default}`` are replaced.

    Raises:
        KeyError: no such service, or a variable without value and default.
    """
    service = read_compose()["services"][name]
    environment = service.get("environment") or {}
    return Service(
        command=tuple(substitute(word, variables) for word in service["command"]),
        environment={key: substitute(value, variables) for key, value in environment.items() if value is not None},
    )


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of its variables; KeyError for one without value and default."""
    return _VARIABLE.sub(lambda found: variables.get(found[1]) or (found[2] or _required(found)), text)


def _required(found: "re.Match[str]") -> str:
    if found[2] is None:
        raise KeyError(found[1])
    return ""
