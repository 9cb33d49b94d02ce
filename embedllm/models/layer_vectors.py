"""The vectors of every layer of a model, from one pass over the sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from embedllm.models.encoder import SentenceEncoder
from embedllm.models.packing import default_pack_tokens, pack
from embedllm.models.pooling import POOLINGS
from embedllm.progress import progress_bar


@torch.inference_mode()
def encode_layers(
    encoder: SentenceEncoder, sentences: Sequence[str], *, progress: str
) -> list[np.ndarray]:
    """Returns per layer one vector per sentence, [N, D] float32 each, from the first layer on.

    Entry k - 1 holds the vectors of `model.layer=k`; the last entry is the model's output, behind
    the final norm. The width can differ there (OPT-350M).

    Args:
        encoder: An encoder of the model's output (`model.layer=-1`) with one template.
        sentences: Distinct sentences; each is computed as often as it is given.
        progress: Label of the progress bar.
    """
    embedder = encoder.embedder
    device = next(embedder.parameters()).device
    budget = encoder.tokens_per_batch or default_pack_tokens(device, training=False)
    packs = pack(encoder.token_ids(sentences), max_tokens=budget)
    layers: list[np.ndarray] = []
    embedder.eval()
    with progress_bar(progress, total=len(sentences), unit="sentences") as advance:
        for batch in packs:
            batch = batch.to(device)
            states = embedder.hidden_states(batch.input_ids, batch.attention_mask)[1:]
            rows = batch.rows.cpu().numpy()
            for i, hidden in enumerate(states):
                vectors = POOLINGS[embedder.pooling](hidden, batch.attention_mask).float()
                if i == len(layers):
                    layers.append(np.empty((len(sentences), vectors.shape[1]), dtype=np.float32))
                layers[i][rows] = vectors.cpu().numpy()
            advance(len(rows))
    return layers
