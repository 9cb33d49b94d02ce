"""A small byte-level BPE tokenizer, trained in a moment on the text below.

It lets any architecture run with random weights where no hub is at hand: tests, capacity and
speed runs. Real models bring their own tokenizer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCAB_SIZE = 640
"""Entries of the bundled tokenizer; small, so that tiny models stay tiny."""

_TEXT = """
This sentence : "A man is riding a horse." means in one word:"
This sentence means something. The sentence : "S" means in one word:"
A young woman in a red coat is reading a newspaper on a bench in the park.
Two children are playing football on the beach while their parents watch them.
An old man with a white beard is slicing bread in a small kitchen.
A brown dog runs through the snow with a stick in its mouth.
Three people are standing in front of a train station and waiting for a bus.
The musician plays the guitar and sings in front of a large crowd.
Somebody is cutting an onion with a knife; a cat is sitting on the window sill.
The government raised taxes on fuel for the second time this year.
Shares of the company fell by five percent after the report was published on Monday.
The president will meet the ministers of eight countries in the capital next week.
Heavy rain has flooded several villages in the north, and hundreds had to leave their homes.
Scientists found water under the surface of the planet, the agency said yesterday.
The team won the championship after a long match that ended without a goal.
There was no evidence that the workers had been told about the changes.
She does not know whether the museum is open today or whether it was closed.
He bought a new car because the old one could not be repaired any more.
They were travelling from the mountains to the sea when the engine stopped.
What is the best way to learn how to swim? Nobody has ever asked that question here.
"""


@lru_cache(maxsize=1)
def build_bundled_tokenizer() -> PreTrainedTokenizerBase:
    """Returns the tokenizer; the same ids on every machine. BOS `</s>` in front, as OPT has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.strip().splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )
