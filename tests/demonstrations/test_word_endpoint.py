"""What is asked of an OpenAI-compatible server, and what happens when it fails."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, asked_sentence, chat_server, fail, say

from embedllm.config import EndpointConfig, PromptConfig
from embedllm.demonstrations.endpoint import EndpointProposer
from embedllm.demonstrations.word_proposals import propose_words
from embedllm.demonstrations.words import Answer
from embedllm.errors import ConfigError, ModelError
from embedllm.prompts.template import Prompt, build_prompt

TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
KEY = "sk-test-0123456789"
SENTENCES = [f"Sentence number {i} of many." for i in range(8)]

Answering = Callable[[dict[str, Any]], Reply]
Serve = Callable[[Answering], ChatServer]


@pytest.fixture
def prompt() -> Prompt:
    return build_prompt(PromptConfig(template=TEMPLATE))


@pytest.fixture
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(chat_server(answer))


def _endpoint(base_url: str, **options: Any) -> EndpointConfig:
    values = {"model": "small", "retry_seconds": 0.01, "max_retries": 2, **options}
    return EndpointConfig(base_url=base_url, **values)


def _ask(config: EndpointConfig, prompt: Prompt, *sentences: str) -> list[Answer]:
    with EndpointProposer(config, prompt) as proposer:
        return proposer.ask(sentences)


def _fails(config: EndpointConfig, prompt: Prompt) -> str:
    with pytest.raises(ModelError) as caught:
        _ask(config, prompt, "A dog.")
    message = str(caught.value)
    assert KEY not in message
    assert message.startswith(f"endpoint.base_url: {config.base_url}/chat/completions ")
    return message


@pytest.mark.usefixtures("_key")
def test_what_is_asked(serve: Serve, prompt: Prompt) -> None:
    server = serve(lambda request: say("Dog", finish_reason="length"))
    config = _endpoint(f"{server.base_url}/", options={"temperature": 0, "max_tokens": 16})
    assert _ask(config, prompt, "A dog", "Cat!") == [Answer("Dog", is_cut=True)] * 2
    assert server.requests[0] == {
        "model": "small",
        "messages": [{"role": "user", "content": 'This sentence : "A dog." means in one word:"'}],
        "temperature": 0,
        "max_tokens": 16,
        "path": "/v1/chat/completions",
        "authorization": f"Bearer {KEY}",
    }
    assert server.sentences == ["A dog.", "Cat!."]


def test_a_server_that_wants_no_key(
    serve: Serve, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    server = serve(lambda request: say(None))
    assert _ask(_endpoint(server.base_url), prompt, "A dog.") == [Answer("", is_cut=False)]
    assert server.requests[0]["authorization"] is None
    _ask(_endpoint(server.base_url, api_key_variable="MY_KEY"), prompt, "A dog.")
    assert server.requests[1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["sk-1\nsk-2", "schl\u00fcssel"])
def test_a_key_that_no_request_can_carry(
    key: str, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        EndpointProposer(_endpoint("http://localhost:1/v1"), prompt)
    assert key not in str(caught.value)


@pytest.mark.usefixtures("_key")
@pytest.mark.parametrize(
    "trouble",
    [
        fail(429, "slow down"),
        fail(500),
        fail(503, "loading"),
        Reply(hang_up=True),
        Reply(502, "<html>"),
    ],
    ids=["429", "500", "503", "hang-up", "502"],
)
def test_passing_trouble_is_waited_out(
    trouble: Reply, serve: Serve, prompt: Prompt, caplog: pytest.LogCaptureFixture
) -> None:
    replies = iter([trouble, trouble, say("Dog")])
    server = serve(lambda request: next(replies))
    assert _ask(_endpoint(server.base_url), prompt, "A dog.") == [Answer("Dog", is_cut=False)]
    assert len(server.requests) == 3
    assert "asking again in 0.0 s" in caplog.text


@pytest.mark.usefixtures("_key")
@pytest.mark.parametrize(
    ("reply", "parts", "num_requests"),
    [
        (fail(429, "no quota"), ["status 429, asked 3 times", "no quota", "max_retries"], 3),
        (fail(500), ["status 500, asked 3 times"], 3),
        (Reply(hang_up=True), ["asked 3 times", "endpoint.timeout_seconds"], 3),
        (
            fail(401, f"Incorrect key {KEY} given"),
            ["refuses the key (status 401)", "OPENAI_API_KEY", "Incorrect key *** given"],
            1,
        ),
        (fail(403), ["refuses the key (status 403)"], 1),
        (fail(404, "no model"), ["is not there, or has no model 'small'", "/v1", "no model"], 1),
        (fail(400, "max_tokens?"), ["refuses the request (status 400)", "endpoint.options"], 1),
        (Reply(301, "", {"location": "/v2"}), ["refuses the request (status 301)"], 1),
        (Reply(200, "<html>Welcome</html>"), ["did not answer as a chat", "Welcome"], 1),
        (Reply(200, "[]"), ["choices[0].message.content"], 1),
        (Reply(200, '{"choices": []}'), ["choices[0].message.content"], 1),
        (Reply(200, '{"choices": [{"text": "Dog"}]}'), ["choices[0].message.content"], 1),
        (Reply(200, '{"choices": [{"message": {"content": 5}}]}'), ["choices[0].message"], 1),
        (Reply(200, '{"choices": [{"message": "Dog"}]}'), ["choices[0].message.content"], 1),
    ],
)
def test_lasting_trouble_is_explained(
    reply: Reply, parts: list[str], num_requests: int, serve: Serve, prompt: Prompt
) -> None:
    server = serve(lambda request: reply)
    message = _fails(_endpoint(server.base_url), prompt)
    assert all(part in message for part in parts), message
    assert len(server.requests) == num_requests


@pytest.mark.usefixtures("_key")
def test_a_long_answer_that_ends_in_the_middle_of_the_key(serve: Serve, prompt: Prompt) -> None:
    server = serve(lambda request: Reply(400, "x" * 295 + KEY))
    assert KEY[:4] not in _fails(_endpoint(server.base_url), prompt)


def test_a_server_that_is_not_there(prompt: Prompt) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        start = time.monotonic()
        message = _fails(_endpoint(base_url, retry_seconds=100.0), prompt)
    assert "could not be reached" in message
    assert time.monotonic() - start < 10


def test_a_server_that_is_too_slow(serve: Serve, prompt: Prompt) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        time.sleep(0.3)
        return say("Dog")

    server = serve(answer)
    config = _endpoint(server.base_url, timeout_seconds=0.05, max_retries=1)
    assert "gave no answer within 0.05 s, asked 2 times" in _fails(config, prompt)
    assert len(server.requests) == 2


def test_waits_double_unless_the_server_names_its_own(
    serve: Serve, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    replies = iter(
        [
            fail(503),
            fail(503),
            fail(429, retry_after="7"),
            fail(429, retry_after=in_a_minute),
            fail(429, retry_after="soon"),
            fail(429, retry_after="86400"),
            say("Dog"),
        ]
    )
    server = serve(lambda request: next(replies))
    _ask(_endpoint(server.base_url, retry_seconds=1.0, max_retries=6), prompt, "A dog.")
    assert waits[:3] == [1.0, 2.0, 7.0]
    assert 50 < waits[3] <= 60
    assert waits[4:] == [16.0, 120.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, r"endpoint\.base_url='localhost:8000' is no address"),
        ({"base_url": "http://[v1"}, r"is no address"),
        ({"base_url": "http://me:secret@host/v1"}, r"must hold no user name or password"),
        ({"model": None}, r"endpoint\.model must name a model"),
        ({"timeout_seconds": 0}, r"endpoint\.timeout_seconds=0"),
        ({"max_retries": -1}, r"endpoint\.max_retries=-1"),
        ({"retry_seconds": -1}, r"endpoint\.retry_seconds=-1"),
    ],
)
def test_the_endpoints_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        EndpointConfig(**{"base_url": "http://localhost/v1", "model": "m", **options})
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("_key")
def test_the_key_is_written_nowhere(
    serve: Serve, prompt: Prompt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = iter([fail(429, f"{KEY} is slow"), *(say("Dog") for _ in SENTENCES)])
    server = serve(lambda request: next(replies))
    with EndpointProposer(_endpoint(server.base_url), prompt) as proposer:
        propose_words(iter(SENTENCES), proposer, tmp_path, number=8, source="Here")
        assert KEY not in repr(proposer.identity)
    assert len(server.requests) == 9
    assert asked_sentence(server.requests[0]) == SENTENCES[0]
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("Dog" in text for text in written)
    assert not any(KEY in text for text in [*written, caplog.text])
