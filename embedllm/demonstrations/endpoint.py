"""Words from a server with an OpenAI-compatible interface."""

from __future__ import annotations

import contextlib
import email.utils
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

import httpx
import tenacity

from embedllm.config import EndpointConfig
from embedllm.demonstrations.words import Answer
from embedllm.errors import ConfigError, ModelError
from embedllm.log import get_logger
from embedllm.prompts.template import Prompt

_log = get_logger(__name__)

# A server that asks for more patience than this is better asked again another day.
_MAX_WAIT_SECONDS: Final = 120.0
_MAX_SHOWN_CHARACTERS: Final = 300


class EndpointProposer:
    """Asks a server for words, one sentence per request; a context manager.

    The request is a chat with one message, the finished prompt. Nothing is sent before the first
    sentence is asked.

    Args:
        config: The server; `base_url` and `model` are set.
        prompt: What the sentence is put into.

    Raises:
        ConfigError: The key in the environment is not one that a request can carry.
    """

    batch_size = 1

    def __init__(self, config: EndpointConfig, prompt: Prompt) -> None:
        if config.base_url is None or config.model is None:
            raise ValueError("an endpoint needs base_url and model")
        self.name = config.model
        self._config = config
        self._prompt = prompt
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._key = _read_key(config.api_key_variable)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(headers=headers, timeout=config.timeout_seconds)

    def __enter__(self) -> EndpointProposer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers besides the sentence: saved ones of others are not used."""
        config = self._config
        return {
            "base_url": config.base_url,
            "model": config.model,
            "options": config.options,
            "prompt": [*self._prompt.literals, self._prompt.clean_up],
        }

    def ask(self, sentences: Sequence[str]) -> list[Answer]:
        """Returns the answer to each sentence.

        Raises:
            ModelError: The server cannot be reached, refuses, or answers in another format.
        """
        return [self._ask(self._prompt.render(sentence)) for sentence in sentences]

    def _ask(self, prompt: str) -> Answer:
        body = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": prompt}],
            **self._config.options,
        }
        config = self._config
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(config.max_retries + 1),
            retry=tenacity.retry_if_exception_type(_NotNowError),
            wait=_Wait(config.retry_seconds),
            before_sleep=self._say_that_it_waits,
        )
        try:
            return attempts(self._ask_once, body)
        except tenacity.RetryError as error:
            reason = error.last_attempt.exception()
            asked = f"asked {error.last_attempt.attempt_number} times"
            if not isinstance(reason, _NotNowError) or reason.response is None:
                raise self._error(
                    f"gave no answer within {config.timeout_seconds:g} s, {asked} ({reason}); "
                    "see endpoint.timeout_seconds"
                ) from reason
            raise self._error(
                f"answered with {reason}, {asked}; try later, the same command goes on from here "
                "(see endpoint.max_retries and endpoint.retry_seconds)"
                f"{self._quote(reason.response)}"
            ) from reason

    def _ask_once(self, body: dict[str, Any]) -> Answer:
        try:
            response = self._client.post(self._url, json=body)
        except (httpx.ConnectError, httpx.ProxyError, httpx.InvalidURL) as error:
            raise self._error(f"could not be reached ({error})") from error
        except httpx.TransportError as error:
            raise _NotNowError(f"{type(error).__name__} {error}".strip()) from error
        status = response.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _NotNowError(f"status {status}", response)
        return self._read(response)

    def _say_that_it_waits(self, attempt: tenacity.RetryCallState) -> None:
        reason = attempt.outcome.exception() if attempt.outcome else None
        seconds = attempt.upcoming_sleep
        _log.warning("%s: %s; asking again in %.1f s", self._url, reason, seconds)

    def _read(self, response: httpx.Response) -> Answer:
        status = response.status_code
        if status != HTTPStatus.OK:
            explanation = _explain(status, self._config)
            raise self._error(f"{explanation}{self._quote(response)}")
        try:
            choice = response.json()["choices"][0]
            text = choice["message"]["content"]
            reason = choice.get("finish_reason")
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._error(
                "did not answer as a chat completion does (choices[0].message.content); "
                f"base_url usually ends in /v1{self._quote(response)}"
            ) from error
        # A refusal has no content: an answer all the same, though an unusable one.
        return Answer(text or "", is_cut=reason == "length")

    def _quote(self, response: httpx.Response) -> str:
        """Returns what the server said, on a line of its own, without the key."""
        text = response.text
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = response.json()["error"]["message"]
        text = " ".join(str(text).split())
        if self._key:
            # Before it is shortened: half a key would not be found any more.
            text = text.replace(self._key, "***")
        if len(text) > _MAX_SHOWN_CHARACTERS:
            text = f"{text[:_MAX_SHOWN_CHARACTERS]}..."
        return f"\nThe server says: {text}" if text else ""

    def _error(self, found: str) -> ModelError:
        return ModelError(f"endpoint.base_url: {self._url} {found}")


class _NotNowError(Exception):
    """Another attempt may succeed: what the server answered, if it did."""

    def __init__(self, reason: str, response: httpx.Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


class _Wait(tenacity.wait.wait_base):
    """What the server asks for; else a time that doubles with each attempt."""

    def __init__(self, seconds: float) -> None:
        self._doubling = tenacity.wait_exponential(multiplier=seconds)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        response = error.response if isinstance(error, _NotNowError) else None
        requested = _requested_wait(response) if response is not None else None
        return min(requested or self._doubling(retry_state), _MAX_WAIT_SECONDS)


def _read_key(variable: str) -> str:
    """Returns the key without surrounding white space, "" when there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        # httpx would show the key in its own message.
        raise ConfigError(
            f"the key in the environment variable {variable} (endpoint.api_key_variable) has "
            "characters that no key has"
        )
    return key


def _requested_wait(response: httpx.Response) -> float | None:
    """Returns the seconds of the header Retry-After, a number or a date; None without one."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _explain(status: int, config: EndpointConfig) -> str:
    """Says what a status other than 200 means and which key changes it."""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"refuses the key (status {status}); set the environment variable "
            f"{config.api_key_variable}, or endpoint.api_key_variable to the name of another"
        )
    if status == HTTPStatus.NOT_FOUND:
        return (
            f"is not there, or has no model {config.model!r} (status 404); base_url usually ends "
            "in /v1, endpoint.model is a name of the server"
        )
    return f"refuses the request (status {status}); see endpoint.model and endpoint.options"
