"""What is downloaded or given by a user never runs as code: a canary in each file stays silent."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ModelFactory
from tiny_runs import compose_evaluate, have_equal_weights, tiny_config, train_tiny

from embedllm.config import ModelConfig, PromptConfig
from embedllm.data.sources import read_examples
from embedllm.data.token_table import open_token_table
from embedllm.demonstrations.sets import load_demonstrations
from embedllm.encoding.reader import read_shards
from embedllm.errors import AdapterError, CheckpointError, DataError, EmbedllmError, ModelError
from embedllm.files import sha256_of
from embedllm.models.backbone import load_language_model
from embedllm.models.configured import choose_encoder
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.models.vector_cache import VectorCache

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")
CPU = torch.device("cpu")
PROMPT = PromptConfig(template="{sentence}:")


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)

    @property
    def has_sung(self) -> bool:
        return self.folder.exists()


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "sung")


def _save_as_archive(canary: Canary, path: Path) -> None:
    torch.save({"state_dict": canary}, path)


def _save_as_old_archive(canary: Canary, path: Path) -> None:
    torch.save({"state_dict": canary}, path, _use_new_zipfile_serialization=False)


def _save_as_pickle(canary: Canary, path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": canary}))


SAVES = pytest.mark.parametrize("save", [_save_as_archive, _save_as_old_archive, _save_as_pickle])


def test_the_canary_sings_when_it_is_unpickled(canary: Canary, tmp_path: Path) -> None:
    _save_as_archive(canary, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert canary.has_sung


def test_checkpoints(canary: Canary, tmp_path: Path) -> None:
    whole = train_tiny(tmp_path / "out", "evaluation=none").adapter.rename(tmp_path / "whole")
    folder = tmp_path / "out" / "run" / "checkpoints"
    for i, save in enumerate((_save_as_archive, _save_as_old_archive, _save_as_pickle)):
        save(canary, folder / f"step-{100 + i:06d}.ckpt")
    adapter = train_tiny(tmp_path / "out", "evaluation=none").adapter
    assert len(list(folder.glob("*.damaged"))) == 3
    assert not canary.has_sung
    assert have_equal_weights(adapter, whole)


@SAVES
def test_weights_of_a_model(
    save: Callable[[Canary, Path], None], canary: Canary, tmp_path: Path, tiny_opt: ModelFactory
) -> None:
    folder = tmp_path / "model"
    load_language_model(tiny_opt(), tmp_path, device=CPU).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    save(canary, folder / "pytorch_model.bin")
    model = ModelConfig(name=str(folder), tokenizer="bundled")
    with pytest.raises(ModelError, match="holds more than weights"):
        load_encoder(model, PROMPT, tmp_path / "cache", device=CPU)
    assert not canary.has_sung


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("trained"), "evaluation=none").adapter


def _rewrite(adapter: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes an adapter's description as somebody could who wants it to look whole."""
    path = adapter / "embedllm.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["checksums"] = {p.name: sha256_of(p) for p in adapter.iterdir() if p != path}
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
@SAVES
def test_weights_of_an_adapter(
    save: Callable[[Canary, Path], None],
    name: str,
    canary: Canary,
    trained: Path,
    tmp_path: Path,
) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    save(canary, adapter / name)
    _rewrite(adapter, lambda values: None)
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is damaged"):
        load_adapted_encoder(adapter, tmp_path / "cache", device=CPU)
    assert not canary.has_sung


