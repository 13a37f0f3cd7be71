"""A reverse proxy in front of a real S3 endpoint that puts faults in, and counts the requests."""

import http.client
import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

PIECE_BYTES = 2**16
_NOT_FORWARDED = {"connection", "transfer-encoding", "server", "date"}


@dataclass
class Answer:
    """What the endpoint answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One connection; a fault gets it, and does with it what it likes."""

    protocol_version = "HTTP/1.1"
    server: "FaultyS3"

    def handle_any(self) -> None:
        fault = self.server.choose(self.operation, self.path) or pass_on
        if fault is not silence:
            if self.headers.get("Expect", "").lower() == "100-continue":
                super().handle_expect_100()
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault(self)

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = handle_any

    def handle_expect_100(self) -> bool:
        """Decided later: a silent server does not even say that the body may come."""
        return True

    @property
    def operation(self) -> str:
        """GET, PUT, HEAD, DELETE of an object, or what is done in a request for something else."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "list-type" in query:
            return "list"
        if "uploads" in query:
            return "create" if self.command == "POST" else "uploads"
        if "uploadId" in query:
            return {"PUT": "part", "POST": "complete", "DELETE": "abort"}.get(self.command, self.command)
        return self.command

    def ask(self, path: str | None = None) -> Answer:
        """Send the request to the endpoint."""
        connection = http.client.HTTPConnection(self.server.endpoint, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect",)}
            connection.request(self.command, path or self.path, self.body, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _NOT_FORWARDED]
            return Answer(answer.status, kept, answer.read())
        finally:
            connection.close()

    def tell(self, answer: Answer, length: int | None = None) -> None:
        """Send an answer's head; its length is the true one if none is given."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        whole = dict(answer.headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(answer.body))
        self.send_header("Content-Length", whole if length is None else str(length))
        self.end_headers()
        self.wfile.flush()

    def write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def hang_up(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile = self.wfile = _Nothing()  # type: ignore[assignment]

    def wait_until_left(self) -> None:
        """Say nothing until the client goes."""
        self.close_connection = True
        while not self.server.is_closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Nothing:
    closed = True

    def close(self) -> None: ...
    def flush(self) -> None: ...
    def readline(self, limit: int) -> bytes:
        return b""


Fault = Callable[[Exchange], None]


def pass_on(exchange: Exchange) -> None:
    """No fault."""
    answer = exchange.ask()
    exchange.tell(answer)
    exchange.write(answer.body)


def refused(status: int, code: str, message: str = "as the test wants it") -> Fault:
    """An error in S3's own words."""

    def fault(exchange: Exchange) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        answer = Answer(status, [("Content-Type", "application/xml")], b"" if exchange.command == "HEAD" else body)
        exchange.tell(answer)
        exchange.write(answer.body)

    return fault


def reset(exchange: Exchange) -> None:
    """The connection ends before anything was done."""
    exchange.hang_up()


def answer_lost(exchange: Exchange) -> None:
    """The request is carried out, but its answer does not come."""
    exchange.ask()
    exchange.hang_up()


def silence(exchange: Exchange) -> None:
    """Nothing comes until the client loses patience."""
    exchange.wait_until_left()


def cut_off(exchange: Exchange) -> None:
    """The connection ends in the middle of the body."""
    answer = exchange.ask()
    exchange.tell(answer)
    exchange.write(answer.body[: len(answer.body) // 2])
    exchange.hang_up()


def short(exchange: Exchange) -> None:
    """The body ends early, and the head says that this is all of it."""
    answer = exchange.ask()
    exchange.tell(answer, len(answer.body) // 2)
    exchange.write(answer.body[: len(answer.body) // 2])


def stalled(exchange: Exchange) -> None:
    """Half of the body comes, then nothing."""
    answer = exchange.ask()
    exchange.tell(answer)
    exchange.write(answer.body[: len(answer.body) // 2])
    exchange.wait_until_left()


def slow(exchange: Exchange) -> None:
    """The body comes in pieces."""
    answer = exchange.ask()
    exchange.tell(answer)
    piece = max(1, len(answer.body) // 5)
    for start in range(0, len(answer.body), piece):
        exchange.write(answer.body[start : start + piece])
        time.sleep(0.02)


def other_bytes(exchange: Exchange) -> None:
    """A body of the right length with a wrong byte."""
    answer = exchange.ask()
    if answer.body:
        middle = len(answer.body) // 2
        answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 255]) + answer.body[middle + 1 :]
    exchange.tell(answer)
    exchange.write(answer.body)


def other_bytes_without_checksum(exchange: Exchange) -> None:
    """The same from a storage that keeps no checksums but the ETag."""
    tell = exchange.tell

    def tell_less(answer: Answer, length: int | None = None) -> None:
        kept = [(name, value) for name, value in answer.headers if not name.lower().startswith("x-amz-checksum")]
        tell(Answer(answer.status, kept, answer.body), length)

    exchange.tell = tell_less  # type: ignore[method-assign]
    other_bytes(exchange)
    exchange.tell = tell  # type: ignore[method-assign]


def small_pages(exchange: Exchange) -> None:
    """A listing of at most two files a page."""
    parts = urlsplit(exchange.path)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    answer = exchange.ask(f"{parts.path}?{urlencode(query | {'max-keys': '2'})}")
    exchange.tell(answer)
    exchange.write(answer.body)


def edited(change: Callable[[bytes], bytes]) -> Fault:
    """Another body."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.ask()
        answer.body = change(answer.body)
        exchange.tell(answer)
        exchange.write(answer.body)

    return fault


def after(action: Callable[[], None]) -> Fault:
    """Something happens just before the request is carried out."""

    def fault(exchange: Exchange) -> None:
        action()
        pass_on(exchange)

    return fault


@dataclass
class Rule:
    """Which requests get a fault.

    Attributes:
        fault: what they get.
        operations: as `Exchange.operation` tells them; none: all.
        path: what the request's path holds, as a regular expression.
        times: how often; none: for ever.
        spared: so many requests before are let through.
        chance: the probability of the fault.
        seed: of the generator that decides.
    """

    fault: Fault
    operations: tuple[str, ...] = ()
    path: str = ""
    times: int | None = None
    spared: int = 0
    chance: float = 1.0
    seed: int = 0

    def takes(self, operation: str, path: str, number: int) -> bool:
        if (self.operations and operation not in self.operations) or not re.search(self.path, path):
            return False
        if self.spared:
            self.spared -= 1
            return False
        if self.times == 0 or random.Random(f"{self.seed} {operation} {path} {number}").random() >= self.chance:
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclass
class Requests:
    """The requests that came, by operation and path."""

    counted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, *operations: str, path: str = "") -> int:
        """How many came."""
        return sum(
            number
            for (operation, found), number in self.counted.items()
            if (not operations or operation in operations) and re.search(path, found)
        )


class FaultyS3(ThreadingHTTPServer):
    """The proxy; `rules` may be changed at any time, the first that takes a request decides."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.endpoint = endpoint.removeprefix("http://")
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.rules: list[Rule] = []
        self.requests = Requests()
        self.faults = 0
        self.is_closing = threading.Event()
        self._lock = threading.Lock()

    def choose(self, operation: str, path: str) -> Fault | None:
        """Count a request, and the fault that it gets, if any."""
        below_bucket = re.sub(r"^/[^/?]+", "", path)
        below_bucket = re.sub(r"(uploadId|continuation-token)=[^&]*", r"\1", below_bucket)
        with self._lock:
            self.requests.counted[operation, below_bucket] += 1
            number = self.requests.counted[operation, below_bucket]
            for rule in self.rules:
                if rule.takes(operation, below_bucket, number):
                    self.faults += 1
                    return rule.fault
        return None

    def calm(self) -> None:
        """No more faults, and count anew."""
        with self._lock:
            self.rules.clear()
            self.requests = Requests()
            self.faults = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go in the middle of an answer are no error."""


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[FaultyS3]:
    """A running proxy."""
    proxy = FaultyS3(endpoint)
    running = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    running.start()
    try:
        yield proxy
    finally:
        proxy.is_closing.set()
        proxy.shutdown()
        proxy.server_close()
        running.join()
