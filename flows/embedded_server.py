"""Prefect's temporary server: listens on the socket whose number is its argument, ends with its standard input."""

import gc
import os
import signal
import socket
import sys
import threading

from flows.embedded import collect_garbage_seldom

SHUTDOWN_S = 5
"""How long an answer may take when the server ends."""


def _end_with_standard_input() -> None:
    """It ends with the process that started this one, however that ends."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    collect_garbage_seldom()
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()  # creating it looks for garbage, of which there is none in what was imported
    app = create_app(ephemeral=True, final=True)
    options = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=SHUTDOWN_S)
    uvicorn.Server(options).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
