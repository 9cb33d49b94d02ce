"""`from embedllm import SentenceEncoder`: what `load` accepts and `encode` returns."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_config
from tiny_runs import train_tiny

from embedllm import SentenceEncoder, progress
from embedllm.config import PromptConfig
from embedllm.config.options import CONF_DIR, option_names, read_option
from embedllm.errors import AdapterError, ConfigError, DataError, ModelError
from embedllm.models.loading import load_adapted_encoder, load_encoder

PAGE = CONF_DIR.parent / "docs" / "python.md"
SENTENCES = ["A man is riding a horse.", 'He said "no", didn\'t he?', "", "Rain"]
# Other packs, other sums.
TOLERANCE = 1e-5
CPU = torch.device("cpu")
TEMPLATE = 'This sentence : "{sentence}" means in one word:"'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a short training."""
    folder = tmp_path_factory.mktemp("outputs")
    train_tiny(folder, "evaluation=none", "trainer.max_steps=2")
    return folder / "run"


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return SentenceEncoder.load("tiny", cache_dir=tmp_path)


def test_a_run_and_its_adapter_give_the_trained_vectors(run: Path, tmp_path: Path) -> None:
    expected = load_adapted_encoder(run / "adapter", tmp_path, device=CPU).encode(SENTENCES)
    for path in (run, run / "adapter", str(run / "adapter")):
        found = SentenceEncoder.load(path, device="cpu", cache_dir=tmp_path).encode(SENTENCES)
        np.testing.assert_array_equal(found, expected)
    untrained = SentenceEncoder.load("tiny", cache_dir=tmp_path).encode(SENTENCES)
    assert np.abs(untrained - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "config"),
    [
        (None, PromptConfig(template=TEMPLATE)),
        ("plain", PromptConfig(template='This sentence : "{sentence}" means')),
        ('A "{sentence}" is: "', PromptConfig(template='A "{sentence}" is: "')),
        (PromptConfig(template="{sentence}!", clean_up="none"),) * 2,
    ],
)
def test_a_named_model_takes_a_prompt(tmp_path: Path, prompt: Any, config: PromptConfig) -> None:
    encoder = SentenceEncoder.load("tiny", prompt=prompt, cache_dir=tmp_path)
    model = build_tiny_config("opt", architecture={"max_position_embeddings": 256})
    expected = load_encoder(model, config, tmp_path, device=CPU)
    assert encoder.token_ids(SENTENCES) == expected.token_ids(SENTENCES)


def test_a_model_folder_loads_as_it_is(tmp_path: Path) -> None:
    from embedllm.models.backbone import load_language_model, load_tokenizer

    model = build_tiny_config("llama")
    load_language_model(model, tmp_path, device=CPU).save_pretrained(tmp_path / "model")
    load_tokenizer(model, tmp_path).save_pretrained(tmp_path / "model")
    encoder = SentenceEncoder.load(tmp_path / "model", pooling="mean", tokens_per_batch=64)
    assert (encoder.embedder.pooling, encoder.tokens_per_batch) == ("mean", 64)
    expected = load_encoder(
        build_tiny_config("llama", pooling="mean"),
        PromptConfig(template=TEMPLATE),
        tmp_path,
        device=CPU,
    ).encode(SENTENCES)
    np.testing.assert_allclose(encoder.encode(SENTENCES), expected, atol=TOLERANCE)


def test_dtype_is_chosen_on_loading(run: Path, tmp_path: Path) -> None:
    assert SentenceEncoder.load(run, dtype="bfloat16", cache_dir=tmp_path).dtype == "bfloat16"
    assert SentenceEncoder.load(run, quantization="int8", cache_dir=tmp_path).dtype.startswith(
        "int8"
    )


