"""The training step's engine: loss and every gradient are those of the plain padded forward."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ModelFactory
from torch import Tensor, nn

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapters import attach_adapter
from embedllm.models.backbone import load_trunk
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embed_rows import embed_rows
from embedllm.models.embedder import Embedder
from embedllm.models.prefix import common_prefix_length

TOLERANCE = 1e-5  # float32, relative to the largest entry of a gradient
NUM_ANCHORS = 4
# A template in front, as long as with a demonstration, and two tokens behind.
TEMPLATES = {
    "plain": [2, 90, 91, 92],
    "demonstration": [2, *range(90, 110)],
    "alike": [2, 90, 91, 92],
}
TEXTS = [[*range(start, start + 2 + start % 7)] for start in range(30, 30 + 3 * NUM_ANCHORS)]
# Many of these begin alike behind the template too, so they make a trie.
ALIKE = [[*range(30 + i % 2, 34 + i % 3), 40 + i, 41 + i] for i in range(3 * NUM_ANCHORS)]
NUM_PACKS_TOKENS = 60


def rows_of(template: str) -> list[list[int]]:
    texts = ALIKE if template == "alike" else TEXTS
    return [[*TEMPLATES[template], *text, 120, 121] for text in texts]


def build(model: ModelConfig, adapter: AdapterConfig, tmp_path: Path) -> Embedder:
    trunk = load_trunk(model, tmp_path, device=torch.device("cpu"))
    trunk = attach_adapter(trunk, adapter, seed=3)
    with torch.no_grad():
        # A new LoRA is the identity: its A would have no gradient.
        for name, parameter in trunk.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    return Embedder(trunk).train()


def lora(dropout: float = 0.0) -> AdapterConfig:
    options = {"r": 4, "lora_alpha": 8, "lora_dropout": dropout, "target_modules": "all-linear"}
    return AdapterConfig(method="lora", options=options)


def loss_of(vectors: Tensor) -> Tensor:
    owner = torch.arange(NUM_ANCHORS)
    loss: Tensor = InfoNCE(0.05, 0.0)(*vectors.split(NUM_ANCHORS), owner).loss
    return loss


def plain_vectors(embedder: Embedder, rows: list[list[int]]) -> Tensor:
    """What the library gives for one padded batch, with nothing of this project in between."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    hidden = embedder.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return torch.stack([states[len(row) - 1] for states, row in zip(hidden, rows, strict=True)])


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3, "the compared gradients are all zero"
    for name, gradient in expected.items():
        # Some are zero but for rounding: attention does not change with the bias of the keys.
        scale = max(float(gradient.abs().max()), 1e-2 * largest)
        assert float((found[name] - gradient).abs().max()) <= 10 * TOLERANCE * scale, name
    total = torch.cat([(found[n] - g).flatten() for n, g in expected.items()]).norm()
    assert total <= TOLERANCE * torch.cat([g.flatten() for g in expected.values()]).norm()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_and_gradients_equal_those_of_the_plain_forward(
    tiny_family: ModelFactory, template: str, method: str, tmp_path: Path
) -> None:
    adapter = lora() if method == "lora" else AdapterConfig(method="full")
    embedder = build(tiny_family(), adapter, tmp_path)
    rows = rows_of(template)
    assert embedder.can_share_prefix
    assert common_prefix_length(rows) == len(TEMPLATES[template])
    expected = loss_of(plain_vectors(embedder, rows))
    expected.backward()
    gradients = gradients_of(embedder)

    assert embedder.can_share_trie
    tries: list[bool] = []
    forward_trie = embedder.forward_trie

    def note(*inputs: Any, **options: Any) -> Tensor:
        tries.append(True)
        return forward_trie(*inputs, **options)

    embedder.forward_trie = note  # type: ignore[method-assign]

    def check(*, share: bool, recompute: bool) -> None:
        vectors = embed_rows(
            embedder, rows, max_tokens=NUM_PACKS_TOKENS, share_prefix=share, recompute=recompute
        )
        loss = loss_of(vectors)
        loss.backward()
        torch.testing.assert_close(loss, expected, atol=0, rtol=TOLERANCE)
        assert_equal_gradients(gradients_of(embedder), gradients)

    modes = list(product((False, True), repeat=2))
    for share, recompute in modes:
        check(share=share, recompute=recompute)
    checkpoint_layers(embedder.trunk)
    for share, recompute in modes:
        check(share=share, recompute=recompute)
    has_window = embedder.trie_window is not None and embedder.trie_window <= max(map(len, rows))
    if template == "alike":
        assert bool(tries) != has_window


@pytest.mark.parametrize("what", ["packs", "layers"])
def test_what_is_computed_again_draws_the_same_dropout(
    what: str, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    embedder = build(tiny_llama(), lora(dropout=0.5), tmp_path)
    found = []
    for again, seed in ((False, 1), (True, 1), (True, 2)):
        torch.manual_seed(seed)
        recompute = again and what == "packs"
        if again and what == "layers":
            checkpoint_layers(embedder.trunk)
        vectors = embed_rows(embedder, rows_of("plain"), max_tokens=40, recompute=recompute)
        loss = loss_of(vectors)
        loss.backward()
        found.append((loss.detach(), gradients_of(embedder)))
    (loss, gradients), (loss_again, gradients_again), (other_loss, _) = found
    assert torch.equal(loss, loss_again)
    assert loss != other_loss
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


def test_recomputing_keeps_no_states(tiny_llama: ModelFactory, tmp_path: Path) -> None:
    """What autograd keeps from the forward pass for the backward pass grows far less with rows."""
    embedder = build(tiny_llama(), lora(), tmp_path)

    def kept(num_copies: int, *, recompute: bool = False) -> int:
        tensors: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            embed_rows(
                embedder, rows_of("plain") * num_copies, max_tokens=60, recompute=recompute
            ).sum()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        return sum(storage.nbytes() for storage in storages.values())

    growth = kept(8) - kept(2)
    assert kept(8, recompute=True) - kept(2, recompute=True) < growth / 20
    checkpoint_layers(embedder.trunk)
    assert kept(8) - kept(2) < growth / 3


@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_changes_no_gradient_beyond_rounding(
    tiny_llama: ModelFactory, recompute: bool, tmp_path: Path
) -> None:
    """A cast weight that is cached without gradient would cut the graph: no gradient at all."""
    embedder = build(tiny_llama(), lora(), tmp_path)
    rows = rows_of("demonstration")
    loss_of(plain_vectors(embedder, rows)).backward()
    exact = gradients_of(embedder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            embed_rows(embedder, rows, max_tokens=60)
        vectors = embed_rows(embedder, rows, max_tokens=60, recompute=recompute)
        loss = loss_of(vectors)
    loss.backward()
    rough = gradients_of(embedder)
    assert rough.keys() == exact.keys()
    left = torch.cat([gradient.flatten() for gradient in rough.values()])
    right = torch.cat([exact[name].flatten() for name in rough])
    assert torch.cosine_similarity(left, right, dim=0) > 0.98
