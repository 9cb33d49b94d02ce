"""Serving the page: a port taken before anything is loaded, limits on what is sent, a clean end."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from embedllm.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Form boundaries and headers around an uploaded file.
_MULTIPART_BYTES: Final = 10_000


def open_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound, so that a port that is taken is found before work starts.

    Raises:
        ConfigError: The port is taken, may not be used, or the host is no address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except socket.gaierror as error:
        raise ConfigError(
            f"host={host!r} is no address of this machine: {error.strerror}; use 127.0.0.1"
        ) from error
    try:
        bound.bind((host, port))
        # Until somebody listens, another program could still take it.
        bound.listen()
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"host={host} port={port} cannot be listened on: {error.strerror}; set port to another "
            "one, or port=0 for any that is free"
        ) from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(
    page: Callable[[], None], bound: socket.socket, *, max_upload_bytes: int, title: str
) -> None:
    """Serves a page until Ctrl-C or a signal ends it.

    Args:
        page: Builds the page for each visitor.
        bound: Where to listen.
        max_upload_bytes: Size of an uploaded file; longer requests are refused while they come.
        title: Of the page.
    """
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui

    app = FastAPI(openapi_url=None)
    refuse_other_names(app, bound.getsockname()[0])
    app.add_middleware(RequestLimit, max_bytes=max_upload_bytes + _MULTIPART_BYTES)
    ui.run_with(app, root=page, title=title, dark=None, show_welcome_message=False)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[bound])


def refuse_other_names(app: Starlette, host: str) -> None:
    """Lets an app on a loopback address answer only who asks for this machine.

    So a page elsewhere cannot come in under a name of its own that leads here.

    Args:
        app: What answers.
        host: The address that it listens on; on others every name is taken.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    if is_loopback(host):
        own = f"[{host}]" if ":" in host else host
        names = ["localhost", "127.0.0.1", "[::1]", own]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)


class RequestLimit:
    """Refuses requests of too many bytes with 413, before they are read as far as that.

    Args:
        app: What answers the others.
        max_bytes: Most bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        text = f"more than {self._max_bytes} bytes are not taken (max_upload_bytes)\n"
        refuse = PlainTextResponse(text, status_code=413)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await refuse(scope, receive, send)
            return
        num_bytes = 0

        async def count() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise _TooLong
            return message

        async def answer(message: Message) -> None:
            # What the app makes of being interrupted is no answer.
            if num_bytes <= self._max_bytes:
                await send(message)

        try:
            await self._app(scope, count, answer)
        except Exception:
            if num_bytes <= self._max_bytes:
                raise
        if num_bytes > self._max_bytes:
            await refuse(scope, receive, send)


class _TooLong(Exception):  # noqa: N818 (no error: it ends the reading)
    """More came than is taken."""