def test_forms_of_the_result(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(SENTENCES)
    assert (vectors.shape, vectors.dtype) == ((4, 32), np.float32)
    one = encoder.encode(SENTENCES[0])
    np.testing.assert_allclose(one, vectors[0], atol=TOLERANCE)
    tensor = encoder.encode(SENTENCES, as_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert torch.equal(tensor, torch.from_numpy(vectors))
    unit = encoder.encode(SENTENCES, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=1)[:, None], vectors, atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_progress_is_shown_only_when_asked_for(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    @contextmanager
    def bar(label: str, *, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        counts: list[int] = []
        yield counts.append
        shown.append((label, sum(counts)))
        assert sum(counts) == total

    monkeypatch.setattr(progress, "progress_bar", bar)
    encoder.encode(SENTENCES)
    assert shown == []
    encoder.encode(SENTENCES, show_progress=True)
    encoder.encode(SENTENCES, progress="dev")
    assert shown == [("encode", 4), ("dev", 4)]


def test_similarity_of_texts_and_vectors(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(SENTENCES)
    expected = torch.nn.functional.cosine_similarity(
        torch.from_numpy(vectors).double()[:, None], torch.from_numpy(vectors).double(), dim=-1
    ).numpy()
    assert np.ptp(expected) > 0.01
    for left in (SENTENCES, vectors, torch.from_numpy(vectors)):
        found = encoder.similarity(left)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    row = encoder.similarity(SENTENCES[1], vectors)
    np.testing.assert_allclose(row, expected[1:2], atol=1e-5)
    zero = np.zeros((1, 32), np.float32)
    assert encoder.similarity(zero, vectors).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("bad", [float("nan"), None, 3])
def test_what_is_no_text_is_named(encoder: SentenceEncoder, bad: Any) -> None:
    with pytest.raises(DataError, match=r"sentence 1 is .*not a text"):
        encoder.encode(["a", bad])


def test_a_prompt_beside_an_adapter_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="brings the prompt it was trained with"):
        SentenceEncoder.load(run, prompt="plain")


def test_an_adapter_of_others_is_refused(run: Path, tmp_path: Path) -> None:
    text = (run / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=r"peft adapter without embedllm\.json"):
        SentenceEncoder.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path_or_name": "./nowhere"}, "is no folder and no hub name.*smollm2-135m"),
        ({"path_or_name": "smollm2-135"}, "did you mean smollm2-135m"),
        ({"path_or_name": "tiny", "prompt": "prompteoll"}, "(?s)prompt=prompteoll.*prompteol,"),
        ({"path_or_name": "tiny", "prompt": "{text}"}, "only {sentence} is known"),
        ({"path_or_name": "tiny", "device": "tpu9"}, "device='tpu9' is not known"),
        ({"path_or_name": "tiny", "dtype": "fp8"}, "model.dtype='fp8' is not known"),
        ({"path_or_name": "tiny", "pooling": "max"}, "model.pooling='max' is not known"),
        ({"path_or_name": "huggingface"}, "model=huggingface cannot be used by its name alone"),
    ],
)
def test_wrong_arguments_are_one_message(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SentenceEncoder.load(**arguments)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be read as a model"):
        SentenceEncoder.load(tmp_path)


def test_every_prompt_and_model_can_be_read_by_its_name() -> None:
    for name in option_names("prompt"):
        assert "{sentence}" in read_option("prompt", name, PromptConfig).template
    assert read_option("prompt", "knowledge", PromptConfig).clean_up == "paper"
    assert len(option_names("model")) > 10


def test_importing_embedllm_brings_nothing_heavy() -> None:
    code = "import sys, embedllm; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_examples_of_the_page_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny adapter where it says `outputs/first`, and `tiny` for SmolLM2."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "first").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 5
    names: dict[str, Any] = {}
    for snippet in snippets:
        text = snippet.replace('load("smollm2-135m"', 'load("tiny"')
        exec(compile(text, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "(3, 32) float32" in printed
    assert "brings the prompt it was trained with" in printed
    assert names["matrix"].shape == (3, 3)
