"""Makes the missing shards, together with any number of processes.

Nothing is sent between the processes: the files are the only state. All walk through the same
shards, each from another place, skip what is there or claimed, and wait at the end for what
others still make, so that a shard whose process dies is taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedllm.encoding.index import RecordIndex, read_shard
from embedllm.encoding.manifest import Manifest
from embedllm.encoding.row_files import RowFile
from embedllm.encoding.shards import ShardFolder, to_id_array
from embedllm.errors import ConfigError, ModelError
from embedllm.log import get_logger
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.packing import default_pack_tokens
from embedllm.progress import progress_bar
from embedllm.ranks import Rank

_log = get_logger(__name__)

_POLL_SECONDS: Final = 1.0
_RECOUNT_SECONDS: Final = 5.0
_LOG_WAIT_SECONDS: Final = 60.0
FLOAT16_MAX: Final = 65504.0
"""Largest finite number in float16."""

# Sentences go to the encoder in blocks of about so many packs: enough to sort them by length,
# few enough that what is held besides the vectors depends neither on shard_rows nor on how long
# the sentences are.
_PACKS_PER_BLOCK: Final = 32
_CHARS_PER_TOKEN: Final = 4
# What the template adds, so that empty sentences count too.
_TEMPLATE_CHARS: Final = 64


@dataclass(frozen=True)
class ShardWorker:
    """Makes shards.

    Attributes:
        get_encoder: Returns the encoder; called only when there is something to make.
        files: The input files in order.
        index: Where the shards begin.
        folder: Where they go.
        manifest: Asked before a shard is added.
        rank: This process.
    """

    get_encoder: Callable[[], SentenceEncoder]
    files: Sequence[RowFile]
    index: RecordIndex
    folder: ShardFolder
    manifest: Manifest
    rank: Rank

    def missing(self) -> list[int]:
        """Returns the shards that are not there; damaged ones are removed with a warning."""
        there = self.folder.list_there()
        for shard in sorted(there):
            if shard < self.index.num_shards and not self._is_intact(shard):
                with self.folder.claimed(shard) as is_mine:
                    if is_mine and not self._is_intact(shard):
                        path = self.folder.vectors_path(shard)
                        _log.warning("%s is damaged and will be made again", path)
                        self.folder.remove(shard)
                there.discard(shard)
        return [shard for shard in range(self.index.num_shards) if shard not in there]

    def make(self, shards: Sequence[int]) -> None:
        """Returns when all shards are there, whoever made them."""
        left = self.rank.rotate(list(shards))
        if not left:
            return
        # Before the bar, whose rate is that of encoding.
        self.get_encoder()
        progress = _Progress(self.folder, self.index, shards)
        total = sum(len(self.index.rows_of(shard)) for shard in shards)
        bar = (
            # Those of several processes would overwrite one another.
            progress_bar("encoding", total=total, unit="rows")
            if self.rank.is_main
            else nullcontext(lambda count: None)
        )
        last_note = time.monotonic()
        with bar as advance:
            progress.advance = advance
            while left:
                waiting = [shard for shard in left if not self._is_done(shard, progress)]
                if len(waiting) == len(left):
                    if time.monotonic() - last_note > _LOG_WAIT_SECONDS:
                        last_note = time.monotonic()
                        _log.info("waiting for %d shards of other processes", len(left))
                    time.sleep(_POLL_SECONDS)
                progress.recount(is_last=not waiting)
                left = waiting

    def _is_intact(self, shard: int) -> bool:
        return self.folder.is_intact(shard, len(self.index.rows_of(shard)))

    def _is_done(self, shard: int, progress: _Progress) -> bool:
        """Makes a shard unless another process does; returns whether it is there."""
        if self.folder.is_there(shard):
            return True
        with self.folder.claimed(shard) as is_mine:
            if not is_mine:
                return False
            # Looked up anew: another process may have finished between the look and the claim.
            if not self.folder.is_there(shard):
                self._make(shard, progress)
        return True

    def _make(self, shard: int, progress: _Progress) -> None:
        encoder = self.get_encoder()
        rows = read_shard(self.files, self.index, shard)
        vectors = encode_in_blocks(
            encoder, rows.texts, dtype=self.folder.dtype, on_rows=progress.add_own
        )
        self.manifest.check_is_ours()
        self.folder.write(shard, to_id_array(rows.ids, self.index.id_type), vectors)
        progress.recount()


class _Progress:
    """Rows of all processes: finished shards by their files, and this process's own open one."""

    def __init__(self, folder: ShardFolder, index: RecordIndex, shards: Sequence[int]) -> None:
        self.advance: Callable[[int], None] = lambda count: None
        self._folder = folder
        self._index = index
        self._shards = set(shards)
        self._num_shown = 0
        self._num_finished = 0
        self._num_own = 0
        self._last_count = time.monotonic()

    def add_own(self, num_rows: int) -> None:
        """Counts rows of the shard that this process is making."""
        self._num_own += num_rows
        if time.monotonic() - self._last_count > _RECOUNT_SECONDS:
            self._count_files()
        self._show()

    def recount(self, *, is_last: bool = False) -> None:
        """Counts the finished shards; those that this process has just finished are among them."""
        self._num_own = 0
        if is_last or time.monotonic() - self._last_count > _RECOUNT_SECONDS:
            self._count_files()
        self._show()

    def _count_files(self) -> None:
        there = self._folder.list_there() & self._shards
        self._num_finished = sum(len(self._index.rows_of(shard)) for shard in there)
        self._last_count = time.monotonic()

    def _show(self) -> None:
        done = self._num_finished + self._num_own
        if done > self._num_shown:
            self.advance(done - self._num_shown)
            self._num_shown = done


