"""A run that was interrupted anywhere and resumed gives what the uninterrupted run gives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_runs import (
    REPOSITORY,
    TWENTY_STEPS,
    extra_callback,
    have_equal_weights,
    read_json,
    read_weights,
    script_environment,
    tiny_config,
    train_tiny,
)

from embedllm.errors import CheckpointError, ConfigError
from embedllm.models.adapters import trainable_state
from embedllm.training import runner
from embedllm.training.callbacks.dev_score import DevScore
from embedllm.training.checkpoints import AtomicCheckpointIO, newest_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")

NUM_STEPS = 20
STEPS_PER_EPOCH = 10
WITH_DEV_SCORES = (
    "evaluation.tasks=[]",
    "evaluation.dev_every_n_steps=5",
    "data.max_examples=78",
    "trainer.max_epochs=2",
    "trainer.max_steps=20",
)


_SCORE = DevScore._score


def _rising_score(self: DevScore, step: int, total: int) -> float:
    """Scores as usual but calls the later adapter the better, so that late steps show too."""
    _SCORE(self, step, total)
    return float(step)


class Death(BaseException):
    """Ends a training as abruptly as an exception can; nothing in the package expects it."""


class DieAtStep(pl.Callback):
    """Raises when an optimizer step is done."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise Death


@contextmanager
def dying_at(step: int, *, before_hooks: bool = False) -> Iterator[None]:
    """Kills the training at a step: after its hooks, or before its log, score and checkpoint."""
    with extra_callback(DieAtStep(step), is_first=before_hooks), pytest.raises(Death):
        yield


