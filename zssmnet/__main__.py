"""The programs of this package: ``zssmnet``, ``zssmnet-deploy`` and ``zssmnet-service``.

They are started here since ``flows``, ``tasks`` and ``deployments`` are usual names in projects with Prefect: where
another project's lie on the module path, ours are put before them.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

HOME = Path(__file__).resolve().parents[1]


def main() -> NoReturn:
    """The command line."""
    _put_own_modules_first()
    from flows.cli import main

    main()


def deploy() -> int:
    """Entry point of ``zssmnet-deploy`` and ``make deploy``."""
    _put_own_modules_first()
    from deployments.setup import main

    return main()


def service() -> int:
    """Entry point of ``zssmnet-service`` and ``make service``."""
    _put_own_modules_first()
    from deployments.stack import main

    return main()


def _put_own_modules_first() -> None:
    for name in ("flows", "tasks", "deployments"):
        found = find_spec(name)
        if found is None or Path(found.origin or "").resolve().parent.parent != HOME:
            sys.path.insert(0, str(HOME))
            return


if __name__ == "__main__":
    main()
