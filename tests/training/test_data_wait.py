"""A run tokenizes its texts once, makes batches ahead, and says how long it waited for them."""

from __future__ import annotations

import csv
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from tiny_runs import extra_callback, have_equal_weights, train_tiny

from embedllm.config import TrainConfig
from embedllm.data import loader as loader_module
from embedllm.data.examples import TrainingData
from embedllm.data.loader import ContrastiveBatch, ContrastiveLoader
from embedllm.data.token_table import TokenTable
from embedllm.errors import DataError
from embedllm.models.encoder import SentenceEncoder
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize
from embedllm.training import fit
from embedllm.training.runner import TrainResult

WAIT_SECONDS = 0.5
TWO_EPOCHS = ("data.max_examples=60", "trainer.max_epochs=2", "trainer.max_steps=null")


def _train(folder: Path, *overrides: str, cache: Path | None = None) -> TrainResult:
    cache = cache or folder / "cache"
    return train_tiny(folder, "evaluation=none", f"paths.cache_dir={cache}", *overrides)


def _column(folder: Path, name: str) -> dict[int, float]:
    with (folder / "run" / "logs" / "version_0" / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that runs have tokenized for training."""
    texts: list[str] = []

    def remember(sentences: Sequence[str], **options: Any) -> list[list[int]]:
        texts.extend(sentences)
        return tokenize(sentences, **options)

    monkeypatch.setattr(fit, "tokenize", remember)
    return texts


# --- Token ids ----------------------------------------------------------------------------------


def test_a_second_run_tokenizes_nothing(tmp_path: Path, tokenized: list[str]) -> None:
    cache = tmp_path / "cache"
    first = _train(tmp_path / "a", cache=cache)
    assert len(tokenized) == len(set(tokenized)) > 64
    tokenized.clear()
    # Another seed takes other batches of the same texts.
    second = _train(tmp_path / "b", "trainer.learning_rate=1e-3", cache=cache)
    assert tokenized == []
    assert not have_equal_weights(first.adapter, second.adapter)
    assert len(list((cache / "tokens").glob("*.ids"))) == 1
    _train(tmp_path / "c", 'prompt.template=\'It is : "{sentence}" in a word:"\'', cache=cache)
    assert tokenized
    assert len(list((cache / "tokens").glob("*.ids"))) == 2


def test_a_cache_that_cannot_be_written_changes_no_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    expected = _train(tmp_path / "a")
    assert "paths.cache_dir" not in caplog.text
    result = _train(tmp_path / "b", cache=tmp_path / "file" / "cache")
    assert have_equal_weights(result.adapter, expected.adapter)
    [warning] = [r.getMessage() for r in caplog.records if "cannot be kept" in r.getMessage()]
    assert "set paths.cache_dir" in warning


def test_table_and_prefetch_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_plain(
        config: TrainConfig, data: TrainingData, encoder: SentenceEncoder
    ) -> ContrastiveLoader:
        prompt = build_prompt(config.prompt, training=True)
        settings: dict[str, Any] = {"tokenizer": encoder.tokenizer, "prompt": prompt}
        return ContrastiveLoader(
            data.examples, partial(tokenize, **settings), batch_size=8, seed=config.seed
        )

    def one_by_one(
        function: Callable[[Any], Any], items: Iterable[Any], *, depth: int
    ) -> Iterator[Any]:
        for item in items:
            yield function(item)

    result = _train(tmp_path / "a", *TWO_EPOCHS)
    monkeypatch.setattr(fit, "build_loader", build_plain)
    monkeypatch.setattr(loader_module, "prefetch", one_by_one)
    expected = _train(tmp_path / "b", *TWO_EPOCHS)
    assert have_equal_weights(result.adapter, expected.adapter)


# --- The thread ---------------------------------------------------------------------------------


class _RaiseAtStep(pl.Callback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error
        self.was_alive = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.was_alive = bool(_threads())
            raise self.error


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_no_thread_is_left_after_an_error(error: BaseException, tmp_path: Path) -> None:
    callback = _RaiseAtStep(3, error)
    expected = KeyboardInterrupt if isinstance(error, SystemExit) else type(error)
    with extra_callback(callback), pytest.raises(expected):
        _train(tmp_path)
    assert callback.was_alive
    assert not _threads()


def test_no_thread_is_left_after_the_last_step(tmp_path: Path) -> None:
    _train(tmp_path, "trainer.max_steps=3")
    assert not _threads()


def test_an_error_of_the_thread_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = TokenTable.look_up

    def fail_in_the_fourth(self: TokenTable, texts: Sequence[str]) -> list[list[int]]:
        calls.append(threading.current_thread().name)
        if len(calls) == 4:
            raise DataError("this batch cannot be made")
        return look_up(self, texts)

    calls: list[str] = []
    monkeypatch.setattr(TokenTable, "look_up", fail_in_the_fourth)
    with pytest.raises(DataError, match="this batch cannot be made"):
        _train(tmp_path, "trainer.checkpoint_every_n_steps=1")
    assert set(calls) == {"prefetch_0"}
    assert not _threads()
    # All batches before it were used.
    assert sorted((tmp_path / "run" / "checkpoints").iterdir())[-1].name == "step-000003.ckpt"


# --- The log ------------------------------------------------------------------------------------


@pytest.fixture
def slow_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every batch count as waited for, without anybody having to wait."""

    def wait(self: ContrastiveLoader, batches: Iterator[ContrastiveBatch]) -> Any:
        self.wait_seconds += WAIT_SECONDS
        return next(batches, None)

    monkeypatch.setattr(ContrastiveLoader, "_wait_for_next", wait)


@pytest.mark.usefixtures("slow_data")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), dict.fromkeys(range(1, 9), WAIT_SECONDS)),
        # A mean over the steps since the last line.
        (("trainer.log_every_n_steps=3",), dict.fromkeys((3, 6, 8), WAIT_SECONDS)),
        (
            ("trainer.log_every_n_steps=3", "trainer.accumulate_grad_batches=2"),
            dict.fromkeys((3, 6, 8), 2 * WAIT_SECONDS),
        ),
    ],
)
def test_the_log_has_the_wait_for_each_step(
    overrides: tuple[str, ...],
    expected: dict[int, float],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="embedllm")
    _train(tmp_path, *overrides)
    assert _column(tmp_path, "train/data_wait_seconds") == pytest.approx(expected)
    waits = [
        (float(match[1]), float(match[2]))
        for record in caplog.records
        if (match := re.search(r"  data wait (\S+) ms \((\S+)%\)  ", record.getMessage()))
    ]
    assert [milliseconds / 1000 for milliseconds, _ in waits] == list(expected.values())
    speeds = _column(tmp_path, "train/sentences_per_second")
    for (_, percent), (step, speed) in zip(waits, speeds.items(), strict=True):
        # 24 texts a step; the pace is that of steps and waits together.
        seconds = 24 / speed
        assert percent == pytest.approx(100 * expected[step] / seconds, abs=0.1)
        assert 0 < percent < 100


