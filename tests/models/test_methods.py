"""What came after the paper, each against a plain computation of its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_models import ModelFactory, build_tiny_config
from transformers import AutoModel

from embedllm.errors import ConfigError
from embedllm.models.backbone import decoder_layers
from embedllm.models.encoder import SentenceEncoder
from embedllm.prompts.template import parse_template

if TYPE_CHECKING:
    from encoder_builder import EncoderBuilder

TOLERANCE = 2e-5  # float32, relative to the largest entry
SENTENCES = [
    "A man is riding a horse",
    "Rain falls",
    "Two children are playing football on the beach",
    "She is slicing an onion, isn't she?",
    "A man is",
]
ECHO = "Say again: {sentence}, again: {sentence}. Done"
PREPENDED = 'This sentence : {prepended}"{sentence}" means in one word:"'


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def hidden_states(encoder: SentenceEncoder, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        trunk = encoder.embedder.trunk
        return trunk(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def test_more_templates_give_the_mean(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    templates = ['One: "{sentence}"', '"{sentence}" in one word:"', "So {sentence}"]
    both = build_encoder(tiny_opt(), templates[0], more_templates=templates[1:])
    single = [build_encoder(tiny_opt(), template).encode(SENTENCES) for template in templates]
    assert not np.allclose(single[0], single[1])
    assert_close(both.encode(SENTENCES), np.mean(single, axis=0))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_echo_pools_over_the_second_copy(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder, pooling: str
) -> None:
    encoder = build_encoder(
        tiny_family(pooling=pooling), ECHO, pool_over="sentence", clean_up="none"
    )
    expected = []
    for sentence in SENTENCES:
        (ids,) = encoder.token_ids([sentence])
        text = parse_template(ECHO)
        start = len(text[0]) + len(sentence) + len(text[1])
        offsets = encoder.tokenizer(
            sentence.join(text), add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        num_head = len(ids) - len(offsets)
        second = [
            num_head + i
            for i, (first, last) in enumerate(offsets)
            if last > start and first < start + len(sentence)
        ]
        states = hidden_states(encoder, ids)[second]
        expected.append((states.mean(dim=0) if pooling == "mean" else states[-1]).numpy())
    assert_close(encoder.encode(SENTENCES), np.stack(expected))
    encoder.share_prefix = False
    assert_close(encoder.encode(SENTENCES), np.stack(expected))


def test_an_empty_sentence_is_read_at_the_end_of_the_prompt(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    encoder = build_encoder(tiny_opt(pooling="mean"), ECHO, pool_over="sentence", clean_up="none")
    (ids,) = encoder.token_ids([""])
    assert_close(encoder.encode([""])[0], hidden_states(encoder, ids)[-1].numpy())


def prepend_by_hand(model: Any, ids: list[int], position: int, num_layers: int) -> np.ndarray:
    """Runs the layers of a LLaMA one by one and copies the last state to the placeholder."""
    trunk = AutoModel.from_config(model).eval() if not isinstance(model, torch.nn.Module) else model
    with torch.inference_mode():
        tokens = torch.tensor([ids])
        positions = torch.arange(len(ids)).unsqueeze(0)
        hidden = trunk.embed_tokens(tokens)
        rotary = trunk.rotary_emb(hidden, position_ids=positions)
        blocked = torch.full((len(ids), len(ids)), float("-inf")).triu(1)[None, None]
        for i, layer in enumerate(trunk.layers):
            if 1 <= i <= num_layers:
                hidden = hidden.clone()
                hidden[:, position] = hidden[:, -1]
            output = layer(
                hidden,
                attention_mask=blocked,
                position_ids=positions,
                position_embeddings=rotary,
            )
            hidden = output[0] if isinstance(output, tuple) else output
        return trunk.norm(hidden)[0, -1].numpy()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_token_prepending_equals_the_layers_run_by_hand(
    build_encoder: EncoderBuilder, num_layers: int
) -> None:
    model = build_tiny_config(
        "llama",
        architecture={"num_hidden_layers": 4},
        token_prepending_layers=num_layers,
    )
    encoder = build_encoder(model, PREPENDED)
    rows = encoder.token_ids(SENTENCES)
    eos = encoder.tokenizer.eos_token_id
    position = rows[0].index(eos, 1)
    expected = [prepend_by_hand(_without_hooks(encoder), ids, position, num_layers) for ids in rows]
    assert_close(encoder.encode(SENTENCES), np.stack(expected))


def _without_hooks(encoder: SentenceEncoder) -> torch.nn.Module:
    """Returns a trunk of the same weights that no hook touches."""
    trunk = encoder.embedder.trunk
    other = type(trunk)(trunk.config).eval()
    other.load_state_dict(trunk.state_dict())
    return other


def test_token_prepending_works_in_every_family(
    tiny_family: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    plain = build_encoder(tiny_family(), 'This sentence : "{sentence}" means in one word:"')
    encoder = build_encoder(tiny_family(token_prepending_layers=1), PREPENDED)
    vectors = encoder.encode(SENTENCES)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors - plain.encode(SENTENCES)).max() > 1e-3
    alone = np.concatenate([encoder.encode([sentence]) for sentence in SENTENCES])
    assert_close(vectors, alone)
    assert len(decoder_layers(encoder.embedder.trunk)[2][1]._forward_pre_hooks) == 1


def test_a_placeholder_and_its_layers_need_one_another(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    with pytest.raises(ConfigError, match="prompt=token-prepending"):
        build_encoder(tiny_opt(token_prepending_layers=1))
    with pytest.raises(ConfigError, match="method=token-prepending"):
        build_encoder(tiny_opt(), PREPENDED)


@pytest.mark.parametrize("template", ["{sentence} {prepended}", "{prepended}{prepended}{sentence}"])
def test_the_placeholder_stands_once_before_the_sentence(template: str) -> None:
    with pytest.raises(ConfigError, match="once and before"):
        parse_template(template)


def test_the_placeholder_stands_behind_the_demonstrations(
    tiny_opt: ModelFactory, build_encoder: EncoderBuilder
) -> None:
    from embedllm.config import DemonstrationConfig

    demonstrations = [DemonstrationConfig(sentence="Snow falls.", word="Winter")]
    encoder = build_encoder(
        tiny_opt(token_prepending_layers=1), PREPENDED, demonstrations=demonstrations
    )
    (ids,) = encoder.token_ids(["Rain falls"])
    eos = encoder.tokenizer.eos_token_id
    assert [i for i, token in enumerate(ids) if token == eos] == [0, ids.index(eos, 1)]
    assert encoder.tokenizer.decode(ids[1 : ids.index(eos, 1)]) == (
        'This sentence : "Snow falls." means in one word:"Winter".This sentence : '
    )
    assert encoder.tokenizer.decode(ids[ids.index(eos, 1) + 1 :]) == (
        '"Rain falls." means in one word:"'
    )
