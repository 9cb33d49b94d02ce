"""Keys of the environment are in no file that a run writes, and in nothing that it says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tiny_runs import compose_train, run_script, script_environment

from embedllm.errors import ConfigError
from embedllm.log import build_console_handler
from embedllm.secrets import redact

SECRETS = {
    "WANDB_API_KEY": "planted0wandb0" + "a1b2c3" * 5,
    "HF_TOKEN": "hf_planted0first0token0of0a0test",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted0other0token0of0a0test",
    "MY_DATABASE_PASSWORD": "planted0password0of0a0test",
}
IN_NETRC = "planted0netrc0" + "d4e5f6" * 5


def _environment(home: Path) -> dict[str, str]:
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {IN_NETRC}\n")
    netrc.chmod(0o600)
    return script_environment(
        **SECRETS, HOME=str(home), NETRC=None, WANDB_MODE="offline", WANDB_BASE_URL=None
    )


def _find(folder: Path, *, but: Path) -> list[str]:
    """Returns which file holds which secret, in whatever bytes."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path != but:
            content = path.read_bytes()
            for value in (*SECRETS.values(), IN_NETRC):
                if value.encode() in content:
                    found.append(f"{path}: {value[:8]}")
    return found


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
        ("data.path=http://user:planted@host/x", "data.path", "URL with a password"),
    ],
)
def test_a_configuration_with_a_key_is_refused(
    override: str, key: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        compose_train("debug=tiny", override)
    assert key in str(caught.value)
    assert source in str(caught.value)
    assert not [value for value in SECRETS.values() if value in str(caught.value)]


def test_messages_and_log_lines_are_redacted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
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
