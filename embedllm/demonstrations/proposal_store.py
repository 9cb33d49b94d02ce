"""Answers on disk, so that a run that is killed and started again asks nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from embedllm.config import fingerprint
from embedllm.demonstrations.words import Answer
from embedllm.errors import CheckpointError

FILE_NAME: Final = "proposals.jsonl"


class ProposalStore:
    """The answers of one proposer, appended to a file of JSON lines as they come.

    The file may hold the answers of other proposers (another model or prompt) too; each line says
    whose it is.

    Args:
        path: The file; it need not exist.
        identity: What decides the answers besides the sentence.

    Raises:
        CheckpointError: The file is damaged or cannot be read.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._asked = fingerprint(dict(identity))
        self._answers = dict(self._read())

    def __len__(self) -> int:
        """Number of saved answers of this proposer."""
        return len(self._answers)

    def get(self, sentence: str) -> Answer | None:
        """Returns the saved answer, None when the sentence was not asked yet."""
        return self._answers.get(sentence)

    def add(self, sentences: Sequence[str], answers: Sequence[Answer]) -> None:
        """Appends answers and waits until they are on the disk.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written.
        """
        lines = []
        for sentence, answer in zip(sentences, answers, strict=True):
            record = {"asked": self._asked, "sentence": sentence, **answer._asdict()}
            lines.append(f"{json.dumps(record)}\n")
            self._answers[sentence] = answer
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written: {error}. The answers before are still there; "
                "make room, or set paths.output_dir to another disk"
            ) from error

    def _read(self) -> Iterator[tuple[str, Answer]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be read: {error}") from error
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            # The process died while it wrote; what is appended next must begin a line.
            os.truncate(self._path, len(content) - len(torn))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                answer = Answer(str(record["text"]), bool(record["is_cut"]))
                sentence, asked = record["sentence"], record["asked"]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{self._path} is damaged in line {number}; delete that line or choose another "
                    "run_name"
                ) from error
            if asked == self._asked:
                yield sentence, answer


@contextmanager
def open_store(folder: Path, identity: Mapping[str, Any]) -> Iterator[ProposalStore]:
    """Yields the store of a run folder and keeps other processes out of it.

    The lock goes with the process, also when it is killed.

    Raises:
        CheckpointError: Another process uses the folder, it cannot be written, or its file is
            damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise CheckpointError(
            f"{folder} is in use by another run; wait for it or choose another run_name"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"the run folder {folder} cannot be written: {error}; set paths.output_dir"
        ) from error
    try:
        yield ProposalStore(folder / FILE_NAME, identity)
    finally:
        lock.release()
