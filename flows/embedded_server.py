"""Prefect's temporary server: listens on the socket whose number is its argument, ends with its standard input."""

import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from flows.embedded import collect_garbage_seldom

SHUTDOWN_S = 5
"""How long an answer may take when the server ends."""


def _end_with_standard_input() -> None:
    """It ends with the process that started this one, however that ends."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def collect_garbage_apart() -> None:
    """Look for garbage seldom, and in a thread of its own alone.

    A cursor among it waits for its SQLite connection. If that waits for another connection's transaction, which the
    event loop is to end, and the loop's thread has found the cursor, the server stands still for a minute: as long as
    SQLite waits.
    """
    collect_garbage_seldom()
    gc.disable()

    def collect() -> None:
        while True:
            if gc.get_count()[0] > gc.get_threshold()[0]:
                gc.collect()
            time.sleep(0.5)

    threading.Thread(target=collect, daemon=True, name="garbage").start()


def lock_when_transactions_begin() -> None:
    """Let each transaction of the server take SQLite's lock of writing at its beginning, and wait for it there.

    Prefect has most of them take it when they write first. SQLite refuses that at once where another connection has
    written since they began; the server answers 503 then, and clients come again after 2, 4, 8, 16, ... s.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_with_lock(self: AioSqliteConfiguration, session: Any, with_for_update: bool = False) -> Any:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_with_lock  # type: ignore[method-assign]


def main() -> None:
    """Serve until standard input ends."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    collect_garbage_apart()
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()  # creating it looks for garbage, of which there is none in what was imported
    lock_when_transactions_begin()
    app = create_app(ephemeral=True, final=True)
    options = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=SHUTDOWN_S)
    uvicorn.Server(options).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
