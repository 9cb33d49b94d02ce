"""Tiny models of many decoder families, with random weights and the bundled tokenizer.

Import this module in tests that choose families themselves; the fixtures in `conftest.py` are
made from it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from embedllm.config import ModelConfig
from embedllm.prompts.bundled_tokenizer import VOCAB_SIZE

# With the usual 0.02 the state at the end of a prompt hardly depends on the other tokens, so that
# a wrong attention mask would go unseen (opt_post_norm: cosine of unlike sentences 1.0000).
_INIT_STD = 0.2
_TOKENS: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
_SIZES: dict[str, Any] = {
    **_TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED_QUERY: dict[str, Any] = {
    **_SIZES,
    "initializer_range": _INIT_STD,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
}
_OPT: dict[str, Any] = {
    **_SIZES,
    "model_type": "opt",
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "dropout": 0.0,
    "init_std": _INIT_STD,
}

TINY_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "opt": _OPT,
    # The shape of OPT-350M: norm after each block, states projected down behind the last layer.
    "opt_post_norm": {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "llama": {**_GROUPED_QUERY, "model_type": "llama"},
    # The window is shorter than the prompts of the tests, two layers of it see most of one.
    "mistral": {**_GROUPED_QUERY, "model_type": "mistral", "sliding_window": 16},
    "qwen2": {**_GROUPED_QUERY, "model_type": "qwen2"},
    # One layer with a window and one without.
    "gemma3_text": {
        **_GROUPED_QUERY,
        "model_type": "gemma3_text",
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neox": {
        **_SIZES,
        "model_type": "gpt_neox",
        "initializer_range": _INIT_STD,
        "intermediate_size": 64,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    },
    "gpt2": {
        **_TOKENS,
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": _INIT_STD,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
"""Arguments of `model.architecture` by family. No dropout, so that training mode changes nothing
but what a test turns on."""


class ModelFactory(Protocol):
    """Makes a config of one family; keywords are keys of `ModelConfig`."""

    def __call__(
        self, *, architecture: dict[str, Any] | None = None, **options: Any
    ) -> ModelConfig:
        """Returns a new config; `architecture` changes single entries of the family's."""
        ...


def build_tiny_config(
    family: str, *, architecture: dict[str, Any] | None = None, **options: Any
) -> ModelConfig:
    """Returns a new config of a tiny model.

    Args:
        family: Key of `TINY_ARCHITECTURES`.
        architecture: Entries to change or add.
        options: Keys of `ModelConfig`, such as `pooling="mean"`.
    """
    values: dict[str, Any] = {
        "name": f"tiny-{family}",
        "init": "random",
        "architecture": {**TINY_ARCHITECTURES[family], **(architecture or {})},
        "tokenizer": "bundled",
        "dtype": "float32",
    }
    return ModelConfig(**{**values, **options})


def tiny_model_factory(family: str) -> ModelFactory:
    """Returns `build_tiny_config` of one family."""
    return partial(build_tiny_config, family)
