"""Seeded sample data, so that a fresh checkout can train and evaluate without a download.

The sentences are synthetic: about thirty kinds of event with a few hundred words, put together
by templates. They look like image captions and news headlines and suffice to try the tool, to
see a loss fall and a Spearman correlation rise, and to test code. They are small and regular;
a score on them says nothing about real text and compares with no published number.

* Triplets: the positive is a paraphrase or is entailed (synonyms, hypernyms, dropped modifiers,
  active and passive, numbers in words and digits); the hard negative contradicts the anchor with
  nearly its words (antonym, negation, other action, other object, other number, swapped roles).
* Pairs carry a score by rule, not by human raters: 5 same meaning, 4 a modifier differs, 3 who or
  what or how many differs, 2 a contradiction or two differences, 1 another event of the topic,
  0 unrelated. Half steps lie between. Shared words are no good guide to the score.
* Train, dev and test share no frame and no noun, verb, adjective or adverb; only function words
  and some number words recur. Basic clause shapes of English recur too.
"""

from __future__ import annotations

from embedllm.data.sample.generator import (
    MAX_PAIRS,
    MAX_TRIPLETS,
    ScoredPair,
    Triplet,
    generate_pairs,
    generate_triplets,
)

__all__ = [
    "MAX_PAIRS",
    "MAX_TRIPLETS",
    "ScoredPair",
    "Triplet",
    "generate_pairs",
    "generate_triplets",
]
