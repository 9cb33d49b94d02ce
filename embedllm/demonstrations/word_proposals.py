"""Demonstrations from sentences, with the word proposed by a language model.

The paper had 100 sentences of STS-B's training split described by gpt-3.5-turbo, asked with the
template that it also embeds with (paper_method 2). Here any model can be asked: a local one
(`local_model`) or one behind an OpenAI-compatible interface (`endpoint`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from embedllm.config import DemonstrationConfig, DemonstrationsConfig
from embedllm.demonstrations.proposal_store import ProposalStore, open_store
from embedllm.demonstrations.words import Answer, to_word
from embedllm.errors import ModelError
from embedllm.log import get_logger
from embedllm.progress import progress_bar
from embedllm.prompts.template import build_prompt

_log = get_logger(__name__)

# A model that says nothing usable so often will not begin to; requests can cost money.
_MAX_USELESS_ANSWERS: Final = 50
_NUM_EXAMPLES: Final = 5


class Proposer(Protocol):
    """Who is asked for words."""

    name: str
    batch_size: int

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers besides the sentence, as plain values."""
        ...

    def ask(self, sentences: Sequence[str]) -> list[Answer]:
        """Returns the answer to each sentence."""
        ...


@dataclass
class Proposals:
    """What came of the asking.

    Attributes:
        demonstrations: Sentences with their words, in the order of the sentences.
        num_unusable: Answers that were no word.
        unusable_examples: The first few of them.
    """

    demonstrations: list[DemonstrationConfig] = field(default_factory=list)
    num_unusable: int = 0
    unusable_examples: list[str] = field(default_factory=list)


def build_proposer(config: DemonstrationsConfig) -> AbstractContextManager[Proposer]:
    """Returns the proposer that the config names; neither model nor server is touched yet.

    Raises:
        ConfigError: The prompt is malformed, or the key for the server is.
    """
    prompt = build_prompt(config.prompt)
    if config.endpoint.base_url is not None:
        from embedllm.demonstrations.endpoint import EndpointProposer

        return EndpointProposer(config.endpoint, prompt)
    from embedllm.demonstrations.local_model import LocalProposer
    from embedllm.models.backbone import resolve_device

    proposer = LocalProposer(
        config.model,
        prompt,
        cache_dir=Path(config.paths.cache_dir),
        device=resolve_device(),
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
    )
    return nullcontext(proposer)


def propose_words(
    sentences: Iterator[str],
    proposer: Proposer,
    folder: Path,
    *,
    number: int,
    source: str,
) -> Proposals:
    """Asks for words until there are enough.

    Every answer is on disk before the next sentence (local model: the next batch) is asked, so
    that a run that is killed loses no more than what was in flight.

    Args:
        sentences: What to ask, in order; no more are taken than needed.
        proposer: Who is asked.
        folder: The run folder.
        number: Demonstrations wanted; fewer come back when the sentences run out.
        source: Where the sentences come from, for the provenance.

    Raises:
        ModelError: The model cannot be had, or never gave a usable word.
        CheckpointError: The folder is in use, cannot be written, or is damaged.
    """
    proposals = Proposals()
    provenance = f"{source}; word: {proposer.name}"
    with (
        open_store(folder, proposer.identity) as store,
        progress_bar("asking for words", total=number, unit="words") as advance,
    ):
        if len(store):
            _log.info("%d answers of an earlier run are there", len(store))
        while (missing := number - len(proposals.demonstrations)) > 0:
            batch = list(islice(sentences, min(missing, proposer.batch_size)))
            if not batch:
                break
            words = [to_word(answer) for answer in _answers(batch, proposer, store, proposals)]
            made = [
                DemonstrationConfig(sentence, word, provenance)
                for sentence, word in zip(batch, words, strict=True)
                if word is not None
            ]
            proposals.demonstrations += made
            advance(len(made))
            _check_is_useful(proposals, proposer)
    return proposals


def _answers(
    batch: Sequence[str], proposer: Proposer, store: ProposalStore, proposals: Proposals
) -> list[Answer]:
    """Returns the answers to a batch, asking only what was not asked before."""
    new = [sentence for sentence in batch if store.get(sentence) is None]
    if new:
        store.add(new, proposer.ask(new))
    answers = [answer for answer in map(store.get, batch) if answer is not None]
    unusable = [answer.text for answer in answers if to_word(answer) is None]
    proposals.num_unusable += len(unusable)
    room = _NUM_EXAMPLES - len(proposals.unusable_examples)
    proposals.unusable_examples += unusable[:room]
    return answers


def _check_is_useful(proposals: Proposals, proposer: Proposer) -> None:
    if not proposals.demonstrations and proposals.num_unusable >= _MAX_USELESS_ANSWERS:
        examples = ", ".join(map(repr, proposals.unusable_examples))
        raise ModelError(
            f"none of the first {proposals.num_unusable} answers of {proposer.name} was a word, "
            f"for example {examples}; try another model, or a prompt with demonstrations "
            "(prompt=icl-opt-2.7b). A server's model that thinks before it answers needs a larger "
            "endpoint.options.max_tokens"
        )
