"""Under which name and revision MTEB files our results, adapters, and the page about it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_mteb_tasks import (
    CPU,
    PROMPT,
    classification_task,
    our_score,
    recording_encoder,
    retrieval_task,
    sample_pairs,
    scores_of,
    sts_task,
    well_separated_pairs,
)
from tiny_models import build_tiny_config

from embedllm.config import AdapterConfig, PromptConfig
from embedllm.evaluation.mteb_adapter import MTEBEncoder
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import attach_adapter
from embedllm.models.loading import load_adapted_encoder, load_encoder

ROOT = Path(__file__).resolve().parents[2]
SCORE_TOLERANCE = 1e-6
OTHER_PROMPT = PromptConfig(template='"{sentence}" in short:"')
LORA = AdapterConfig(method="lora", options={"r": 2, "target_modules": "all-linear"})


@pytest.fixture
def mteb() -> Any:
    return pytest.importorskip("mteb", reason="mteb is not installed (embedllm[mteb])")


def test_metadata_says_what_is_known(mteb: Any, tmp_path: Path) -> None:
    model = build_tiny_config("opt_post_norm", name="some/tiny-opt")
    encoder = MTEBEncoder.from_config(model, PROMPT, cache_dir=tmp_path, device=CPU)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.adapted_from) == ("embedllm/tiny-opt", "some/tiny-opt")
    assert (meta.embed_dim, meta.max_tokens) == (16, 128)
    parameters = list(encoder.encoder.embedder.parameters())
    assert meta.n_parameters == sum(p.numel() for p in parameters) > 10_000
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20)
    assert meta.languages == ["eng-Latn"]
    assert meta.similarity_fn_name.value == "cosine"
    assert meta.loader_kwargs["prompt"]["template"] == PROMPT.template
    assert meta.loader_kwargs["dtype"] == "float32"
    assert re.fullmatch(r"[0-9a-f]{16}", meta.revision)


def test_the_revision_tells_apart_what_gives_other_vectors(mteb: Any, tmp_path: Path) -> None:
    def revision(prompt: PromptConfig = PROMPT, **options: Any) -> str:
        return str(recording_encoder(tmp_path, prompt, **options).mteb_model_meta.revision)

    variants = [
        revision(),
        revision(OTHER_PROMPT),
        revision(replace(PROMPT, clean_up="none")),
        revision(replace(PROMPT, evaluation_max_sentence_tokens=8)),
        revision(pooling="mean"),
        revision(layer=1),
        revision(normalize=True),
        revision(dtype="bfloat16"),
        revision(init_seed=1),
    ]
    assert len(set(variants)) == len(variants)
    assert revision() == variants[0]


def test_another_prompt_never_gets_the_cached_result(mteb: Any, tmp_path: Path) -> None:
    pairs = sample_pairs()
    cache = mteb.ResultCache(tmp_path / "results")

    def evaluate(prompt: PromptConfig) -> tuple[float, bool]:
        encoder = recording_encoder(tmp_path, prompt)
        result = mteb.evaluate(encoder, sts_task(pairs), cache=cache, co2_tracker=False)
        return result.task_results[0].get_score(), bool(encoder.calls)

    score, was_encoded = evaluate(PROMPT)
    other_score, other_was_encoded = evaluate(OTHER_PROMPT)
    assert was_encoded
    assert other_was_encoded
    assert abs(score - other_score) > 1e-3
    # MTEB's files keep six decimals.
    assert evaluate(PROMPT) == (pytest.approx(score, abs=1e-6), False)
    assert evaluate(OTHER_PROMPT) == (pytest.approx(other_score, abs=1e-6), False)


def save_tiny_adapter(tmp_path: Path, folder: Path, *, seed: int = 1) -> None:
    """Writes an adapter with made-up training."""
    model = build_tiny_config("opt")
    encoder = load_encoder(model, PROMPT, tmp_path, device=CPU)
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, LORA, seed=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(folder, encoder, model=model, prompt=PROMPT, adapter=LORA, training={})


def test_an_adapter_comes_with_its_prompt_and_its_own_revision(mteb: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "first" / "adapter", tmp_path / "first" / "candidates" / "step-000016"]
    for seed, folder in enumerate(folders):
        save_tiny_adapter(tmp_path, folder, seed=seed)
    first, second = (
        MTEBEncoder.from_adapter(folder, cache_dir=tmp_path, device=CPU) for folder in folders
    )
    base = recording_encoder(tmp_path)
    assert first.name == "embedllm/first"
    assert second.name == "embedllm/step-000016"
    assert len({e.mteb_model_meta.revision for e in (first, second, base)}) == 3
    assert first.mteb_model_meta.adapted_from == "tiny-opt"
    assert first.mteb_model_meta.loader_kwargs["adapter"]["method"] == "lora"
    loaded = load_adapted_encoder(folders[0], tmp_path, device=CPU)
    pairs = well_separated_pairs(loaded)
    ours = our_score(loaded, pairs)
    assert scores_of(first, sts_task(pairs))["main_score"] == pytest.approx(
        ours, abs=SCORE_TOLERANCE
    )
    assert abs(scores_of(base, sts_task(pairs))["main_score"] - ours) > 1e-3


def test_the_snippets_of_the_page_run(
    mteb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's Python, with tiny models at its names and made-up data in MTEB's tasks."""
    page = (ROOT / "docs" / "mteb.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) == 3
    save_tiny_adapter(tmp_path, tmp_path / "outputs" / "first" / "adapter")
    base = load_encoder(build_tiny_config("opt"), PROMPT, tmp_path, device=CPU)
    base.embedder.trunk.save_pretrained(tmp_path / "facebook" / "opt-125m")  # type: ignore[operator]
    base.tokenizer.save_pretrained(tmp_path / "facebook" / "opt-125m")
    sentences = sample_pairs().sentence1
    texts = {"text": sentences[:40], "label": [i % 2 for i in range(40)]}
    local = {
        "STS12": sts_task(sample_pairs()),
        "Banking77Classification": classification_task(texts, texts),
        "NFCorpus": retrieval_task(
            {"q": "A man."}, {"d": ("T", "A dog."), "e": ("", "Rain.")}, {"q": {"e": 1}}
        ),
    }
    get_tasks = mteb.get_tasks

    def get_local_tasks(**options: Any) -> list[Any]:
        # MTEB knows the names that the page gives; only the data are replaced.
        return [local[task.metadata.name] for task in get_tasks(**options)]

    monkeypatch.setattr(mteb, "get_tasks", get_local_tasks)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, "mteb.md", "exec"), names)
    assert set(names["scores"]) == set(local)
    assert all(math.isfinite(score) for score in names["scores"].values())
    assert names["own"] in (-1.0, -0.5, 0.5, 1.0)
    assert names["model"].name == "embedllm/opt-125m"
    assert len(list((tmp_path / "outputs" / "mteb").rglob("STS12.json"))) == 1
