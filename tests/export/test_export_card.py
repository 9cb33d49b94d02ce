"""The model card: what it says, what it must not say, and its snippets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_adapters import (
    PROMPT,
    TEXTS,
    export,
    our_encoder,
    run_snippet,
    save_tiny_adapter,
    snippets_of,
)

from embedllm.config import AdapterConfig, ModelConfig, PromptConfig
from embedllm.export.places import is_local, public_name, without_places
from embedllm.export.write import relative_distance

TOLERANCE = 1e-5
AWKWARD = PromptConfig(template='`This` | ``sentence`` : "{sentence}" means in \\ one word:"')


def test_the_card_says_what_it_is(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = export(run, tmp_path / "out", license="apache-2.0")
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "sentence-transformers"
    assert {"sentence-similarity", "embedllm"} <= set(data["tags"])
    after = json.loads((run / "results" / "after.json").read_text())["tasks"]
    before = json.loads((run / "results" / "before.json").read_text())["tasks"]
    assert after
    for name, task in after.items():
        line = next(text for text in card.text.splitlines() if text.startswith(f"| {name} |"))
        assert f"{task['score']:.2f} | {task['protocol']}" in line
        assert f"{before[name]['score']:.2f}" in line
    values = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert values == {name: pytest.approx(task["score"], abs=0.006) for name, task in after.items()}
    assert 'This sentence : "{sentence}" means in one word:"' in card.text
    assert "| learning rate |" in card.text
    assert str(run) not in card.text


def test_a_run_without_the_first_evaluation_has_scores(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "adapter", tmp_path / "run" / "adapter")
    (tmp_path / "run" / "results").mkdir()
    shutil.copy(run / "results" / "after.json", tmp_path / "run" / "results")
    folder = export(tmp_path / "run", tmp_path / "out", format="merged")
    text = (folder / "README.md").read_text()
    after = json.loads((run / "results" / "after.json").read_text())["tasks"]
    assert after
    for name, task in after.items():
        assert f"| {name} | {task['score']:.2f} | {task['protocol']} |" in text
    assert "before" not in text


def test_scores_of_another_adapter_are_left_out(run: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(run / "results")
    folder = export(adapter, tmp_path / "out", format="merged")
    assert "was not evaluated" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["merged", "sentence-transformers"])
def test_the_snippets_of_the_card_give_our_vectors(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_tiny_adapter(tmp_path / "adapter", "opt", prompt=AWKWARD)
    folder = export(adapter, tmp_path / 'an "export"', format=kind)
    monkeypatch.chdir(tmp_path)
    ours = our_encoder(adapter)
    snippets = snippets_of((folder / "README.md").read_text(encoding="utf-8"))
    assert len(snippets) == (3 if kind == "sentence-transformers" else 2)
    for snippet in snippets:
        texts, vectors, names = run_snippet(snippet)
        assert len(texts) == 2
        assert relative_distance(vectors, ours.encode(texts)) < TOLERANCE
    with torch.inference_mode():
        found = torch.stack([names["embed"](text) for text in TEXTS[:-2]]).numpy()
    assert relative_distance(found, ours.encode(TEXTS[:-2])) < TOLERANCE


def test_the_prompt_stays_in_its_cell(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    adapter = save_tiny_adapter(tmp_path / "adapter", "opt", prompt=AWKWARD)
    folder = export(adapter, tmp_path / "out", format="merged")
    text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    rows = [
        token.children
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        if token.type == "inline"
    ]
    at = next(i for i, row in enumerate(rows) if row and row[0].content == "prompt")
    [code] = rows[at + 1] or []
    assert (code.type, code.content) == ("code_inline", AWKWARD.template)


def test_what_the_snippet_does_not_do_is_said(tmp_path: Path) -> None:
    cut = PromptConfig(template=PROMPT.template, evaluation_max_sentence_tokens=4)
    adapter = save_tiny_adapter(tmp_path / "cut" / "adapter", "opt", prompt=cut)
    text = (export(adapter, tmp_path / "cut" / "out") / "README.md").read_text()
    assert "sentences of more than 4 tokens and prompts of more than the model's 128" in text
    part = PromptConfig(template=PROMPT.template, pool_over="sentence")
    adapter = save_tiny_adapter(tmp_path / "part" / "adapter", "opt", prompt=part)
    folder = export(adapter, tmp_path / "part" / "out", format="merged")
    assert len(snippets_of((folder / "README.md").read_text())) == 1


# What is no business of others


@pytest.mark.parametrize("kind", ["merged", "sentence-transformers"])
def test_no_file_names_a_path_of_this_machine(kind: str, tmp_path: Path) -> None:
    full = AdapterConfig(method="full")
    base = save_tiny_adapter(tmp_path / "secret" / "adapter", "opt", adapter=full)
    model = ModelConfig(name=str(base), tokenizer=str(base))
    data = {"source": "path", "path": str(tmp_path / "secret" / "pairs.csv")}
    adapter = save_tiny_adapter(
        tmp_path / "run" / "adapter", model, training={"step": 1, "data": data}
    )
    assert str(tmp_path) in (adapter / "embedllm.json").read_text()
    folder = export(adapter, tmp_path / "out", format=kind)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    saved = json.loads((folder / "embedllm.json").read_text())
    assert saved["training"]["data"]["path"] == "pairs.csv"
    assert saved["model"]["name"] == "adapter"


def test_what_a_name_means_does_not_depend_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("project/my/texts", "project/models/llm", "project/outputs/run/adapter", "else"):
        (tmp_path / folder).mkdir(parents=True)
    adapter = tmp_path / "project" / "outputs" / "run" / "adapter"
    monkeypatch.chdir(tmp_path / "else")
    for name in ("my/pairs.csv", "my/texts", "models/llm", "./x", "~/x", "/data/x", "a/b/c"):
        assert is_local(name, adapter), name
        assert public_name(name, adapter) is None
    assert public_name("org/data", adapter) == "org/data"
    values = {"list": ["my/texts", "org/data"], "rate": 0.1, "schedule": "linear/decay"}
    expected = {"list": ["texts", "org/data"], "rate": 0.1, "schedule": "linear/decay"}
    assert without_places(values, adapter) == expected


def test_the_card_names_what_is_on_the_hub(tmp_path: Path) -> None:
    found = {}
    for path in ("org/pairs", "my/pairs.csv"):
        training = {"data": {"source": "path", "path": path}}
        place = tmp_path / path.replace("/", "-")
        adapter = save_tiny_adapter(place / "adapter", "opt", training=training)
        folder = export(adapter, place / "out", format="merged")
        found[path] = (folder / "README.md").read_text()
    assert "datasets:\n- org/pairs\n" in found["org/pairs"]
    assert "datasets:" not in found["my/pairs.csv"]
    assert "| data | pairs.csv |" in found["my/pairs.csv"]
