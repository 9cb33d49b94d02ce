"""The sweep over layers gives what each `model.layer=K` gives alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tiny_models import ModelFactory

from embedllm.models.layer_vectors import encode_layers

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

SENTENCES = ["A man is riding a horse", "Rain falls", "", "Two dogs run through the snow"]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_every_layer_equals_the_shortened_model(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder, pooling: str
) -> None:
    layers = encode_layers(
        build_encoder(tiny_family(pooling=pooling)), SENTENCES, progress="layers"
    )
    assert len(layers) == 2
    for number, vectors in enumerate(layers, start=1):
        alone = build_encoder(tiny_family(layer=number, pooling=pooling)).encode(SENTENCES)
        assert vectors.shape == alone.shape
        assert np.abs(vectors - alone).max() <= 2e-5 * np.abs(alone).max()
    assert layers[0].shape != layers[1].shape or not np.allclose(layers[0], layers[1])
