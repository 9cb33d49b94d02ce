"""A real HTTP server that plays an OpenAI-compatible endpoint, mistakes included."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SENTENCE = re.compile(r'This sentence : "([^"]*)" means in one word:"$')


@dataclass(frozen=True)
class Reply:
    """What the server sends for one request; `hang_up` closes the connection instead."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


@dataclass
class ChatServer:
    """The server's address and what it was asked.

    `answer` turns a request's body into the reply; `requests` are the bodies with the header
    `authorization` and the path added.
    """

    base_url: str
    answer: Callable[[dict[str, Any]], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """The sentences it was asked about, in order."""
        return [asked_sentence(request) for request in self.requests]


def asked_sentence(request: Mapping[str, Any]) -> str:
    """Returns the sentence in the last prompt of a request."""
    found = SENTENCE.search(request["messages"][0]["content"])
    assert found is not None
    return found.group(1)


def say(text: str | None, *, finish_reason: str = "stop") -> Reply:
    """Returns a well-formed answer."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Reply(body=json.dumps({"choices": [choice]}))


def fail(status: int, message: str = "", **headers: str) -> Reply:
    """Returns an error in the interface's format."""
    return Reply(status, json.dumps({"error": {"message": message}}), headers)


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[ChatServer]:
    """Yields a server on a free port of this machine."""
    server = ChatServer("", answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body |= {"path": self.path, "authorization": self.headers["authorization"]}
            server.requests.append(body)
            reply = server.answer(body)
            if reply.hang_up:
                self.close_connection = True
                return
            content = reply.body.encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Stays silent."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
