"""Adapter folders of tiny models, as training would leave them, and their export."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import build_tiny_config

from embedllm.config import AdapterConfig, ExportConfig, ModelConfig, PathsConfig, PromptConfig
from embedllm.export.command import run_export
from embedllm.export.source import open_source
from embedllm.export.write import write_export
from embedllm.invocation import Invocation
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer

CPU = torch.device("cpu")
TEMPLATE = 'This sentence : "{sentence}" means in one word:"'
PROMPT = PromptConfig(template=TEMPLATE)
LORA = AdapterConfig(
    method="lora",
    options={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
)
TEXTS = [
    "A man is riding a horse.",
    'She asked "why?" and left',
    "Is it raining?",
    "It's a line\nand\tanother  one\u3000here",
    "",
    "Rain!",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \uff01 \U0001f600\U0001f468\u200d\U0001f469",
    "</s> <pad> {sentence} {{ s }} {% if %}",
    "a long text of many words " * 30,
    "long, with \U0001f600\U0001f600\U0001f600" * 30,
]


def family_config(family: str, folder: Path, **options: Any) -> ModelConfig:
    """Returns a tiny model whose tokenizer transformers finds again from the model's own files.

    To a Qwen2 model it gives a tokenizer of Qwen2's kind, whatever is saved beside it.
    """
    if family != "qwen2":
        return build_tiny_config(family, **options)
    from transformers import CONFIG_MAPPING, AutoTokenizer

    place = folder / "tokenizer"
    build_bundled_tokenizer().save_pretrained(place)
    CONFIG_MAPPING[family]().save_pretrained(place)
    AutoTokenizer.from_pretrained(place).save_pretrained(place)
    return build_tiny_config(
        family, architecture={"vocab_size": 704}, tokenizer=str(place), **options
    )


def save_tiny_adapter(
    folder: Path,
    model: ModelConfig | str,
    *,
    adapter: AdapterConfig = LORA,
    prompt: PromptConfig = PROMPT,
    noise: float = 0.1,
    training: dict[str, Any] | None = None,
) -> Path:
    """Writes an adapter whose random weights move every vector, and returns its folder."""
    if isinstance(model, str):
        model = family_config(model, folder.parent)
    encoder = load_encoder(model, prompt, folder.parent / "cache", device=CPU)
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, adapter, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    facts = training or {"step": 20, "seed": 42, "data": {"source": "sample"}}
    save_adapter(folder, encoder, model=model, prompt=prompt, adapter=adapter, training=facts)
    return folder


def export_config(adapter: Path, output: Path, **options: Any) -> ExportConfig:
    paths = PathsConfig(
        output_dir=str(output.parent),
        results_dir=str(output.parent / "store"),
        cache_dir=str(output.parent / "cache"),
    )
    return ExportConfig(adapter_path=str(adapter), output=str(output), paths=paths, **options)


def export(adapter: Path, output: Path, **options: Any) -> Path:
    """Exports in this process."""
    config = export_config(adapter, output, **options)
    return write_export(config, open_source(config.adapter_path, config.dtype))


def run_in_process(config: ExportConfig) -> None:
    """Runs the whole command in this process."""
    run_export(config, Invocation([], Path(), conf_dir=Path(), choices={}))


def our_encoder(adapter: Path, **options: Any) -> SentenceEncoder:
    """Returns the adapter as embedllm loads it, not merged."""
    return SentenceEncoder.load(
        adapter, device="cpu", dtype="float32", cache_dir=adapter.parent / "cache", **options
    )


def snippets_of(text: str) -> list[str]:
    """Returns the Python of a page or card, block by block."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_snippet(snippet: str) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Runs Python of a page or card; returns its list of texts, their vectors and all its names."""
    names: dict[str, Any] = {}
    exec(compile(snippet, "snippet", "exec"), names)
    lists = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.List)]
    [texts] = [
        [part.value for part in node.elts if isinstance(part, ast.Constant)]
        for node in lists
        if node.elts and all(isinstance(getattr(part, "value", None), str) for part in node.elts)
    ]
    return texts, np.stack([np.asarray(vector) for vector in names["vectors"]]), names
