"""A run that was interrupted before, between or after its steps repeats nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import Death, dying_at
from recorded_runs import FinishedRun
from tiny_runs import have_equal_weights, read_json, train_tiny

from embedllm.errors import CheckpointError, ConfigError
from embedllm.training import runner

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")


def _counting(patch: pytest.MonkeyPatch, name: str) -> list[str]:
    calls: list[str] = []
    original = getattr(runner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(str(kwargs.get("label", "")))
        return original(*args, **kwargs)

    patch.setattr(runner, name, counted)
    return calls


def _die_in_score(patch: pytest.MonkeyPatch, label: str) -> None:
    original = runner.score_and_record

    def dying(*args: Any, **kwargs: Any) -> Any:
        if kwargs["label"] == label:
            raise Death
        return original(*args, **kwargs)

    patch.setattr(runner, "score_and_record", dying)


def _without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v
        for k, v in record.items()
        if k not in ("seconds", "timing", "finished", "git_revision", "adapter")
    }


def test_killed_in_the_score_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    with monkeypatch.context() as patch:
        _die_in_score(patch, "before training")
        with pytest.raises(Death):
            train_tiny(tmp_path)
    assert not (tmp_path / "run" / "results" / "before.json").exists()
    result = train_tiny(tmp_path)
    assert have_equal_weights(result.adapter, finished.root / "adapter")
    for name, record in (("before", result.before), ("after", result.after)):
        assert record is not None
        expected = read_json(finished.root / "results" / f"{name}.json")
        assert _without_times(record) == _without_times(expected)


def test_killed_in_the_score_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    with monkeypatch.context() as patch:
        _die_in_score(patch, "after training")
        with pytest.raises(Death):
            train_tiny(tmp_path)
    adapter = tmp_path / "run" / "adapter"
    changed = (adapter / "adapter_model.safetensors").stat().st_mtime_ns
    fits = _counting(monkeypatch, "_train_and_keep_best")
    result = train_tiny(tmp_path)
    assert fits == []
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == changed
    assert result.after is not None
    expected = read_json(finished.root / "results" / "after.json")
    assert _without_times(result.after) == _without_times(expected)


def test_killed_before_the_adapter_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    # The training is over and its last checkpoint written: there is no step left to do.
    fit = runner.fit

    def fit_and_die(*args: Any) -> Path:
        fit(*args)
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", fit_and_die)
        with pytest.raises(Death):
            train_tiny(tmp_path)
    result = train_tiny(tmp_path)
    assert have_equal_weights(result.adapter, finished.root / "adapter")


def test_a_finished_run_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    shutil.copytree(finished.root, tmp_path / "run")
    scores, fits = (
        _counting(monkeypatch, "score_and_record"),
        _counting(monkeypatch, "_train_and_keep_best"),
    )
    result = train_tiny(tmp_path)
    assert scores == fits == []
    assert result.before == read_json(finished.root / "results" / "before.json")
    assert result.after == read_json(finished.root / "results" / "after.json")


def test_the_score_before_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dying_at(3):
        train_tiny(tmp_path)
    labels = _counting(monkeypatch, "score_and_record")
    train_tiny(tmp_path)
    assert labels == ["after training"]


def test_a_start_that_left_nothing_may_be_corrected(tmp_path: Path) -> None:
    """A failure before the first result must not force another run_name on the corrected run."""
    with pytest.raises(ConfigError, match=r"adapter\.options"):
        train_tiny(tmp_path, "evaluation.before=false", "adapter.options.target_modules=[nothing]")
    assert (tmp_path / "run" / "run.json").exists()
    corrected = ("evaluation.before=false", "evaluation.tasks=[]")
    assert train_tiny(tmp_path, *corrected).adapter.is_dir()
    with pytest.raises(CheckpointError, match="seed: was 42, is 7"):
        train_tiny(tmp_path, *corrected, "seed=7")
