"""Limits of the demo's page: what its keys allow, and who waits for the model."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from embedllm.config import DemoConfig
from embedllm.demo.inputs import read_upload
from embedllm.demo.server import refuse_other_names
from embedllm.demo.worker import BusyError, Worker
from embedllm.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"port": -1}, "port=-1"),
        ({"port": 70_000}, "port=70000"),
        ({"host": ""}, "host is empty"),
        ({"max_compared": 1}, "max_compared=1"),
        ({"max_upload_bytes": 0}, "max_upload_bytes=0"),
        ({"max_characters": 1_000_000}, "max_characters=1000000"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        DemoConfig(**values)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.pdf", b"x", "is none of .txt, .csv, .tsv"),
        ("a.txt", b"x" * 11, "larger than 10 bytes"),
        ("a.csv", b"a,b\n", "has no rows"),
        ("a.csv", b'a\n"b', "cannot be read as a table"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, content: bytes, part: str) -> None:
    with pytest.raises(DataError, match=part):
        read_upload(name, content, DemoConfig(max_upload_bytes=10))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_loopback_address_answers_to_its_own_name_alone(host: str) -> None:
    app = Starlette()
    refuse_other_names(app, host)
    client = TestClient(app)
    own = f"[{host}]" if ":" in host else host
    found = {
        name: client.get("/", headers={"host": f"{name}:8080"}).status_code
        for name in (own, "localhost", "example.org", "127.0.0.3")
    }
    # There is no page in this app, but it was asked.
    assert found == {own: 404, "localhost": 404, "example.org": 400, "127.0.0.3": 400}


def test_the_model_does_one_thing_at_a_time_and_sends_others_away() -> None:
    gate, order = threading.Event(), []

    def first() -> None:
        gate.wait()
        order.append("first")

    async def visit() -> None:
        worker = Worker(max_waiting=2)
        running = asyncio.ensure_future(worker.run(first))
        second = asyncio.ensure_future(worker.run(lambda: order.append("second")))
        # Both have come in before the third asks.
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="max_waiting"):
            await worker.run(lambda: order.append("third"))
        gate.set()
        await asyncio.gather(running, second)
        await worker.run(lambda: order.append("fourth"))
        worker.close()

    asyncio.run(visit())
    assert order == ["first", "second", "fourth"]
