"""Errors that a user can cause and mend.

Each message says what was found, what is allowed and which config key changes it. The entry
points print the message alone and leave with `exit_code`; every other exception is a bug and
keeps its traceback.
"""

from __future__ import annotations

from typing import Final

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: what shells give a program that SIGINT ended."""

EXIT_CODES: Final = {
    0: "done",
    1: "a bug, with its traceback",
    2: "something to mend: one message says what, and nothing was begun or what was done is kept",
    3: "another process of the run was lost",
    4: "a loss, a gradient or a weight is NaN or infinite (trainer.on_nan)",
    75: "stopped by SIGTERM or SIGUSR1; the same command goes on",
    INTERRUPTED: "Ctrl-C; the same command goes on",
}
"""What every command leaves with. Scripts rely on it: a number keeps its meaning."""


class EmbedllmError(ValueError):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code: int = 2
    is_said: bool = False
    """Whether rank 0 says it too, so that the others need not."""


class ConfigError(EmbedllmError):
    """The configuration has an unknown key, a wrong type or an impossible combination."""

    # All ranks read the same configuration; what only one finds is told apart in `joined`.
    is_said = True


class DataError(EmbedllmError):
    """A training or evaluation file is missing, malformed, truncated or not the expected one."""


class ModelError(EmbedllmError):
    """A model or tokenizer cannot be found, reached or used as a causal language model."""


class AdapterError(EmbedllmError):
    """An adapter folder is damaged, belongs to another base model or did not load as saved."""


class CheckpointError(EmbedllmError):
    """A run folder cannot be resumed: damaged, in use, or made with another configuration."""


class ResultError(EmbedllmError):
    """A result does not fit the schema, or the results store cannot be read or written."""


class NonFiniteError(EmbedllmError):
    """Training came to a loss, a gradient or a weight that is NaN or infinite.

    All ranks raise it together, and rank 0 says it.
    """

    exit_code = 4
    is_said = True


class PeerError(EmbedllmError):
    """Another process of the same run ended, failed or does not answer.

    Args:
        message: What happened.
        exit_code: That of the other process, when it says itself what went wrong; None when it
            says nothing.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.is_said = exit_code is not None
        self.exit_code = 3 if exit_code is None else exit_code


class PreemptedError(BaseException):
    """This process was asked to stop and does so in order. No `except Exception` swallows it.

    Args:
        message: By which signal, and where the run stands.
        is_agreed: All processes of the run stop here together; else each does where it is.
    """

    # "Try again later" in sysexits.h.
    exit_code = 75

    def __init__(self, message: str, *, is_agreed: bool = False) -> None:
        super().__init__(message)
        self.is_agreed = is_agreed
        self.may_requeue = True


def earlier_error(error: BaseException) -> EmbedllmError | None:
    """Returns the error for people during whose handling this one came up."""
    earlier = error.__context__
    while earlier is not None and not isinstance(earlier, EmbedllmError):
        earlier = earlier.__context__
    return earlier
