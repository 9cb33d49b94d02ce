"""Sentences to vectors: the encoder that evaluation, export and users call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, overload

import numpy as np
import torch
from torch import Tensor

from embedllm.config import PromptConfig
from embedllm.log import get_logger
from embedllm.models.embedder import Embedder
from embedllm.models.out_of_memory import use_less_memory
from embedllm.models.packing import Pack, default_pack_tokens, pack
from embedllm.models.passes import (
    HostCopy,
    evaluation_mode,
    is_out_of_memory,
    sentence_progress,
)
from embedllm.models.prefix import Prefix, common_prefix_length, compute_prefix
from embedllm.models.quantization import describe_weights
from embedllm.models.similarity import cosine_matrix, to_texts, to_unit_length
from embedllm.models.trie import TriePack, pack_smallest
from embedllm.models.vector_cache import VectorCache, to_key
from embedllm.prefetch import prefetch
from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import (
    Row,
    check_unicode,
    prepended_position,
    tokenize_rows,
    trailing_special_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = get_logger(__name__)

# Sentences that are tokenized together, while those before them are computed.
_WINDOW: Final = 8192


class SentenceEncoder:
    """Prompt, tokenizer and embedder in one object with one method.

    Args:
        embedder: Trunk and pooling.
        tokenizer: The backbone's tokenizer.
        prompt: Template, clean-up and token budget of evaluation and use.
        max_length: Positions of the backbone, None for no limit.
        tokens_per_batch: Padded tokens per forward pass; None for the device's default.
        share_prefix: Compute what prompts of a call begin with alike once (what all share, and
            what some do), where the model and the pooling allow it.
        more_prompts: The vector of a sentence is the mean over `prompt` and these (MetaEOL).
    """

    def __init__(
        self,
        embedder: Embedder,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
        share_prefix: bool = True,
        more_prompts: Sequence[Prompt] = (),
    ) -> None:
        self.embedder = embedder
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_length = max_length
        self.tokens_per_batch = tokens_per_batch
        self.share_prefix = share_prefix
        self.share_trie = True
        self.more_prompts = tuple(more_prompts)
        self.vector_cache: VectorCache | None = None

    def keep_vectors(self, folder: Path) -> None:
        """Looks vectors up on disk from now on, and keeps new ones there.

        The weights must not change afterwards: their checksum is taken here.

        Raises:
            CheckpointError: The cache file is damaged or cannot be opened.
        """
        self.vector_cache = VectorCache.of(self.embedder, folder)

    def with_prompt(self, prompt: Prompt) -> SentenceEncoder:
        """Returns an encoder of the same weights with this prompt alone."""
        other = copy(self)
        other.prompt = prompt
        other.more_prompts = ()
        return other

    @property
    def dtype(self) -> str:
        """Type of the base weights, `nf4 (float32)` for quantised ones.

        Adapter weights can be kept in float32 above them.
        """
        return describe_weights(self.embedder.trunk)

    @classmethod
    def load(
        cls,
        path_or_name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
        prompt: str | PromptConfig | None = None,
        pooling: str | None = None,
        tokens_per_batch: int | None = None,
        cache_dir: str | Path | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> SentenceEncoder:
        """Returns a ready encoder: what training or an export wrote, or a model as it is.

        Example:
            >>> encoder = SentenceEncoder.load("outputs/first/adapter")
            >>> vectors = encoder.encode(["A man is riding a horse.", "It is raining."])

        Args:
            path_or_name: A run folder, an adapter folder, an exported folder, a folder with a
                model, a name of `conf/model` (`smollm2-135m`) or a hub name.
            device: `cpu`, `cuda`, `cuda:1`; None for the GPU when there is one.
            dtype: `auto`, `float32`, `bfloat16` or `float16`; None for what the adapter was
                trained with, and `auto` for a model as it is.
            quantization: `none`, `nf4` or `int8`; None for the adapter's own, or none.
            prompt: A template with `{sentence}`, a name of `conf/prompt` or a `PromptConfig`, for
                a model as it is (default `prompteol`). An adapter brings its own.
            pooling: `last`, `mean` or `weighted_mean`, for a model as it is.
            tokens_per_batch: Padded tokens per forward pass; None for the device's default.
            cache_dir: Where converted models lie; default EMBEDLLM_CACHE_DIR, else
                `~/.cache/embedllm`.
            revision: Branch, tag or commit of a model on the hub.
            trust_remote_code: Run Python code that comes with the model.

        Raises:
            EmbedllmError: The folder is damaged, the model cannot be had, or the arguments do not
                fit together; the message says what would.
        """
        from embedllm.models.by_name import load_by_name

        return load_by_name(
            path_or_name,
            device=device,
            prompt=prompt,
            tokens_per_batch=tokens_per_batch,
            cache_dir=cache_dir,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            quantization=quantization,
            pooling=pooling,
            revision=revision,
        )

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        progress: str | None = ...,
        show_progress: bool = ...,
        normalize: bool = ...,
        as_tensor: Literal[False] = ...,
    ) -> np.ndarray: ...

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        progress: str | None = ...,
        show_progress: bool = ...,
        normalize: bool = ...,
        as_tensor: Literal[True],
    ) -> Tensor: ...

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        progress: str | None = None,
        show_progress: bool = False,
        normalize: bool = False,
        as_tensor: bool = False,
    ) -> np.ndarray | Tensor:
        """Returns one vector per sentence, [N, D] float32, in the order given.

        Each distinct sentence is computed once, and with `keep_vectors` not even that. A vector
        does not depend on the other sentences (to float rounding). Runs without gradients in
        evaluation mode and leaves the model in the mode it was in.

        Args:
            sentences: Raw sentences; any may be empty. A single text gives a single vector, [D].
            progress: Label of a progress bar with rate and time left; None for no bar.
            show_progress: Show one with a label of its own.
            normalize: Divide each vector by its length.
            as_tensor: Return a tensor on the CPU instead of an array.

        Raises:
            DataError: A sentence is no text, or one that no tokenizer can read.
        """
        label = "encode" if show_progress and progress is None else progress
        vectors = self._encode_texts(to_texts(sentences), label)
        if normalize:
            vectors = to_unit_length(vectors)
        if isinstance(sentences, str):
            vectors = vectors[0]
        return torch.from_numpy(vectors) if as_tensor else vectors

    def similarity(
        self,
        left: str | Sequence[str] | np.ndarray | Tensor,
        right: str | Sequence[str] | np.ndarray | Tensor | None = None,
    ) -> np.ndarray:
        """Returns the cosine of each on the left with each on the right, [N, M] float32.

        Args:
            left: Texts, or their vectors.
            right: Likewise; None to compare the left with itself.
        """
        first = self._to_vectors(left)
        return cosine_matrix(first, first if right is None else self._to_vectors(right))

    def _to_vectors(self, items: str | Sequence[str] | np.ndarray | Tensor) -> np.ndarray:
        """Returns [N, D] vectors of texts, or of what are vectors already."""
        if isinstance(items, Tensor):
            items = items.detach().cpu().float().numpy()
        if isinstance(items, np.ndarray) and items.dtype.kind == "f":
            return np.atleast_2d(items)
        return np.atleast_2d(self.encode(items if isinstance(items, str) else list(items)))

    def _encode_texts(self, sentences: Sequence[str], progress: str | None) -> np.ndarray:
        """Returns [N, D] vectors, the mean over all prompts."""
        if self.more_prompts:
            prompts = (self.prompt, *self.more_prompts)
            parts = [self.with_prompt(p)._encode_texts(sentences, progress) for p in prompts]
            mean: np.ndarray = np.stack(parts).mean(axis=0, dtype=np.float64).astype(np.float32)
            return mean
        check_unicode(sentences)
        index = {text: i for i, text in enumerate(dict.fromkeys(sentences))}
        distinct: np.ndarray | None = None
        for rows, vectors in self._encode_distinct(list(index), progress):
            if distinct is None:
                distinct = np.empty((len(index), vectors.shape[1]), dtype=np.float32)
            distinct[rows] = vectors
        if distinct is None:
            # No pass tells the width: where ranks go in step, the others would not know of it.
            return np.empty((0, self.embedder.embedding_dim), dtype=np.float32)
        return distinct[[index[text] for text in sentences]]

    def _encode_distinct(
        self, texts: Sequence[str], progress: str | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and their vectors, known or computed, and keeps computed ones as they come.

        Texts in dictionary order begin alike, so windows of them share nearly all that the whole
        would, and the next window is tokenized while the model works on one.
        """
        order = sorted(range(len(texts)), key=texts.__getitem__)
        windows = [np.array(order[i : i + _WINDOW]) for i in range(0, len(order), _WINDOW)]
        tokenized = prefetch(
            lambda window: self._tokenize([texts[row] for row in window]), windows, depth=1
        )
        cache = self.vector_cache
        # Before the other thread tokenizes: a tokenizer serves one thread at a time.
        placeholder = prepended_position(self.prompt, self.tokenizer)
        num_known = 0
        with (
            cache.writer() if cache is not None else nullcontext() as out,
            closing(tokenized),
            evaluation_mode(self.embedder),
            # Weights that are gathered in inference mode could not be trained afterwards.
            torch.no_grad() if self.embedder.in_step else torch.inference_mode(),
            sentence_progress(progress, total=len(texts)) as advance,
        ):
            for window, rows in zip(windows, tokenized, strict=True):
                keys = [to_key(row) for row in rows]
                known = cache.read(keys) if cache is not None else {}
                missing = np.array([i for i in range(len(rows)) if i not in known], dtype=int)
                if known:
                    num_known += len(known)
                    advance(len(known))
                    yield window[list(known)], np.stack(list(known.values()))
                for places, vectors in self._embed([rows[i] for i in missing], placeholder):
                    places = missing[places]
                    if out is not None:
                        out.add([keys[i] for i in places], vectors)
                    advance(len(places))
                    yield window[places], vectors
            self.embedder.follow_passes()
        if num_known:
            _log.info("%d of %d vectors were kept on disk", num_known, len(texts))

    def _embed(
        self, tokenized: Sequence[Row], placeholder: int | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields rows and their vectors, pack by pack; each is copied while the next one runs."""
        if not tokenized:
            return
        device = next(self.embedder.parameters()).device
        num_shared = self._count_shared(tokenized, placeholder)
        if placeholder is not None:
            placeholder -= num_shared
        prefix = None
        if num_shared:
            self.embedder.announce_pass()
            prefix = compute_prefix(self.embedder.trunk, tokenized[0].ids[:num_shared])
        left = np.arange(len(tokenized))
        copies: deque[HostCopy] = deque()
        while len(left):
            done: list[np.ndarray] = []
            for batch in self._pack([tokenized[row] for row in left.tolist()], num_shared, device):
                vectors = self._forward(batch.to(device), prefix, placeholder)
                if vectors is None:
                    break  # out of memory: what is left goes on in smaller packs
                rows = batch.rows.numpy()
                done.append(rows)
                copies.append(HostCopy(left[rows], vectors))
                if len(copies) > 1:
                    yield copies.popleft().result()
            if done:
                left = np.delete(left, np.concatenate(done))
        while copies:
            yield copies.popleft().result()

    def _pack(
        self, rows: Sequence[Row], num_shared: int, device: torch.device
    ) -> Sequence[Pack] | Sequence[TriePack]:
        """Returns the rows behind the shared tokens, as a trie where that is less to compute."""
        budget = self.tokens_per_batch or default_pack_tokens(device, training=False)
        token_ids = [row.ids[num_shared:] for row in rows]
        if self.prompt.pool_over == "sentence":
            spans = [(row.start - num_shared, row.stop - num_shared) for row in rows]
            return pack(token_ids, max_tokens=budget, spans=spans)
        longest = max(len(row.ids) for row in rows)
        can_share = self.share_trie and self.share_prefix
        if can_share and self.embedder.can_share_trie_of(longest):
            return pack_smallest(token_ids, max_tokens=budget, device=device)
        return pack(token_ids, max_tokens=budget)

    def _forward(
        self, batch: Pack | TriePack, prefix: Prefix | None, placeholder: int | None
    ) -> Tensor | None:
        """Returns the vectors of a pack; None when memory ran out and less will be used."""
        self.embedder.announce_pass()
        try:
            return self.embedder.embed_pack(batch, prefix, placeholder=placeholder)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        # Outside the except block, whose traceback holds on to the states that were computed.
        use_less_memory(self, batch, reason)
        return None

    def _count_shared(self, tokenized: Sequence[Row], placeholder: int | None) -> int:
        """Returns how many first tokens need not be in the rows: nothing looks at them again."""
        if not self.share_prefix or not self.embedder.can_share_prefix or not tokenized:
            return 0
        limits = [common_prefix_length([row.ids for row in tokenized])]
        if self.prompt.pool_over == "sentence":
            limits.append(min(row.start for row in tokenized))
        elif self.embedder.pooling != "last":
            return 0
        if placeholder is not None:
            limits.append(placeholder)
        return min(limits)

    def _tokenize(self, sentences: Sequence[str]) -> list[Row]:
        return tokenize_rows(
            sentences, tokenizer=self.tokenizer, prompt=self.prompt, max_length=self.max_length
        )

    def token_ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids that `encode` feeds to the model, unpadded."""
        return [row.ids for row in self._tokenize(sentences)]

    def describe(self, sentence: str = "A man is riding a horse") -> str:
        """Returns one finished prompt with its last three tokens, for the start-up log."""
        ids = self.token_ids([sentence])[0]
        last = [self.tokenizer.convert_ids_to_tokens(i) for i in ids[-3:]]
        dropped = trailing_special_tokens(self.tokenizer)
        note = ""
        if dropped:
            names = self.tokenizer.convert_ids_to_tokens(list(dropped))
            note = f"; the tokenizer's own trailing {names} is left out"
        return f"{self.tokenizer.decode(ids)!r}, {len(ids)} tokens, the last three {last}{note}"
