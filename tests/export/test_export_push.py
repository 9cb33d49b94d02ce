"""What goes to the hub, and what is said where it does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from stand_in_hub import ask_hub, stand_in_hub
from tiny_adapters import TEXTS, export_config, our_encoder, run_in_process, save_tiny_adapter
from tiny_runs import run_script, script_environment

from embedllm import SentenceEncoder
from embedllm.config import PromptConfig
from embedllm.errors import ModelError
from embedllm.export.push import list_upload, push_folder
from embedllm.export.write import relative_distance

SECRET = "hf_planted0secret0of0an0export"


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


def test_a_folder_goes_to_the_hub_whole_and_private(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    words = ["-m", "embedllm", "export", f"adapter={adapter}", f"output={output}", "push=org/name"]
    with stand_in_hub() as hub:
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        config = export_config(adapter, output, push="org/name", push_dry_run=True)
        run_in_process(config)
        assert not hub.repositories
        sent = run_script(*words, environment=hub_environment(hub.address, tmp_path / "home"))
    assert sent.returncode == 0, sent.stderr
    printed = capsys.readouterr().out
    names = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    for name in names:
        assert name in printed
        assert f"{(output / name).stat().st_size:,}" in printed
        assert hub.files[name] == (output / name).read_bytes()
    assert names == hub.files.keys()
    request = hub.repositories["org/name"]
    assert request.get("visibility") == "private" or request.get("private") is True, request
    assert f"Bearer {SECRET}" in hub.tokens
    assert "there already" in sent.stdout
    assert hub.address in sent.stdout
    assert SECRET not in sent.stdout + sent.stderr
    assert 'SentenceTransformer("org/name")' in (output / "README.md").read_text()


def test_the_card_follows_the_command_that_pushes(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = tmp_path / "out"
    run_in_process(export_config(adapter, output))
    before = (output / "model.safetensors").stat().st_mtime_ns
    assert 'SentenceTransformer("out")' in (output / "README.md").read_text()
    config = export_config(adapter, output, license="apache-2.0", language="de", push="org/name")
    with stand_in_hub() as hub:
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        run_in_process(config)
        pushed = hub.files["README.md"].decode()
        assert "license: apache-2.0\n" in pushed
        assert "language: de\n" in pushed
        assert "# name\n" in pushed
        assert 'SentenceTransformer("org/name")' in pushed
        assert '"out"' not in pushed
        assert (output / "model.safetensors").stat().st_mtime_ns == before
        (output / "README.md").write_text(f"{pushed}By me.\n")
        run_in_process(export_config(adapter, output, license="mit", push="org/name"))
        assert "was changed by hand" in caplog.text
        assert hub.files["README.md"].decode() == f"{pushed}By me.\n"


def test_what_an_earlier_export_left_goes_and_nothing_else_does(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in_hub() as hub:
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        hub.files["onnx/model.onnx"] = b"mine"
        run_in_process(export_config(adapter, tmp_path / "st", push="org/name"))
        assert {"modules.json", "1_Pooling/config.json"} <= hub.files.keys()
        config = export_config(adapter, tmp_path / "merged", format="merged", push="org/name")
        run_in_process(config)
    assert hub.files.keys() == list_upload(tmp_path / "merged").keys() | {"onnx/model.onnx"}


@pytest.mark.parametrize(("is_private", "found"), [(True, "private"), (False, "public")])
def test_a_repository_keeps_its_visibility(
    is_private: bool,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("x")
    with stand_in_hub() as hub:
        hub.is_private = is_private
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        for asked in (True, False):
            caplog.clear()
            config = export_config(tmp_path, tmp_path / "out", push="org/name", push_private=asked)
            push_folder(tmp_path / "out", config)
            has_warned = f"no effect: org/name is there and {found}" in caplog.text
            assert has_warned is (asked is not is_private)


def test_a_module_of_ours_on_the_hub_is_loaded_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    prompt = PromptConfig(template='"{sentence}" and again "{sentence}" means:"')
    adapter = save_tiny_adapter(tmp_path / "adapter", "opt", prompt=prompt)
    expected = our_encoder(adapter).encode(TEXTS)
    with stand_in_hub() as hub:
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        run_in_process(export_config(adapter, tmp_path / "out", push="org/name"))
        hub.asked.clear()
        model = sentence_transformers.SentenceTransformer(
            "org/name", revision="v1", token="hf_other", device="cpu", trust_remote_code=True
        )
    weights = {path for path in hub.asked if path.endswith("model.safetensors")}
    assert {path.split("/resolve/")[1].partition("/")[0] for path in weights} <= {"v1", "0" * 40}
    assert weights
    assert hub.tokens >= {"Bearer hf_other"}
    assert relative_distance(model.encode(TEXTS), expected) < 1e-5
    model.save_pretrained(str(tmp_path / "again"))
    again = sentence_transformers.SentenceTransformer(
        str(tmp_path / "again"), device="cpu", trust_remote_code=True
    )
    assert relative_distance(again.encode(TEXTS), expected) < 1e-5


def test_what_was_pushed_loads_by_its_name(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptConfig(template='The text "{sentence}" is: "', clean_up="none")
    adapter = save_tiny_adapter(tmp_path / "other" / "adapter", "opt", prompt=prompt)
    config = export_config(adapter, tmp_path / "out", format="merged", push="org/name")
    with stand_in_hub() as hub:
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        run_in_process(config)
        found = SentenceEncoder.load("org/name", device="cpu").encode(TEXTS)
    assert relative_distance(found, our_encoder(adapter).encode(TEXTS)) < 1e-5
    # From the copy that is there now.
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        again = SentenceEncoder.load("org/name", device="cpu").encode(TEXTS)
    assert relative_distance(again, found) < 1e-5


def test_a_hub_that_refuses_is_one_message(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    config = export_config(adapter, tmp_path / "out", format="merged", push="org/name")
    with stand_in_hub() as hub:
        hub.refuses = True
        ask_hub(hub.address, monkeypatch, tmp_path / "hub")
        with pytest.raises(ModelError, match="did not take it") as caught:
            run_in_process(config)
    assert SECRET not in str(caught.value)
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
