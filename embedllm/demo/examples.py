"""What the page begins with, so that it shows something before anyone has typed."""

from __future__ import annotations

from typing import Final

COMPARED: Final = (
    "A man is riding a horse along the beach.",
    "Somebody gallops over the sand.",
    "A woman is slicing an onion.",
    "She is preparing dinner.",
    "The central bank left interest rates unchanged.",
)
QUERY: Final = "The bank did not change the cost of loans."
LISTED: Final = (
    "The central bank left interest rates unchanged.",
    "A violinist is tuning her instrument.",
    "Two children are building a castle out of sand.",
    "The recipe needs three eggs and a cup of flour.",
    "Shares fell after the company warned of lower profits.",
    "A dog is sleeping under the table.",
    "The train to the coast was an hour late.",
    "Scientists found water below the surface of a moon.",
    "He paid for the book in cash.",
    "It snowed in the mountains all night.",
    "The team won its first match of the season.",
    "She repaired the old clock by herself.",
)
SENTENCE: Final = COMPARED[0]
