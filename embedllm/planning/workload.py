"""What one process computes in a step: its texts, and the packs that they go through the trunk in.

Without data the texts are assumed to be alike; with token ids the packs are those of training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from embedllm.config import PlanConfig, PlanOptionsConfig, PromptConfig, TrainConfig
from embedllm.data.examples import load_training_data
from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.models.backbone import load_tokenizer
from embedllm.models.packing import Pack, default_pack_tokens, pack
from embedllm.models.prefix import common_prefix_length
from embedllm.models.row_shares import share_rows
from embedllm.models.trie import TriePack, pack_smallest
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize

# Pieces that byte-pair tokenizers of English seldom cut further: a word, or signs in a row.
_PIECES: Final = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class PackShape:
    """A pack without its ids.

    Attributes:
        rows: Texts of a plain pack, bins of a trie.
        width: Places of each.
        num_texts: Texts that end in the pack.
        num_ends: Row ends of a bin; 0 for a plain pack.
    """

    rows: int
    width: int
    num_texts: int
    num_ends: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that go through the trunk, padding included."""
        return self.rows * self.width

    @classmethod
    def of(cls, batch: Pack | TriePack) -> PackShape:
        """Returns the shape of a pack."""
        rows, width = batch.input_ids.shape
        num_ends = batch.ends.shape[1] if isinstance(batch, TriePack) else 0
        return cls(rows, width, len(batch.rows), num_ends)

    def build(self) -> Pack | TriePack:
        """Returns a pack of this shape, of ids that mean nothing."""
        ids = torch.zeros(self.rows, self.width, dtype=torch.long)
        texts = torch.zeros(self.num_texts, dtype=torch.long)
        if not self.num_ends:
            return Pack(ids, torch.ones_like(ids), texts)
        visible = torch.zeros(self.rows, self.width, self.width, dtype=torch.bool)
        ends = torch.zeros(self.rows, self.num_ends, dtype=torch.long)
        return TriePack(ids, torch.zeros_like(ids), visible, ends, texts, texts)


@dataclass(frozen=True)
class Workload:
    """What one process computes for one contrastive batch.

    Attributes:
        packs: Its packs, the largest first.
        prefix_tokens: Tokens that all texts begin with and that are computed once.
        num_anchors: Anchors that this process scores.
        num_candidates: Texts that it scores them against, of all processes.
        num_texts: Texts that it computes.
        text_tokens: Tokens of these with their whole prompts.
        num_batches: Contrastive batches of an optimizer step.
        is_assumed: Whether the lengths are assumed, not read.
    """

    packs: tuple[PackShape, ...]
    prefix_tokens: int
    num_anchors: int
    num_candidates: int
    num_texts: int
    text_tokens: int
    num_batches: int = 1
    is_assumed: bool = True

    @property
    def trunk_tokens(self) -> int:
        """Tokens that go through the trunk of this process for one contrastive batch."""
        return self.prefix_tokens + sum(pack.tokens for pack in self.packs)

    @property
    def pack_tokens(self) -> int:
        """Tokens of the largest pack."""
        return self.packs[0].tokens

    def without_prefix(self) -> Workload:
        """Returns the work where nothing is computed for all packs together.

        The beginning is in every bin of a trie then. Assumed texts stay as they are, since bins
        that hold many of them share it all the same.
        """
        longer = [
            replace(pack, width=pack.width + self.prefix_tokens * bool(pack.num_ends))
            for pack in self.packs
        ]
        return replace(self, packs=tuple(longer), prefix_tokens=0)

    def one_pack(self) -> Workload:
        """Returns the part of the work that is in the largest pack."""
        return replace(self, packs=self.packs[:1])

    def resized(self, *, pack_tokens: int | None = None, factor: float = 1.0) -> Workload:
        """Returns the work with packs of another size, or with more or fewer examples.

        Args:
            pack_tokens: Tokens of a pack; None for as many as now.
            factor: By which the number of examples is multiplied.
        """
        one = self.packs[0]
        num_rows = max(1, round(factor * sum(pack.rows for pack in self.packs)))
        num_texts = max(1, round(factor * self.num_texts))
        per_pack = max(1, (pack_tokens or one.tokens) // one.width)
        full, rest = divmod(num_rows, per_pack)
        sizes = [per_pack] * full + [rest] * (rest > 0)
        packs = [replace(one, rows=n, num_texts=-(-n * num_texts // num_rows)) for n in sizes]
        return replace(
            self,
            packs=tuple(packs),
            num_anchors=max(1, round(factor * self.num_anchors)),
            num_candidates=max(1, round(factor * self.num_candidates)),
            num_texts=num_texts,
            text_tokens=round(factor * self.text_tokens),
        )


@dataclass(frozen=True)
class TextLengths:
    """Lengths that stand for all texts.

    Attributes:
        prefix: Tokens in front of the sentence.
        rest: Tokens of the sentence and of what follows it.
        texts_per_example: Anchor, positive and hard negatives.
    """

    prefix: int
    rest: int
    texts_per_example: int


def assume_lengths(prompt: PromptConfig, options: PlanOptionsConfig) -> TextLengths:
    """Returns the lengths of finished prompts, the template counted by its words and signs."""
    literals = build_prompt(prompt, training=True).literals
    counts = [len(_PIECES.findall(literal)) for literal in literals]
    copies = len(literals) - 1
    # The first token is the one that most tokenizers begin a text with.
    rest = sum(counts[1:]) + copies * options.sentence_tokens
    return TextLengths(1 + counts[0], rest, options.texts_per_example)


def pack_budget(config: TrainConfig, kind: str) -> int:
    """Returns the tokens of a pack in training, on devices of a kind (`cuda` or `cpu`)."""
    return config.data.tokens_per_pack or default_pack_tokens(torch.device(kind), training=True)


def assume_workload(
    config: TrainConfig, lengths: TextLengths, *, kind: str, world_size: int
) -> Workload:
    """Returns the work of one process on texts of these lengths.

    Args:
        config: The training.
        lengths: Lengths of all texts.
        kind: Kind of the devices, which decides the default size of a pack.
        world_size: Processes that share a batch.
    """
    num_batches = config.trainer.accumulate_grad_batches
    num_examples = config.data.global_batch_size // num_batches
    num_texts = -(-num_examples * lengths.texts_per_example // world_size)
    shares = config.trainer.share_prefix and config.model.pooling == "last"
    prefix = lengths.prefix if shares else 0
    width = lengths.prefix + lengths.rest - prefix
    per_pack = max(1, pack_budget(config, kind) // width)
    full, rest = divmod(num_texts, per_pack)
    packs = [PackShape(per_pack, width, per_pack)] * full
    if rest:
        packs.append(PackShape(rest, width, rest))
    return Workload(
        packs=tuple(packs),
        prefix_tokens=prefix,
        num_anchors=-(-num_examples // world_size),
        num_candidates=num_examples * (lengths.texts_per_example - 1),
        num_texts=num_texts,
        text_tokens=num_texts * (lengths.prefix + lengths.rest),
        num_batches=num_batches,
    )


def read_workload(
    config: TrainConfig, batch: ContrastiveBatch, *, kind: str, world_size: int
) -> Workload:
    """Returns the work of the first process on a batch, packed as in training.

    Args:
        config: The training.
        batch: A contrastive batch.
        kind: Kind of the devices.
        world_size: Processes that share the batch.
    """
    rows = [batch.token_ids[row] for row in share_rows(batch.token_ids, world_size).rows[0]]
    shares = config.trainer.share_prefix and config.model.pooling == "last"
    prefix = common_prefix_length(rows) if shares else 0
    own = [ids[prefix:] for ids in rows]
    budget, device = pack_budget(config, kind), torch.device(kind)
    packs: Sequence[Pack] | Sequence[TriePack] = pack(own, max_tokens=budget)
    if shares:
        packs = pack_smallest(own, max_tokens=budget, device=device)
    return Workload(
        packs=tuple(map(PackShape.of, packs)),
        prefix_tokens=prefix,
        num_anchors=-(-batch.num_anchors // world_size),
        num_candidates=len(batch.token_ids) - batch.num_anchors,
        num_texts=len(rows),
        text_tokens=sum(map(len, rows)),
        num_batches=config.trainer.accumulate_grad_batches,
        is_assumed=False,
    )


def read_batch(config: TrainConfig) -> ContrastiveBatch:
    """Returns the first contrastive batch of the training.

    Raises:
        DataError: The data cannot be read.
        ModelError: The tokenizer cannot be had.
    """
    data = load_training_data(config.data, seed=config.seed)
    tokenizer = load_tokenizer(config.model, Path(config.paths.cache_dir))
    prompt = build_prompt(config.prompt, training=True)
    loader = ContrastiveLoader(
        data.examples,
        partial(tokenize, tokenizer=tokenizer, prompt=prompt),
        batch_size=config.data.global_batch_size // config.trainer.accumulate_grad_batches,
        seed=config.seed,
    )
    return next(iter(loader))


def find_workload(config: PlanConfig, *, kind: str, world_size: int) -> Workload:
    """Returns the work of one process, from data or from assumed lengths as the plan asks.

    Raises:
        EmbedllmError: Data or tokenizer cannot be had.
    """
    training = config.to_train_config()
    if config.plan.read_data:
        return read_workload(training, read_batch(training), kind=kind, world_size=world_size)
    lengths = assume_lengths(config.prompt, config.plan)
    return assume_workload(training, lengths, kind=kind, world_size=world_size)