@pytest.fixture
def rising_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DevScore, "_score", _rising_score)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of an uninterrupted run with the given overrides, made once for each."""
    finished: dict[tuple[str, ...], Path] = {}

    def get(*overrides: str) -> Path:
        if overrides not in finished:
            folder = tmp_path_factory.mktemp("uninterrupted")
            train_tiny(folder, *overrides)
            finished[overrides] = folder / "run"
        return finished[overrides]

    return get


# --- The same seed, twice ----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_file(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    name = "adapter_model.safetensors"
    expected = uninterrupted(*TWENTY_STEPS) / "adapter" / name
    assert (result.adapter / name).read_bytes() == expected.read_bytes()


def test_another_seed_gives_another_adapter(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    result = train_tiny(tmp_path, *TWENTY_STEPS, "seed=43")
    assert not have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_every_step_shows_in_the_adapter(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    # Else the comparisons below would compare nothing: one step less, another adapter.
    overrides = [
        *TWENTY_STEPS[:-1],
        "trainer.max_steps=19",
        "trainer.lr_schedule=constant_with_warmup",
    ]
    nineteen = train_tiny(tmp_path / "a", *overrides).adapter
    twenty = train_tiny(
        tmp_path / "b", *overrides[:-2], "trainer.max_steps=20", overrides[-1]
    ).adapter
    first, second = read_weights(nineteen), read_weights(twenty)
    assert all(not torch.equal(first[n], second[n]) for n in first)


# --- Interrupted in this process ---------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_killed_after_any_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    # Sparse checkpoints make the resumed run repeat steps that the dead one had done.
    every = (1, 3, 7)[step % 3]
    overrides = (*TWENTY_STEPS, f"trainer.checkpoint_every_n_steps={every}")
    with dying_at(step):
        train_tiny(tmp_path, *overrides)
    assert not (tmp_path / "run" / "adapter").exists()
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    expected_step = step // every * every
    assert (newest is None) == (expected_step == 0)
    assert newest is None or newest.name == f"step-{expected_step:06d}.ckpt"
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, NUM_STEPS])
def test_killed_before_the_checkpoint_of_a_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=1")
    with dying_at(step, before_hooks=True):
        train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_killed_many_times(tmp_path: Path, uninterrupted: Callable[..., Path]) -> None:
    overrides = (*TWENTY_STEPS, "trainer.checkpoint_every_n_steps=2")
    for step in (3, 10, 11, NUM_STEPS):
        with dying_at(step):
            train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ("trainer.accumulate_grad_batches=2", (1, 10, 19)),
        ("adapter=full", (10, 13)),
        ("data.drop_last=true", (9, 10)),
        ("trainer.precision=bf16-mixed", (10,)),
    ],
)
def test_killed_with_other_settings(
    change: str, steps: tuple[int, ...], tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*TWENTY_STEPS, change)
    if change == "adapter=full":
        overrides = (*overrides, "trainer.learning_rate=1e-4")
    if "drop_last" in change:
        # Nine batches an epoch.
        overrides = (*overrides, "trainer.max_epochs=3")
    expected = uninterrupted(*overrides) / "adapter"
    for step in steps:
        folder = tmp_path / f"{step}"
        with dying_at(step):
            train_tiny(folder, *overrides, "trainer.checkpoint_every_n_steps=1")
        result = train_tiny(folder, *overrides, "trainer.checkpoint_every_n_steps=1")
        assert have_equal_weights(result.adapter, expected), step


@pytest.mark.usefixtures("rising_scores")
@pytest.mark.parametrize(
    ("step", "before_hooks"),
    [(2, False), (5, False), (5, True), (10, True), (17, False), (20, False), (20, True)],
)
def test_killed_between_dev_scores(
    step: int, before_hooks: bool, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=3")
    with dying_at(step, before_hooks=before_hooks):
        train_tiny(tmp_path, *overrides)
    result = train_tiny(tmp_path, *overrides)
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == NUM_STEPS
    assert have_equal_weights(result.adapter, uninterrupted(*overrides) / "adapter")


def test_killed_between_a_better_adapter_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The better adapter has replaced the one that the newest checkpoint calls the best.
    scores = {5: 1.0, 10: 2.0, 15: 0.5, 20: 0.0}
    monkeypatch.setattr(DevScore, "_score", lambda self, step, total: scores[step])
    overrides = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=7")
    with dying_at(11):
        train_tiny(tmp_path, *overrides)
    assert [p.name for p in (tmp_path / "run" / "candidates").iterdir()] == ["step-000010"]
    result = train_tiny(tmp_path, *overrides)
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == 10
    expected = train_tiny(tmp_path / "whole", *overrides)
    assert have_equal_weights(result.adapter, expected.adapter)


# --- The parts around the training -------------------------------------------------------------


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


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_tiny(folder)
    return folder / "run"


def _without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v
        for k, v in record.items()
        if k not in ("seconds", "timing", "finished", "git_revision", "adapter")
    }


def test_killed_in_the_score_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    with monkeypatch.context() as patch:
        _die_in_score(patch, "before training")
        with pytest.raises(Death):
            train_tiny(tmp_path)
    assert not (tmp_path / "run" / "results" / "before.json").exists()
    result = train_tiny(tmp_path)
    assert have_equal_weights(result.adapter, whole_run / "adapter")
    for name, record in (("before", result.before), ("after", result.after)):
        assert record is not None
        expected = read_json(whole_run / "results" / f"{name}.json")
        assert _without_times(record) == _without_times(expected)


def test_killed_in_the_score_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
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
    expected = read_json(whole_run / "results" / "after.json")
    assert _without_times(result.after) == _without_times(expected)


def test_killed_before_the_adapter_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    # The training is over and its last checkpoint written: there is no step left to do.
    fit = runner._fit

    def fit_and_die(*args: Any) -> Path:
        fit(*args)
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_fit", fit_and_die)
        with pytest.raises(Death):
            train_tiny(tmp_path)
    result = train_tiny(tmp_path)
    assert have_equal_weights(result.adapter, whole_run / "adapter")


def test_a_finished_run_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: Path
) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    scores, fits = (
        _counting(monkeypatch, "score_and_record"),
        _counting(monkeypatch, "_train_and_keep_best"),
    )
    result = train_tiny(tmp_path)
    assert scores == fits == []
    assert result.before == read_json(whole_run / "results" / "before.json")
    assert result.after == read_json(whole_run / "results" / "after.json")


def test_the_score_before_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dying_at(3):
        train_tiny(tmp_path)
    labels = _counting(monkeypatch, "score_and_record")
    train_tiny(tmp_path)
    assert labels == ["after training"]


# --- Checkpoint files --------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run folder killed at step 5 with checkpoints of steps 2 and 4."""
    with dying_at(5):
        train_tiny(tmp_path, "evaluation=none")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-000002.ckpt", "step-000004.ckpt"]
    return tmp_path


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "bit-flipped", "not a checkpoint", "pickle"]
)
def test_a_damaged_checkpoint_is_named_and_nothing_is_deleted(
    damage: str, interrupted: Path
) -> None:
    newest = interrupted / "run" / "checkpoints" / "step-000004.ckpt"
    content = newest.read_bytes()
    middle = len(content) // 2
    if damage == "pickle":
        torch.save({"state_dict": Path("/a/path/is/no/plain/value")}, newest)
    else:
        newest.write_bytes(
            {
                "truncated": content[:middle],
                "empty": b"",
                "bit-flipped": content[:middle]
                + bytes([content[middle] ^ 1])
                + content[middle + 1 :],
                "not a checkpoint": b"hello" * 1000,
            }[damage]
        )
    before = {p: p.read_bytes() for p in interrupted.rglob("*.ckpt")}
    with pytest.raises(
        CheckpointError, match=r"step-000004\.ckpt.*delete it to resume from the one"
    ):
        train_tiny(interrupted, "evaluation=none")
    assert {p: p.read_bytes() for p in interrupted.rglob("*.ckpt")} == before


