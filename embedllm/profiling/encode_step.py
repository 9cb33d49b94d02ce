"""One call of the encoder, as evaluation and `python -m embedllm encode` make it."""

from __future__ import annotations

from collections.abc import Sequence

from embedllm.models.encoder import SentenceEncoder
from embedllm.profiling.observers import Observer
from embedllm.profiling.sections import Part, Sections, instrumented


def run_encode_steps(
    encoder: SentenceEncoder,
    sentences: Sequence[str],
    sections: Sections,
    observers: Sequence[Observer],
) -> None:
    """Encodes the sentences once for each observer.

    Args:
        encoder: What encodes; without kept vectors, or the second call would compute nothing.
        sentences: Distinct sentences.
        sections: Is told which part of a call runs.
        observers: One for each call.
    """
    with instrumented(sections, encoder.embedder.trunk):
        for observer in observers:
            sections.begin(observer)
            sections.tokens["texts"] += len(sentences)
            # What is neither tokenization, prefix nor trunk packs, pools or copies to the host.
            with sections.part(Part.POOLING):
                encoder.encode(sentences)
            sections.end()
