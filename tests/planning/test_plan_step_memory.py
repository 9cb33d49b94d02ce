"""The estimate of a step against the same step on real tensors, and against deeper models."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_configs import MIB
from tiny_models import ModelFactory, build_tiny_config
from tiny_runs import compose_train
from torch import nn

from embedllm.config import AdapterConfig, TrainConfig
from embedllm.models.adapters import attach_adapter
from embedllm.models.backbone import load_trunk
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embed_rows import embed_packs, embed_prefix
from embedllm.models.embedder import Embedder
from embedllm.models.token_draws import TokenDraws
from embedllm.planning import fake_model, step_memory
from embedllm.planning.live_memory import LiveMemory
from embedllm.planning.planner import find_estimator
from embedllm.planning.step_memory import StepEstimator, StepMemory
from embedllm.planning.workload import PackShape, Workload

CPU = torch.device("cpu")
LORA = AdapterConfig("lora", {"r": 8, "lora_dropout": 0.1, "target_modules": "all-linear"})
FULL = AdapterConfig("full")
OTHER_ADAPTERS = {
    "dora": AdapterConfig("lora", {**LORA.options, "use_dora": True}),
    "ia3": AdapterConfig("ia3"),
    "vera": AdapterConfig("vera", {"r": 16, "target_modules": ["q_proj"]}),
}
MODES = ("none", "packs", "layers", "all")


def workload(num_packs: int = 2, *, rows: int = 8, width: int = 24, prefix: int = 6) -> Workload:
    num_texts = num_packs * rows
    return Workload(
        packs=(PackShape(rows, width, rows),) * num_packs,
        prefix_tokens=prefix,
        num_anchors=num_texts // 3,
        num_candidates=num_texts - num_texts // 3,
        num_texts=num_texts,
        text_tokens=num_texts * (prefix + width),
    )


def tiny_train_config(family: str, adapter: AdapterConfig, **trainer: Any) -> TrainConfig:
    config = compose_train("debug=tiny")
    # Wide enough for states to outweigh masks and other small things.
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "dropout": 0.1}
    if family == "opt":
        shape |= {"word_embed_proj_dim": 64, "ffn_dim": 256}
    else:
        shape = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 256}
    model = build_tiny_config(family, architecture=shape)
    return replace(config, model=model, adapter=adapter, trainer=replace(config.trainer, **trainer))


def estimate(
    config: TrainConfig, work: Workload, *, kind: str = "cpu", **options: Any
) -> StepMemory:
    return find_estimator(config, kind=kind).estimate(work, **options)


def measure(config: TrainConfig, work: Workload, *, checkpointing: str, folder: Path) -> int:
    """Returns the largest sum of living tensors of a real step, its gradients among them."""
    trunk = attach_adapter(load_trunk(config.model, folder, device=CPU), config.adapter, seed=0)
    embedder = Embedder(trunk)
    # Found by trying before anything is watched, as a first step would.
    assert embedder.can_read_early is (config.model.architecture["model_type"] != "gpt2")
    embedder.draw_by_token()
    if checkpointing in ("layers", "all"):
        checkpoint_layers(trunk)
    embedder.train()
    packs = [shape.build() for shape in work.packs]
    trained = [p for p in embedder.parameters() if p.requires_grad]
    gc.collect()
    # What the estimate for a CPU leaves out too.
    with LiveMemory([torch.ops.aten.embedding_dense_backward.default]) as live:
        live.ignore(*embedder.parameters(), *embedder.buffers())
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision != "32-true"):
            ids = torch.zeros(work.prefix_tokens, dtype=torch.long)
            prefix, draws = embed_prefix(embedder, ids, TokenDraws.new(CPU))
            recompute = checkpointing in ("packs", "all")
            vectors = embed_packs(embedder, packs, prefix, recompute=recompute, draws=draws)
        for parameter in trained:
            parameter.grad = None
        (vectors * vectors).sum().backward()
        peak = max(peak.everything for peak in live.peaks.values())
    if recompute and len(packs) > 1:
        # Adding the gradient of a second pack writes the whole table.
        tables = [m.weight for m in trunk.modules() if isinstance(m, nn.Embedding)]
        peak += sum(4 * table.numel() for table in tables if table.requires_grad)
    return peak


@pytest.mark.parametrize(
    ("family", "adapter", "checkpointing"),
    [
        *(("opt", LORA, mode) for mode in MODES),
        ("opt", FULL, "none"),
        ("opt", FULL, "packs"),
        ("llama", LORA, "none"),
        ("llama", FULL, "all"),
    ],
)
def test_fake_steps_take_what_real_ones_take(
    family: str, adapter: AdapterConfig, checkpointing: str, tmp_path: Path
) -> None:
    config, work = tiny_train_config(family, adapter), workload()
    real = measure(config, work, checkpointing=checkpointing, folder=tmp_path)
    assert real > MIB // 2
    found = estimate(config, work, checkpointing=checkpointing)
    assert found.peak == pytest.approx(real, rel=0.02)


def test_every_family_and_one_whose_last_layer_runs_whole(
    tiny_family: ModelFactory, tmp_path: Path
) -> None:
    lora = AdapterConfig("lora", {"r": 8})
    config = replace(tiny_train_config("opt", lora), model=tiny_family())
    real = measure(config, workload(), checkpointing="none", folder=tmp_path)
    assert estimate(config, workload()).peak == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("adapter", OTHER_ADAPTERS.values(), ids=list(OTHER_ADAPTERS))
def test_other_adapters(adapter: AdapterConfig, tmp_path: Path) -> None:
    config, work = tiny_train_config("opt", adapter), workload()
    real = measure(config, work, checkpointing="none", folder=tmp_path)
    assert estimate(config, work).peak == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_precision_too(dtype: str, tmp_path: Path) -> None:
    config = tiny_train_config("opt", LORA, precision="bf16-mixed")
    config = replace(config, model=replace(config.model, dtype=dtype))
    work = workload()
    real = measure(config, work, checkpointing="none", folder=tmp_path)
    assert estimate(config, work).peak == pytest.approx(real, rel=0.02)


def deepened(config: TrainConfig, num_layers: int) -> TrainConfig:
    architecture = {**config.model.architecture, "num_hidden_layers": num_layers}
    return replace(config, model=replace(config.model, architecture=architecture))


@pytest.mark.parametrize(
    ("adapter", "checkpointing"),
    [(LORA, "none"), (LORA, "all"), (FULL, "layers"), (FULL, "packs")],
)
def test_few_layers_tell_what_many_take(
    adapter: AdapterConfig, checkpointing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, work = deepened(tiny_train_config("opt", adapter), 6), workload()
    drawn = estimate(config, work, checkpointing=checkpointing)
    monkeypatch.setattr(fake_model, "_MOST_LAYERS", 6)
    whole = StepEstimator(config, kind="cpu").estimate(work, checkpointing=checkpointing)
    assert drawn.peak == pytest.approx(whole.peak, rel=0.01)
    assert drawn.peak_without_gradients == pytest.approx(whole.peak_without_gradients, rel=0.01)
    assert drawn.kept == pytest.approx(whole.kept, rel=0.01)


@pytest.mark.parametrize("checkpointing", ["none", "packs"])
def test_one_pack_tells_what_many_take(checkpointing: str, tmp_path: Path) -> None:
    config, work = tiny_train_config("opt", LORA), workload(6)
    real = measure(config, work, checkpointing=checkpointing, folder=tmp_path)
    assert estimate(config, work, checkpointing=checkpointing).peak == pytest.approx(real, rel=0.02)


def test_hashes_that_are_left_out_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config, work = tiny_train_config("opt", LORA), workload()
    found = estimate(config, work)
    asked = []
    monkeypatch.setattr(step_memory, "bare_hashes", lambda: nullcontext(asked.append(True)))
    assert StepEstimator(config, kind="cpu").estimate(work) == found
    assert asked


def test_memory_by_checkpointing() -> None:
    config = tiny_train_config("opt", LORA)
    few, more = (
        {mode: estimate(config, workload(n), checkpointing=mode) for mode in MODES} for n in (8, 16)
    )
    assert few["none"].kept > 4 * few["layers"].kept > few["packs"].kept
    assert few["none"].peak > few["packs"].peak > few["all"].peak
    assert more["none"].peak > 1.8 * few["none"].peak
    # The point of packs: vectors and little else.
    assert more["packs"].peak < 1.1 * few["packs"].peak
    assert more["all"].peak < 1.2 * few["all"].peak


def test_gradients_that_are_handed_over() -> None:
    config = deepened(tiny_train_config("opt", FULL), 12)
    small = workload(1, rows=2)
    found = estimate(config, small)
    gradients = 4 * 12 * (12 * 64 * 64)
    assert found.peak - found.peak_without_gradients > 0.8 * gradients


def test_a_gpu_keeps_bytes_where_a_cpu_keeps_factors() -> None:
    config, work = tiny_train_config("opt", LORA), workload()
    on_cpu, on_gpu = (estimate(config, work, kind=kind).kept for kind in ("cpu", "cuda"))
    assert on_gpu < 0.95 * on_cpu


def test_quantised_layers_make_their_matrices_anew() -> None:
    config, work = tiny_train_config("opt", LORA), workload(1, rows=2, width=8, prefix=0)
    plain, nf4, int8 = (estimate(config, work, quantization=q) for q in ("none", "nf4", "int8"))
    largest = 4 * 64 * 256
    assert nf4.kept == int8.kept == plain.kept
    assert 0.5 * largest < nf4.peak - plain.peak < 2.5 * largest
    packs = {
        q: estimate(config, work, quantization=q, checkpointing="packs") for q in ("none", "nf4")
    }
    assert packs["nf4"].peak - packs["none"].peak == pytest.approx(nf4.peak - plain.peak, rel=0.5)
    nf4, int8 = (estimate(config, work, kind="cuda", quantization=q) for q in ("nf4", "int8"))
    # The inputs of the output and second feed-forward matrices, which nothing else keeps, and in
    # the last layer at one place of each row.
    assert int8.kept - nf4.kept > 3 * 4 * 16 * 64


def test_accumulated_batches_keep_their_gradients() -> None:
    # Little to compute: gradients are what counts.
    config = tiny_train_config("opt", FULL)
    work = workload(1, rows=1, width=4)
    once, twice = (estimate(config, replace(work, num_batches=n)) for n in (1, 2))
    assert twice.peak > once.peak


def test_living_tensors_are_counted_once_and_forgotten() -> None:
    known = torch.zeros(1000)
    with LiveMemory() as live:
        live.ignore(known)
        view = known.view(10, 100) + 0.0
        assert live.live == 4000
        half = view[:5]
        assert live.live == 4000
        live.set_aside(view)
        live.enter((1, "later"))
        other = nn.Parameter(torch.ones(500))
        assert live.live == 6000
        del view, half
        assert live.live == 2000
        del other
    assert live.live == 0
    assert live.peaks[0, "start"].everything == 4000
    assert (live.peaks[1, "later"].everything, live.peaks[1, "later"].without_kept) == (6000, 2000)
