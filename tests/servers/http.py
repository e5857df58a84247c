"""An HTTP server on a free port of loopback, for tests that answer by a function."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, Self


class Answer(Protocol):
    """Says with which status a request is answered. Called in a thread of the connection."""

    def __call__(self, method: str, path: str, body: str) -> int: ...


class HttpServer:
    """Runs inside the block; `url` is where."""

    def __init__(self, answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self.send_response(answer(self.command, self.path, body))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_POST(self) -> None:
                self.do_GET()

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client was killed in the middle
                    super().handle()

            def log_message(self, *_: object) -> None:
                """Thousands of requests are no news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
