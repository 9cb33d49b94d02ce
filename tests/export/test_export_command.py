"""`python -m embedllm export`: refusals, the card, the hub, the page's commands."""

from __future__ import annotations

import json
import re
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import documented
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from stand_in_hub import stand_in_hub
from tiny_adapters import TEXTS, export, export_config, our_encoder, save_tiny_adapter
from tiny_runs import run_script, script_environment, train_tiny

from embedllm import SentenceEncoder
from embedllm.config import ExportConfig
from embedllm.entry import CONF_DIR, register, to_typed, with_full_keys
from embedllm.errors import AdapterError, CheckpointError, ConfigError, ModelError
from embedllm.export import write
from embedllm.export.command import run_export
from embedllm.export.push import push_folder
from embedllm.export.write import relative_distance
from embedllm.files import sha256_of
from embedllm.invocation import Invocation

PAGE = "docs/export.md"
SECRET = "hf_planted0secret0of0an0export"
MAX_SECONDS = 150


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return save_tiny_adapter(tmp_path / "adapter", "opt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a short, evaluated training."""
    folder = tmp_path_factory.mktemp("runs")
    train_tiny(folder, "trainer.max_steps=2")
    return folder / "run"


def run_in_process(config: ExportConfig) -> None:
    run_export(config, Invocation([], Path(), conf_dir=Path(), choices={}))


# Refusals, and nothing left behind


def test_a_folder_with_something_else_is_not_touched(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="overwrite=true"):
        export(adapter, output)
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]
    export(adapter, output, format="merged", overwrite=True)
    assert not (output / "thesis.txt").exists()


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
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
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
    with pytest.raises(ConfigError, match="holds something else"):
        run_in_process(other)


# The card


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


def test_scores_of_another_adapter_are_left_out(run: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(run / "results")
    folder = export(adapter, tmp_path / "out", format="merged")
    assert "was not evaluated" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["merged", "sentence-transformers"])
def test_the_snippets_of_the_card_run(
    kind: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(adapter, tmp_path / "out", format=kind)
    text = (folder / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == (3 if kind == "sentence-transformers" else 2)
    for snippet in snippets:
        names: dict[str, Any] = {}
        exec(compile(snippet, "README.md", "exec"), names)
        assert len(names["vectors"]) == 2
    ours = our_encoder(adapter).encode(TEXTS)
    with torch.inference_mode():
        found = torch.stack([names["embed"](text) for text in TEXTS[:-2]]).numpy()
    assert relative_distance(found, ours[:-2]) < 1e-5
    assert capsys.readouterr().out.count("\n") >= len(snippets)


# The hub


def hub_environment(address: str, home: Path, **changes: str | None) -> dict[str, str]:
    return script_environment(
        HF_ENDPOINT=address,
        HF_HUB_OFFLINE=None,
        HF_HUB_DISABLE_XET="1",
        HF_HOME=str(home),
        HF_TOKEN=SECRET,
        EMBEDLLM_CACHE_DIR=str(home / "cache"),
        **changes,
    )


def test_a_folder_goes_to_the_hub_whole_and_private(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["-m", "embedllm", "export", f"adapter={adapter}", f"output={output}", "push=org/name"]
    with stand_in_hub() as hub:
        environment = hub_environment(hub.address, tmp_path / "home")
        dry = run_script(*words, "push_dry_run=true", environment=environment)
        assert dry.returncode == 0, dry.stderr
        assert not hub.repositories
        sent = run_script(*words, environment=environment)
    assert sent.returncode == 0, sent.stderr
    names = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    for name in names:
        assert name in dry.stdout
        assert hub.files[name] == (output / name).read_bytes()
    assert names == hub.files.keys()
    request = hub.repositories["org/name"]
    assert request.get("visibility") == "private" or request.get("private") is True, request
    assert f"Bearer {SECRET}" in hub.tokens
    assert "there already" in sent.stdout
    assert hub.address in sent.stdout
    for text in (dry.stdout, dry.stderr, sent.stdout, sent.stderr):
        assert SECRET not in text
    assert 'SentenceTransformer("org/name")' in (output / "README.md").read_text()


def test_a_hub_that_refuses_is_one_message(adapter: Path, tmp_path: Path) -> None:
    words = [f"adapter={adapter}", f"output={tmp_path / 'out'}", "format=merged", "push=org/name"]
    with stand_in_hub() as hub:
        hub.refuses = True
        environment = hub_environment(hub.address, tmp_path / "home")
        found = run_script("-m", "embedllm", "export", *words, environment=environment)
    assert found.returncode == 2
    assert "did not take it" in found.stderr
    assert "Traceback" not in found.stderr
    assert SECRET not in found.stderr + found.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_silent_hub_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("x")
    config = export_config(tmp_path, tmp_path / "out", push="org/name")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("embedllm.hub.TIMEOUT_SECONDS", 0.5)
        with pytest.raises(ModelError, match=r"did not take it: no answer in 0\.5 s"):
            push_folder(tmp_path / "out", config)


def test_offline_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        push_folder(tmp_path, export_config(tmp_path, tmp_path / "out", push="org/name"))


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
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        run_in_process(to_typed(compose("export", overrides=words)))
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
    text = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 5
    for snippet in snippets:
        names: dict[str, Any] = {}
        exec(compile(snippet, PAGE, "exec"), names)
        assert len(names["vectors"]) == 2


@pytest.mark.slow
def test_smollm2_trained_here(tmp_path: Path) -> None:
    """Trains SmolLM2-135M for a moment, exports it in both ways and compares."""
    from sentence_transformers import SentenceTransformer

    environment = script_environment(OMP_NUM_THREADS="2")
    trained = run_script(
        "train.py",
        "run_name=short",
        f"paths.output_dir={tmp_path}",
        "trainer.max_steps=3",
        "evaluation=none",
        environment=environment,
        timeout=900,
    )
    assert trained.returncode == 0, trained.stderr
    adapter = tmp_path / "short" / "adapter"
    ours = SentenceEncoder.load(adapter, device="cpu").encode(TEXTS)
    for kind in ("merged", "sentence-transformers"):
        words = [f"adapter={adapter}", f"output={tmp_path / kind}", f"format={kind}"]
        found = run_script("-m", "embedllm", "export", *words, environment=environment, timeout=900)
        assert found.returncode == 0, found.stderr
        again = SentenceEncoder.load(tmp_path / kind, device="cpu").encode(TEXTS)
        assert relative_distance(again, ours) < 1e-5
    theirs = SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu")
    assert relative_distance(theirs.encode(TEXTS), ours) < 1e-5
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert "model.embed_tokens.weight" in weights
    untrained = SentenceEncoder.load("smollm2-135m", device="cpu").encode(TEXTS)
    assert relative_distance(untrained, ours) > 0.05
    assert sha256_of(tmp_path / "merged" / "config.json")