def encode_in_blocks(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    *,
    dtype: np.dtype[Any],
    on_rows: Callable[[int], None] = lambda count: None,
) -> NDArray[Any]:
    """Returns one vector for each text, [N, D]; each distinct text is encoded once.

    The blocks follow from the texts alone, so the result does too, to the bit.

    Args:
        encoder: What encodes.
        texts: The sentences of a shard.
        dtype: Type of the result.
        on_rows: Gets the number of rows that were finished since its last call.

    Raises:
        ConfigError: A number does not fit into float16.
        ModelError: The model gives infinite numbers or none.
    """
    number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([number_of[text] for text in texts])
    distinct = list(number_of)
    result: NDArray[Any] | None = None
    for block in _cut_blocks(distinct, _block_chars(encoder)):
        vectors = encoder.encode(distinct[block.start : block.stop])
        _check_range(vectors, dtype)
        if result is None:
            result = np.empty((len(texts), vectors.shape[1]), dtype=dtype)
        rows = np.flatnonzero((numbers >= block.start) & (numbers < block.stop))
        result[rows] = vectors[numbers[rows] - block.start]
        on_rows(len(rows))
    assert result is not None
    return result


def _block_chars(encoder: SentenceEncoder) -> int:
    device = next(encoder.embedder.parameters()).device
    tokens = encoder.tokens_per_batch or default_pack_tokens(device, training=False)
    return _PACKS_PER_BLOCK * _CHARS_PER_TOKEN * tokens


def _cut_blocks(texts: Sequence[str], max_chars: int) -> Iterator[range]:
    """Yields ranges of texts that hold about so many characters together, at least one text."""
    start = num_chars = 0
    for i, text in enumerate(texts):
        if num_chars >= max_chars:
            yield range(start, i)
            start, num_chars = i, 0
        num_chars += len(text) + _TEMPLATE_CHARS
    if start < len(texts):
        yield range(start, len(texts))


def _check_range(vectors: NDArray[np.float32], dtype: np.dtype[Any]) -> None:
    """Raises rather than write a number that is none or that the type cannot hold."""
    largest = float(np.abs(vectors).max(initial=0.0))
    if not np.isfinite(largest):
        raise ModelError(
            "the model gives vectors with infinite numbers or none (NaN): its weights or states "
            "overflow; set model.dtype=float32 or bfloat16"
        )
    if dtype == np.float16 and largest > FLOAT16_MAX:
        raise ConfigError(
            f"a vector holds {largest:.6g}, and float16 ends at {FLOAT16_MAX:.0f}; set "
            "dtype=float32 and another output, or model.normalize=true for vectors of length 1"
        )
