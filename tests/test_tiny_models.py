from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_models import TINY_ARCHITECTURES, ModelFactory

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder
    from transformers import PreTrainedTokenizerBase

SENTENCES = ["A man.", "A cat.", "Two children are playing football on the beach."]
# Unlike sentences of equal length: what a family must be able to tell apart.
MAX_COSINE = 0.999
ATOL_FLOAT32 = 1e-5


def test_every_family_encodes(tiny_family: ModelFactory, build_encoder: EncoderBuilder) -> None:
    model = tiny_family()
    encoder = build_encoder(model)
    together = encoder.encode(SENTENCES)
    width = model.architecture.get("word_embed_proj_dim", 32)
    assert together.shape == (3, width)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.encode([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(together, alone, atol=ATOL_FLOAT32)
    unit = together / np.linalg.norm(together, axis=1, keepdims=True)
    assert unit[0] @ unit[1] < MAX_COSINE
    assert encoder.max_length == 128


def test_factories_make_new_configs(
    tiny_opt: ModelFactory, tiny_opt_post_norm: ModelFactory, tiny_llama: ModelFactory
) -> None:
    changed = tiny_opt(pooling="mean", architecture={"dropout": 0.1})
    assert (changed.pooling, changed.architecture["dropout"]) == ("mean", 0.1)
    assert tiny_opt().architecture == TINY_ARCHITECTURES["opt"]
    assert tiny_opt().architecture is not TINY_ARCHITECTURES["opt"]
    assert tiny_opt_post_norm().architecture["do_layer_norm_before"] is False
    assert tiny_llama().architecture["num_key_value_heads"] == 2


@pytest.mark.parametrize("family", TINY_ARCHITECTURES)
def test_architectures_fit_the_bundled_tokenizer(
    family: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    architecture = TINY_ARCHITECTURES[family]
    assert len(tokenizer) <= architecture["vocab_size"]
    for name in ("pad", "bos", "eos"):
        assert architecture[f"{name}_token_id"] == getattr(tokenizer, f"{name}_token_id")
