"""Keys of the environment are in no file that a run writes, and in nothing that it says."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import compose_train, run_script, script_environment

from embedllm.data.sources import read_examples
from embedllm.entry import run
from embedllm.errors import ConfigError, DataError
from embedllm.log import build_console_handler
from embedllm.secrets import redact

SECRETS = {
    "WANDB_API_KEY": "planted0wandb0" + "a1b2c3" * 5,
    "HF_TOKEN": "hf_planted0first0token0of0a0test",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted0other0token0of0a0test",
    "MY_DATABASE_PASSWORD": "planted0password0of0a0test",
}
IN_NETRC = "planted0netrc0" + "d4e5f6" * 5
IN_URL = "planted0in0a0url"


def _environment(home: Path) -> dict[str, str]:
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {IN_NETRC}\n")
    netrc.chmod(0o600)
    return script_environment(
        **SECRETS, HOME=str(home), NETRC=None, WANDB_MODE="offline", WANDB_BASE_URL=None
    )


def _find(folder: Path, *, but: Path | None = None) -> list[str]:
    """Returns which path or file holds which secret, in whatever bytes."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() and path != but else b""
        for value in (*SECRETS.values(), IN_NETRC, IN_URL):
            if value.encode() in content or value in str(path):
                found.append(f"{path}: {value[:8]}")
    return found


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def _train(
    monkeypatch: pytest.MonkeyPatch, *words: str, task: Callable[..., None] = lambda *_: None
) -> None:
    """Does what `train.py` does with a command line, but for the training."""
    monkeypatch.setattr(sys, "argv", ["train.py", "debug=tiny", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    run("train", task)


def test_a_run_with_wandb_writes_and_says_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = _environment(home)
    folders = [f"paths.{name}_dir={tmp_path / name}" for name in ("output", "results", "cache")]
    trained = run_script(
        *("train.py", "debug=tiny", "logger=wandb", "run_name=run", *folders),
        *("trainer.max_steps=4", "trainer.accelerator=cpu"),
        environment=environment,
    )
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "output" / "run"
    scored = run_script(
        *("evaluate.py", f"adapter_path={run / 'adapter'}", "run_name=again", *folders),
        environment=environment,
    )
    assert scored.returncode == 0, scored.stderr
    # It is all there: what W&B would send, checkpoints, the adapter, results.
    for pattern in ("wandb/*/*.wandb", "checkpoints/*.ckpt", "adapter/*.json", "results/*.json"):
        assert list(run.glob(pattern)), pattern
    assert list((tmp_path / "results").glob("*.json"))
    assert _find(tmp_path, but=home / ".netrc") == []
    said = trained.stdout + trained.stderr + scored.stdout + scored.stderr
    assert not [value for value in (*SECRETS.values(), IN_NETRC) if value in said]


@pytest.mark.parametrize(
    ("override", "key", "source"),
    [
        ("logger.group=${oc.env:WANDB_API_KEY}", "logger.group", "WANDB_API_KEY"),
        ("logger.tags=[a,${oc.env:HF_TOKEN}]", "logger.tags", "HF_TOKEN"),
        ("run_name=${oc.env:HF_TOKEN}", "run_name", "HF_TOKEN"),
        (f"logger.project={SECRETS['HF_TOKEN']}", "logger.project", "HF_TOKEN"),
        (f"data.path=http://user:{IN_URL}@host/x", "data.path", "URL with a password"),
    ],
)
@pytest.mark.usefixtures("planted")
def test_a_configuration_with_a_key_is_refused(override: str, key: str, source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_train("debug=tiny", override)
    assert key in str(caught.value)
    assert source in str(caught.value)
    assert not [value for value in SECRETS.values() if value in str(caught.value)]


@pytest.mark.usefixtures("planted", "entry_process")
@pytest.mark.parametrize(
    "words",
    [
        (f"logger.group=x{SECRETS['WANDB_API_KEY']}",),
        (f"logger.group={SECRETS['WANDB_API_KEY']}", "logger.group=other"),
        (f"+{SECRETS['HF_TOKEN']}=1",),
        (f"data.path=http://user:{IN_URL}@host/x",),
        (f"run_name={SECRETS['HF_TOKEN']}",),
        ("run_name=${oc.env:HF_TOKEN}",),
        ("logger.group=${oc.env:WANDB_API_KEY}",),
        ("hydra.run.dir=${paths.output_dir}/${oc.env:HF_TOKEN}",),
        ("seed=1,2", "sweep_name=${oc.env:HF_TOKEN}", "--multirun"),
        (f"logger.group=a,{SECRETS['WANDB_API_KEY']}", "--multirun"),
    ],
    ids=[
        *("key", "key that another replaces", "name of a key", "URL", "run name"),
        *("named run", "named value", "named folder", "named sweep", "one of a sweep"),
    ],
)
def test_a_refused_command_leaves_none(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        _train(monkeypatch, f"paths.output_dir={tmp_path}", *words)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("error: ") == 1
    assert "stored with every run" in said.err
    assert not [v for v in (*SECRETS.values(), IN_URL) if v in said.out + said.err]
    assert _find(tmp_path) == []


@pytest.mark.usefixtures("planted", "entry_process")
@pytest.mark.parametrize("is_bug", [False, True], ids=["error", "bug"])
@pytest.mark.parametrize("sweep", [(), ("seed=1,2", "--multirun")], ids=["run", "sweep"])
def test_a_failed_run_leaves_none(
    sweep: tuple[str, ...],
    is_bug: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        text = f"no answer from http://me:{IN_URL}@host/{SECRETS['HF_TOKEN']}"
        raise RuntimeError(text) if is_bug else DataError(text)

    with pytest.raises(RuntimeError if is_bug and not sweep else SystemExit):
        _train(monkeypatch, f"paths.output_dir={tmp_path}", *sweep, task=fail)
    failures = [json.loads(path.read_text()) for path in tmp_path.rglob("failure.json")]
    assert len(failures) == (2 if sweep else 1)
    assert all(f["message"].endswith("no answer from http://***@host/***") for f in failures)
    logs = [path.read_text() for path in tmp_path.rglob("train.log")]
    assert [("Traceback" in log) for log in logs] == [bool(sweep and is_bug)] * len(failures)
    assert _find(tmp_path) == []
    assert IN_URL not in capsys.readouterr().err


@pytest.mark.usefixtures("planted", "entry_process")
def test_the_traceback_of_a_bug_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"with {SECRETS['HF_TOKEN']}")

    try:
        _train(monkeypatch, f"paths.output_dir={tmp_path}", task=fail)
    except RuntimeError:
        # What Python does with an error that nobody catches.
        sys.excepthook(*sys.exc_info())
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "RuntimeError: with ***\n" in said
    assert SECRETS["HF_TOKEN"] not in said


@pytest.mark.usefixtures("planted")
def test_a_hub_with_a_password_is_named_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://me:{IN_URL}@127.0.0.1:9")
    with pytest.raises(DataError, match=r"the hub at http://\*\*\*@127\.0\.0\.1:9") as caught:
        read_examples("org/name")
    assert IN_URL not in str(caught.value)


def test_the_token_of_a_login_is_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    assert redact(SECRETS["HF_TOKEN"]) == SECRETS["HF_TOKEN"]
    path = tmp_path / "another"
    path.write_text(f"{SECRETS['HF_TOKEN']}\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    assert redact(f"Bearer {SECRETS['HF_TOKEN']}") == "Bearer ***"
    with pytest.raises(ConfigError, match=r"run_name holds .*`hf auth login`"):
        compose_train("debug=tiny", f"run_name={SECRETS['HF_TOKEN']}")


@pytest.mark.usefixtures("planted")
def test_messages_and_log_lines_are_redacted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".netrc").write_text(f"machine host login user password {IN_NETRC}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    text = f"GET https://me:pass@host/{SECRETS['HF_TOKEN']} {IN_NETRC} in http://host:80/a@b"
    assert redact(text) == "GET https://***@host/*** *** in http://host:80/a@b"
    handler = build_console_handler()
    record = logging.LogRecord("any", logging.INFO, "", 0, "key %s", (SECRETS["HF_TOKEN"],), None)
    handler.handle(record)
    assert capsys.readouterr().err == "key ***\n"


def test_short_values_and_other_variables_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "true")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("NETRC", "/nowhere")
    assert redact("it is true, not falsefalse") == "it is true, not falsefalse"