def test_resumes_from_the_checkpoint_before_a_deleted_one(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (interrupted / "run" / "checkpoints" / "step-000004.ckpt").unlink()
    result = train_tiny(interrupted, "evaluation=none")
    expected = train_tiny(tmp_path_factory.mktemp("whole"), "evaluation=none")
    assert have_equal_weights(result.adapter, expected.adapter)


def test_leftovers_of_killed_writes_do_no_harm(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = interrupted / "run"
    (run / "checkpoints" / ".step-000006.ckpt.a1b2c3").write_bytes(b"half a checkpoint")
    (run / ".run.json.a1b2c3").write_bytes(b"{")
    leftover = run / "candidates" / ".step-000006.a1b2c3"
    leftover.mkdir(parents=True)
    (leftover / "adapter_model.safetensors").write_bytes(b"half an adapter")
    result = train_tiny(interrupted, "evaluation=none")
    expected = train_tiny(tmp_path_factory.mktemp("whole"), "evaluation=none")
    assert have_equal_weights(result.adapter, expected.adapter)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_checkpoints_hold_plain_trainable_weights_alone(adapter: str, tmp_path: Path) -> None:
    modules: list[pl.LightningModule] = []

    class Spy(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            modules.append(pl_module)

    with extra_callback(Spy()):
        train_tiny(tmp_path, "evaluation=none", f"adapter={adapter}")
    path = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    trainable = trainable_state(modules[0])
    assert checkpoint["state_dict"].keys() == trainable.keys()
    assert all(torch.equal(checkpoint["state_dict"][n], trainable[n]) for n in trainable)
    assert (adapter == "full") == (len(trainable) == len(list(modules[0].named_parameters())))
    # Weights and two AdamW moments in float32, plus some structure per tensor.
    num_bytes = 3 * 4 * sum(value.numel() for value in trainable.values())
    assert num_bytes < path.stat().st_size < num_bytes + 2_000 * len(trainable) + 50_000


def test_a_checkpoint_of_another_adapter_is_refused(interrupted: Path) -> None:
    other = interrupted / "other"
    with dying_at(5):
        train_tiny(other, "evaluation=none", "adapter.options.r=8")
    shutil.copy(
        other / "run" / "checkpoints" / "step-000004.ckpt",
        interrupted / "run" / "checkpoints" / "step-000004.ckpt",
    )
    with pytest.raises(CheckpointError, match="another adapter configuration"):
        train_tiny(interrupted, "evaluation=none")


def test_a_checkpoint_write_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-000001.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"value": 1}, path)

    def fail(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        writer.save_checkpoint({"value": 2}, path)
    assert writer.load_checkpoint(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


# --- A real kill -9 ----------------------------------------------------------------------------

# Each is Python that runs in the child before train.py's own main; it ends the process by SIGKILL.
_PRELUDE = """
import os, runpy, signal
from embedllm.training.callbacks.dev_score import DevScore
def die():
    os.kill(os.getpid(), signal.SIGKILL)
true_score = DevScore._score
def rising(self, step, total):
    true_score(self, step, total)
    return float(step)
DevScore._score = rising
"""
_IN_CHECKPOINT_WRITE = """
import embedllm.files as files
fsync = os.fsync
def dying(handle):
    name = os.readlink(f"/proc/self/fd/{handle}")
    if ".step-000009.ckpt." in name:
        os.truncate(name, os.path.getsize(name) // 2)
        die()
    fsync(handle)
files.os.fsync = dying
"""
_IN_CANDIDATE_WRITE = """
import embedllm.models.adapter_folder as adapter_folder
original, count = adapter_folder.sha256_of, 0
def dying(path):
    global count
    count += 1
    if count == 5:  # three files a candidate: in the second one
        die()
    return original(path)
adapter_folder.sha256_of = dying
"""
_IN_DEV_SCORE = """
from embedllm.models.encoder import SentenceEncoder
def dying(self, step, total):
    if step == 10:
        SentenceEncoder._tokenize = lambda *_: die()
    return rising(self, step, total)
DevScore._score = dying
"""


@pytest.mark.usefixtures("rising_scores")
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    ("patch", "leaves"),
    [
        pytest.param(_IN_CHECKPOINT_WRITE, "checkpoints/.step-000009.ckpt.*", id="checkpoint"),
        pytest.param(_IN_CANDIDATE_WRITE, "candidates/.step-000010.*", id="candidate"),
        pytest.param(_IN_DEV_SCORE, "candidates/step-000005", id="dev-score"),
    ],
)
def test_sigkill_while_something_is_written(
    patch: str, leaves: str, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=3")
    code = f"{_PRELUDE}{patch}runpy.run_path('train.py', run_name='__main__')"
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *overrides]
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments, "trainer.accelerator=cpu"],
        cwd=REPOSITORY,
        env=script_environment(),
        capture_output=True,
        timeout=400,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    run = tmp_path / "run"
    assert list(run.glob(leaves))
    assert not (run / "adapter").exists()
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted(*overrides) / "adapter")