@pytest.mark.usefixtures("slow_data")
def test_a_dev_score_is_no_wait_for_data(tmp_path: Path) -> None:
    overrides = ("evaluation.dev_every_n_steps=2", "evaluation.tasks=[]", "evaluation.before=false")
    train_tiny(tmp_path, f"paths.cache_dir={tmp_path}/cache", *overrides)
    assert list(_column(tmp_path, "dev/sample-dev")) == [2, 4, 6, 8]
    expected = dict.fromkeys(range(1, 9), WAIT_SECONDS)
    assert _column(tmp_path, "train/data_wait_seconds") == pytest.approx(expected)


@pytest.mark.usefixtures("slow_data")
def test_time_left_counts_the_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="embedllm")
    with (
        extra_callback(_RaiseAtStep(1, ValueError("enough"))),
        pytest.raises(ValueError, match="enough"),
    ):
        _train(tmp_path, "trainer.max_epochs=20", "trainer.max_steps=121")
    [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step 1/")]
    match = re.search(r"(\d+):(\d\d):(\d\d) left", line)
    assert match is not None
    hours, minutes, seconds = map(int, match.groups())
    assert 3600 * hours + 60 * minutes + seconds >= 120 * WAIT_SECONDS


def test_a_source_that_is_really_slow_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collate = ContrastiveLoader._collate

    def slow(self: ContrastiveLoader, rows: Any) -> ContrastiveBatch:
        time.sleep(WAIT_SECONDS)
        return collate(self, rows)

    _train(tmp_path / "a", "trainer.max_steps=2")
    monkeypatch.setattr(ContrastiveLoader, "_collate", slow)
    _train(tmp_path / "b", "trainer.max_steps=2")
    fast, late = (_column(tmp_path / name, "train/data_wait_seconds") for name in "ab")
    # The first batch of a run is always waited for, as long as it takes.
    assert late[1] >= WAIT_SECONDS > max(fast.values())
    assert min(fast.values()) > 0