def test_vector_caches_and_token_tables(canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    _save_as_pickle(canary, path)
    with pytest.raises(CheckpointError, match="cannot be used"):
        VectorCache(path)
    path.unlink()
    cache = VectorCache(path)
    cache.write([[1, 2]], np.ones((1, 4), dtype=np.float32))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vectors SET vector = ?", (pickle.dumps(canary)[:16],))
    assert cache.read([[1, 2]])[0].shape == (4,)

    table = tmp_path / "tokens.ids"
    _save_as_pickle(canary, table)
    made = open_token_table(["a", "b"], lambda texts: [[1, 2, 3] for _ in texts], table)
    assert made.look_up(["b"]) == [[1, 2, 3]]
    assert not canary.has_sung


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".pkl", ".pt"])
def test_training_files(suffix: str, canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / f"train{suffix}"
    _save_as_pickle(canary, path)
    with pytest.raises(DataError):
        read_examples(path)
    assert not canary.has_sung


@pytest.mark.parametrize("name", ["data.pkl", "data.pt", "data.tar", "data.arrow", "data.npy"])
def test_folders_of_training_files(name: str, canary: Canary, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    _save_as_pickle(canary, folder / name)
    with pytest.raises(DataError, match="could not be loaded"):
        read_examples(folder)
    assert not canary.has_sung


def test_a_folder_with_a_script_for_loading(canary: Canary, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.py").write_text(f"import os\nos.mkdir({str(canary.folder)!r})\n")
    with pytest.raises(DataError, match="could not be loaded"):
        read_examples(folder)
    # Rows beside the script are read, the script is not.
    (folder / "train.csv").write_text("anchor,positive\na,b\nc,d\n")
    with pytest.raises(DataError, match="could not be loaded"):
        read_examples(folder)
    assert not canary.has_sung


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_demonstrations(suffix: str, canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / f"set{suffix}"
    _save_as_pickle(canary, path)
    with pytest.raises(DataError):
        load_demonstrations(str(path), data_dir=None)
    assert not canary.has_sung


def test_vectors_that_were_encoded(canary: Canary, tmp_path: Path) -> None:
    for name in ("00000.ids.npy", "00000.vectors.npy"):
        np.save(tmp_path / name, np.array([canary], dtype=object), allow_pickle=True)
    _save_as_pickle(canary, tmp_path / "manifest.json")
    with pytest.raises((EmbedllmError, ValueError)):
        list(read_shards(tmp_path))
    assert not canary.has_sung


# --- Code that comes with a model --------------------------------------------------------------


@pytest.fixture
def model_with_code(canary: Canary, tmp_path: Path, tiny_opt: ModelFactory) -> Path:
    folder = tmp_path / "model"
    load_language_model(tiny_opt(), tmp_path, device=CPU).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values["model_type"] = "own"
    values["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(canary.folder)!r})\n")
    return folder


def test_code_of_a_model_runs_only_when_asked_for(
    canary: Canary, model_with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = ModelConfig(name=str(model_with_code), tokenizer="bundled")
    with pytest.raises(ModelError, match=r"model\.trust_remote_code=true"):
        load_encoder(model, PROMPT, tmp_path, device=CPU)
    assert not canary.has_sung
    trusting = replace(model, trust_remote_code=True)
    with pytest.raises(Exception, match=r"own|Config"):
        load_encoder(trusting, PROMPT, tmp_path, device=CPU)
    assert canary.has_sung


def test_an_adapter_cannot_ask_for_it(
    canary: Canary, model_with_code: Path, trained: Path, tmp_path: Path
) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")

    def trust(values: dict[str, Any]) -> None:
        model = {"name": str(model_with_code), "init": "pretrained", "trust_remote_code": True}
        values["model"] |= model

    _rewrite(adapter, trust)
    with pytest.raises(ModelError, match=r"model\.trust_remote_code=true"):
        load_adapted_encoder(adapter, tmp_path / "cache", device=CPU)
    config = compose_evaluate(f"adapter_path={adapter}")
    chosen = choose_encoder(config.model, config.prompt, adapter_path=str(adapter), overrides=[])
    with pytest.raises(ModelError, match=r"model\.trust_remote_code=true"):
        chosen.load(tmp_path / "cache", device=CPU)
    assert not canary.has_sung
    overrides = ["model.trust_remote_code=true"]
    config = compose_evaluate(f"adapter_path={adapter}", *overrides)
    asked = choose_encoder(
        config.model, config.prompt, adapter_path=str(adapter), overrides=overrides
    )
    assert asked.model.trust_remote_code


def test_training_takes_no_word_for_it_but_its_own(tmp_path: Path) -> None:
    assert tiny_config(tmp_path).model.trust_remote_code is False
