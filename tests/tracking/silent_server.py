"""A server that lets a W&B run begin and then accepts everything and answers nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ENTITY = {"id": "e", "name": "entity"}
_ANSWERS = {
    "UpsertBucket": {
        "upsertBucket": {
            "bucket": {
                "id": "b",
                "name": "run",
                "displayName": "run",
                "config": "{}",
                "historyLineCount": 0,
                "project": {"id": "p", "name": "project", "entity": _ENTITY},
            },
            "inserted": True,
        }
    },
    "RunResumeStatus": {"model": {"id": "p", "name": "p", "entity": _ENTITY, "bucket": None}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": {"entity": None},
}


class SilentServer(ThreadingHTTPServer):
    """Answers until a run has begun, if at all; then holds every request open."""

    daemon_threads = True

    def __init__(self, *, lets_runs_begin: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_silent = threading.Event()
        self.closed = threading.Event()
        self.bodies: list[str] = []
        if not lets_runs_begin:
            self.is_silent.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: SilentServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(
            "utf-8", "replace"
        )
        self.server.bodies.append(body)
        answer = next((a for name, a in _ANSWERS.items() if name in body), None)
        # An upload may begin before the silence, and an odd answer would end W&B's core.
        if answer is None or self.server.is_silent.is_set():
            self.server.closed.wait()
            return
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def silent_server(*, lets_runs_begin: bool) -> Iterator[SilentServer]:
    """Yields the server, which ends with the block."""
    server = SilentServer(lets_runs_begin=lets_runs_begin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
