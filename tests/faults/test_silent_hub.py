"""A hub that accepts and never answers: bounded time, one message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_tally import Tally
from tiny_runs import run_script, script_environment

from embedllm.config import ModelConfig
from embedllm.data.sources import read_examples
from embedllm.errors import DataError, ModelError
from embedllm.hub import find_model
from embedllm.models.sources import load_model_config, load_tokenizer

# Once 20 s (`embedllm.hub.TIMEOUT_SECONDS`), and what a start takes on a busy machine.
MAX_SECONDS = 150
SECRET = "hf_planted0secret0of0a0test"


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """Address of a server that accepts connections, keeps them and says nothing."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.fixture
def asked_hub(silent_hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The same, asked by this process, which has less patience than usual."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://{silent_hub}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("embedllm.hub.TIMEOUT_SECONDS", 0.5)
    find_model.cache_clear()
    return silent_hub


@pytest.mark.usefixtures("asked_hub")
def test_models_tokenizers_and_datasets(tmp_path: Path) -> None:
    model = ModelConfig(name="org/name")
    with pytest.raises(ModelError, match=r"model\.name: 'org/name' .*could not be had") as caught:
        load_model_config(model, tmp_path)
    assert "no answer in 0.5 s" in str(caught.value)
    assert "HF_HUB_OFFLINE=1" in str(caught.value)
    with pytest.raises(ModelError, match=r"model\.tokenizer: 'org/other' .*could not be had"):
        load_tokenizer(ModelConfig(name="org/name", tokenizer="org/other"), tmp_path)
    with pytest.raises(DataError, match=r"data\.path=org/name .*no answer in 0\.5 s"):
        read_examples("org/name")


def test_an_older_copy_is_used(
    asked_hub: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = "0" * 40
    root = tmp_path / "hub" / "models--org--name"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "opt", "num_hidden_layers": 3}')
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    config = load_model_config(ModelConfig(name="org/name"), tmp_path)
    assert config.num_hidden_layers == 3
    assert "the copy that was downloaded before is used" in caplog.text
    assert asked_hub in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("model=huggingface", "model.name=org/name"), id="model"),
        pytest.param(("data=nli", "data.path=org/name"), id="dataset"),
    ],
)
def test_train_py(
    overrides: tuple[str, ...], silent_hub: str, tally: Tally, tmp_path: Path
) -> None:
    done = run_script(
        *("train.py", "debug=tiny", *overrides, "run_name=run", f"paths.output_dir={tmp_path}"),
        environment=script_environment(
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=f"http://somebody:{SECRET}@{silent_hub}",
            HF_TOKEN=SECRET,
            HF_HOME=str(tmp_path / "hub"),
        ),
        timeout=MAX_SECONDS,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "no answer" in done.stderr or "timed out" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    tally.add("a hub that accepts and never answers")