# A tiny step takes milliseconds; without the pause the run is over before a signal arrives.
_SLOW_STEPS = """
import runpy, time
from embedllm.training.callbacks.step_log import StepLog
write = StepLog._write
def write_and_wait(self, *arguments):
    write(self, *arguments)
    time.sleep(0.5)
StepLog._write = write_and_wait
runpy.run_path('train.py', run_name='__main__')
"""


@pytest.mark.parametrize("step", [13])
def test_sigkill_when_the_log_shows_a_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    config = tiny_config(tmp_path, *TWENTY_STEPS)
    assert config.trainer.log_every_n_steps == 1
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *TWENTY_STEPS]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _SLOW_STEPS, *arguments, "trainer.accelerator=cpu"],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        seen = any(f"step {step}/{NUM_STEPS}" in line for line in child.stdout)
        child.kill()
    assert seen
    assert child.returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert not (run / "adapter").exists()
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_ctrl_c_leaves_with_130_and_can_be_resumed(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *TWENTY_STEPS]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _SLOW_STEPS, *arguments, "trainer.accelerator=cpu"],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if f"step 6/{NUM_STEPS}" in line:
                child.send_signal(signal.SIGINT)
    text = "".join(lines)
    assert child.returncode == 130, text
    assert "error: interrupted; the same command with the same run_name goes on from here" in text
    assert "Traceback" not in text
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_a_start_that_left_nothing_may_be_corrected(tmp_path: Path) -> None:
    """A failure before the first result must not force another run_name on the corrected run."""
    with pytest.raises(ConfigError, match=r"adapter\.options"):
        train_tiny(tmp_path, "evaluation.before=false", "adapter.options.target_modules=[nothing]")
    assert (tmp_path / "run" / "run.json").exists()
    corrected = ("evaluation.before=false", "evaluation.tasks=[]")
    assert train_tiny(tmp_path, *corrected).adapter.is_dir()
    with pytest.raises(CheckpointError, match="seed: was 42, is 7"):
        train_tiny(tmp_path, *corrected, "seed=7")
