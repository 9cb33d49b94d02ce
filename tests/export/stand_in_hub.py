"""A stand-in for the Hugging Face hub, as far as an upload needs one."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class StandInHub:
    """What came in.

    Attributes:
        address: Where it listens.
        repositories: Answers to creation: name to its request.
        files: Committed files by path.
        tokens: All authorization headers.
        asked: Paths of all questions.
        refuses: Answer everything with 403.
        is_private: Whether repositories are.
    """

    address: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    refuses: bool = False
    is_private: bool = True
    blobs: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            hub.tokens.add(self.headers.get("authorization"))
            hub.asked.add(self.path)
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def _say(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = self._body()
            if hub.refuses:
                self._say({"error": "no right to write"}, 403)
            elif self.path == "/api/repos/create":
                request = json.loads(body)
                name = f"{request.get('organization')}/{request['name']}"
                hub.repositories[name] = request
                self._say({"url": f"{hub.address}/{name}"})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                answers = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for f in files
                ]
                self._say({"files": answers})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.address}/blob/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                self._say({"transfer": "basic", "objects": objects})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.blobs[value["oid"]]
                    elif line["key"] == "deletedFile":
                        del hub.files[value["path"]]
                url = f"{hub.address}/org/name/commit/{'0' * 40}"
                self._say({"commitUrl": url, "commitOid": "0" * 40, "success": True})
            else:
                self._say({})

        def do_PUT(self) -> None:
            hub.blobs[self.path.rpartition("/")[2]] = self._body()
            self._say({})

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self._body()
            if "/tree/" in self.path:
                self._say(
                    [
                        {"type": "file", "path": n, "size": len(c), "oid": "0" * 40}
                        for n, c in hub.files.items()
                    ]
                )
                return
            if "/resolve/" not in self.path:
                siblings = [{"rfilename": name} for name in hub.files]
                self._say(
                    {
                        "sha": "0" * 40,
                        "siblings": siblings,
                        "id": "org/name",
                        "private": hub.is_private,
                    }
                )
                return
            content = hub.files.get(self.path.split("/resolve/")[1].partition("/")[2])
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask_hub(address: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Lets this process take a server for the hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
