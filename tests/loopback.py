"""A server on loopback that answers a retriever's requests with whatever a test says, right or wrong."""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any

from qr_jax.search import http_app


class Last(bytes):
    """An answer after which the connection is closed without a word."""


Reply = Callable[[str, dict], bytes]  # (head, body) -> the raw answer; EOFError: none, and the connection is closed


def raw(body: object, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP response of these bytes, or of this as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(data)}", "", ""]).encode() + data


@contextmanager
def running(app: Any, within_s: float = 10):
    """Run one of our servers (search/http_app.py) in a thread of its own; yield it and its URL."""
    listening, url = http_app.listen("127.0.0.1", 0)
    thread = threading.Thread(target=app.server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield app, url
    finally:
        app.server.should_exit = True
        thread.join(within_s)
        assert not thread.is_alive()


@contextmanager
def server(*replies: Reply | bytes, tls: ssl.SSLContext | None = None, port: int = 0):
    """A server that gives these answers in turn, the last one for ever; yields its URL and what it was asked."""
    listening = socket.create_server(("127.0.0.1", port))
    asked: list[tuple[str, dict]] = []

    def converse(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as sent:
            while head := "".join(iter(lambda: sent.readline().decode("latin-1").rstrip("\r\n") + "\n", "\n")):
                _, has_body, rest = head.lower().partition("content-length:")
                asked.append((head, json.loads(sent.read(int(rest.split()[0]))) if has_body else {}))
                reply = replies[min(len(asked), len(replies)) - 1]
                answer = reply if isinstance(reply, bytes) else reply(head, asked[-1][1])
                connection.sendall(answer)
                if isinstance(answer, Last):
                    return

    def one(connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            converse(connection if tls is None else tls.wrap_socket(connection, server_side=True))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        listening.close()
