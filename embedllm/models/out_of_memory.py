"""What an encoder does when a pass runs out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.models.trie import TriePack

if TYPE_CHECKING:
    from embedllm.models.encoder import SentenceEncoder
    from embedllm.models.packing import Pack

_log = get_logger(__name__)


def use_less_memory(encoder: SentenceEncoder, batch: Pack | TriePack, reason: str) -> None:
    """Makes an encoder's next passes smaller than the one that failed.

    Args:
        encoder: Its budget of tokens is halved, or its rows share no trie any more.
        batch: What there was no memory for.
        reason: What was raised.

    Raises:
        ModelError: It is a single sentence, or other ranks wait in this pass.
    """
    num_rows, width = batch.input_ids.shape
    num_tokens = num_rows * width
    is_trie = isinstance(batch, TriePack)
    if num_rows == 1 and not is_trie:
        raise ModelError(
            f"there is no memory for one sentence of {width} tokens ({reason}); use a smaller "
            "type (model.dtype=bfloat16), a smaller model, or prompt.max_sentence_tokens"
        )
    if encoder.embedder.in_step:
        # The others are inside this pass, whose weights are gathered from all, and stay there.
        raise ModelError(
            f"out of memory with {num_tokens} tokens at once ({reason}); where weights are spread "
            "over processes none can go on with fewer by itself, so set a smaller "
            f"evaluation.tokens_per_batch ({num_tokens // 2} or less)"
        )
    if num_rows == 1:
        encoder.share_trie = False
        _log.warning("out of memory with %d tokens at once; going on row by row", width)
        return
    encoder.tokens_per_batch = num_tokens // 2
    _log.warning(
        "out of memory with %d tokens at once; going on with %d (evaluation.tokens_per_batch)",
        num_tokens,
        encoder.tokens_per_batch,
    )
    if batch.input_ids.is_cuda:
        torch.cuda.empty_cache()
