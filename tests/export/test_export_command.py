"""`python -m embedllm export`: refusals, and the commands and snippets of its page."""

from __future__ import annotations

import re
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import documented
from tiny_adapters import (
    export,
    export_config,
    run_in_process,
    run_snippet,
    save_tiny_adapter,
    snippets_of,
)
from tiny_runs import compose_typed

from embedllm import SentenceEncoder
from embedllm.config import AdapterConfig, ModelConfig
from embedllm.entry import with_full_keys
from embedllm.errors import AdapterError, CheckpointError, ConfigError
from embedllm.export import sentence_transformers_folder, write
from embedllm.export.write import relative_distance

PAGE = "docs/export.md"
FULL = AdapterConfig(method="full")


# Refusals, and nothing left behind


def test_a_folder_with_something_else_is_never_touched(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds something else than an export"):
            export(adapter, output, format="merged", overwrite=overwrite)
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_an_older_export_is_replaced_where_that_is_asked_for(adapter: Path, tmp_path: Path) -> None:
    output = export(adapter, tmp_path / "out")
    (tmp_path / "link").symlink_to(output)
    with pytest.raises(ConfigError, match="overwrite=true"):
        export(adapter, output, format="merged")
    assert (output / "modules.json").is_file()
    export(adapter, tmp_path / "link", format="merged", overwrite=True)
    assert not (output / "modules.json").exists()
    assert (output / "model.safetensors").is_file()


def test_nothing_that_is_needed_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_tiny_adapter(tmp_path / "base" / "adapter", "opt", adapter=FULL)
    model = ModelConfig(name=str(base), tokenizer="bundled")
    adapter = save_tiny_adapter(tmp_path / "outputs" / "first" / "adapter", model)
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    before = sorted(tmp_path.rglob("*"))
    refused = {
        tmp_path / "outputs" / "first": "the adapter",
        adapter: "the adapter",
        base.parent: "its base model",
        Path(".."): "the working folder",
        tmp_path / "home": "your home",
        Path("/"): "the adapter",
    }
    for output, what in refused.items():
        with pytest.raises(ConfigError, match=rf"cannot be replaced: {what} \("):
            export(adapter, output, format="merged", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("found", ["5.1.0", None])
def test_sentence_transformers_has_to_be_new_enough(
    found: str | None, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name != "sentence-transformers":
            return real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(sentence_transformers_folder, "installed_version", lambda name: found)
    monkeypatch.setattr(write, "load_merged", None)
    message = rf"installed: {found or 'none'}; `pip install 'embedllm\[export\]'`"
    with pytest.raises(ConfigError, match=message):
        export(adapter, tmp_path / "out")


def test_vectors_that_differ_leave_nothing(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = write.load_merged

    def load_wrongly(*arguments: Any) -> Any:
        model = load(*arguments)
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "fc1.weight" in n).mul_(1.01)
        return model

    monkeypatch.setattr(write, "load_merged", load_wrongly)
    before = sorted(tmp_path.iterdir())
    for kind in ("merged", "sentence-transformers"):
        with pytest.raises(AdapterError, match="away from the adapter's"):
            export(adapter, tmp_path / "out", format=kind)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_others_read_wrongly_is_not_left(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooling = {"last": "mean"}
    monkeypatch.setattr("embedllm.export.sentence_transformers_folder._POOLINGS", pooling)
    with pytest.raises(AdapterError, match="sentence-transformers gives other vectors"):
        export(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_room_is_looked_at_before_weights_load(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, 1000))
    monkeypatch.setattr(write, "load_adapted_encoder", None)
    with pytest.raises(CheckpointError, match=r"needs about .* MiB free"):
        export(adapter, tmp_path / "out")


def test_the_estimate_of_room_is_that_of_the_weights(adapter: Path, tmp_path: Path) -> None:
    from embedllm.export.source import num_bytes, open_source

    folder = export(adapter, tmp_path / "merged", format="merged")
    size = (folder / "model.safetensors").stat().st_size
    found = num_bytes(open_source(str(adapter), "auto"), tmp_path)
    assert size * 0.8 < found < size * 1.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "format='onnx' is not known"),
        ({"dtype": "int8"}, "dtype='int8' is not known"),
        ({"push": "name"}, "must be organisation/name"),
        ({"push_dry_run": True}, "needs push="),
    ],
)
def test_wrong_keys(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export_config(tmp_path, tmp_path / "out", **options)


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="there is no folder"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_the_same_command_again_makes_nothing_anew(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = export_config(adapter, tmp_path / "out", format="merged")
    run_in_process(config)
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    run_in_process(config)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    assert "there already" in capsys.readouterr().out
    other = export_config(adapter, tmp_path / "out", format="merged", dtype="bfloat16")
    with pytest.raises(ConfigError, match="holds another export"):
        run_in_process(other)


# The page


@pytest.mark.parametrize(
    "command",
    [
        "python -m embedllm export adapter=outputs/first/adapter output=exported",
        "python -m embedllm export adapter=outputs/first format=merged dtype=bfloat16 "
        "output=merged",
        "python -m embedllm export adapter=outputs/first/adapter output=exported "
        "license=apache-2.0 push=organisation/name push_dry_run=true",
    ],
)
def test_commands_of_the_page(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = with_full_keys("export", documented(command, page=PAGE)[4:])
    words = [w.replace("outputs/first", str(run)) for w in words]
    words = [re.sub(r"^output=(.*)", rf"output={tmp_path}/\1", w) for w in words]
    run_in_process(compose_typed("export", *words))
    found = capsys.readouterr().out
    assert "written and compared" in found
    if "push_dry_run=true" in words:
        assert "nothing was sent" in found


def test_snippets_of_the_page_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, tmp_path / "exported")
    export(run, tmp_path / "merged", format="merged")
    monkeypatch.chdir(tmp_path)
    encoder = SentenceEncoder.load(run, device="cpu", dtype="float32")
    snippets = snippets_of((Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8"))
    assert len(snippets) == 5
    for snippet in snippets:
        texts, vectors, _ = run_snippet(snippet)
        assert len(texts) == 2
        assert relative_distance(vectors, encoder.encode(texts)) < 1e-5
