"""Logging: one logger per module under `embedllm`, rank in the record, rank 0 by default."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from embedllm.secrets import redact

if TYPE_CHECKING:
    from rich.console import Console

_DEEPSPEED: Final = "DeepSpeed"


def process_number() -> int:
    """Returns the rank that torchrun or srun gave this process, without loading torch."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


class _RankFilter(logging.Filter):
    """Adds the rank to records; below warning level only rank 0 passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.rank = rank = process_number()
        return rank == 0 or record.levelno >= logging.WARNING


def get_logger(name: str) -> logging.Logger:
    """Returns the logger `name` (pass `__name__`), filtered by rank."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, _RankFilter) for f in logger.filters):
        logger.addFilter(_RankFilter())
    return logger


@lru_cache(maxsize=1)
def error_console() -> Console:
    """Returns the one console on stderr that log lines and progress bars share."""
    from rich.console import Console

    return Console(stderr=True)


class _Redacting(logging.Handler):
    """Makes keys and passwords unreadable, whoever logs them, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _ConsoleHandler(_Redacting, logging.StreamHandler):  # type: ignore[type-arg]
    """Prints on stderr."""


class _BarFriendlyHandler(_ConsoleHandler):
    """Prints above live progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        error_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def build_console_handler() -> logging.Handler:
    """Returns the handler of the console: around progress bars on a terminal, else plain."""
    return _BarFriendlyHandler() if sys.stderr.isatty() else _ConsoleHandler()


class _FileHandler(_Redacting, logging.FileHandler):
    """A log file that may stop on a full disk without stopping, or shouting over, the run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_broken:
            self._is_broken = True
            sys.stderr.write(f"warning: the log file {self.baseFilename} ends here: {error}\n")

    _is_broken = False


def build_file_handler(filename: str) -> logging.Handler:
    """Returns the handler of the run's log file."""
    return _FileHandler(filename, encoding="utf-8")


def be_quiet() -> None:
    """Lets nothing below a warning onto the console from now on; log files stay as they are."""
    for handler in _console_handlers():
        handler.setLevel(logging.WARNING)


def is_quiet() -> bool:
    """Whether `be_quiet` was called; progress is for nobody then."""
    handlers = _console_handlers()
    return bool(handlers) and all(h.level >= logging.WARNING for h in handlers)


def _console_handlers() -> list[logging.Handler]:
    return [h for h in logging.getLogger().handlers if isinstance(h, _ConsoleHandler)]


def quiet_libraries() -> None:
    """Turns off library chatter that names nothing a user can act on."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    quiet_loggers()


def _off_stdout(record: logging.LogRecord) -> bool:
    """Sends what DeepSpeed logs to stderr, for stdout is for results, and leaves out the CPU."""
    for handler in logging.getLogger(_DEEPSPEED).handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
    return "Setting accelerator to CPU" not in record.getMessage()


def quiet_loggers() -> None:
    """Does the part of `quiet_libraries` that imports nothing."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # peft loads it with any LoRA; it misses kernels that quantised layers alone would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Saving a model imports it where it is installed. It sets its own level, but leaves filters.
    logging.getLogger(_DEEPSPEED).addFilter(_off_stdout)
    # Our loader makes its batches ahead, on a thread of its own.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*will save all targets and predictions in the buffer.*")
    warnings.filterwarnings("ignore", ".*`is_gradient_checkpointing` is deprecated.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated.*")
    warnings.filterwarnings("ignore", ".*FSDP2-wrapped module .* returned a view tensor.*")
    warnings.filterwarnings("ignore", ".*torch.distributed.* is deprecated.*")
    # What Lightning would have srun do is up to us.
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    warnings.filterwarnings("ignore", ".*Experiment logs directory .* exists and is not empty.*")
