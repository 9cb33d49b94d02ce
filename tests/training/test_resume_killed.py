"""A training process that is killed with SIGKILL or Ctrl-C goes on to the same adapter."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Forked
from interrupted_runs import NUM_STEPS, WITH_DEV_SCORES
from tiny_runs import (
    REPOSITORY,
    TWENTY_STEPS,
    have_equal_weights,
    script_environment,
    tiny_config,
    train_tiny,
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")

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
        pytest.param(
            *(_IN_DEV_SCORE, "candidates/step-000005"), id="dev-score", marks=pytest.mark.slow
        ),
    ],
)
def test_sigkill_while_something_is_written(
    patch: str, leaves: str, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = (*WITH_DEV_SCORES, "trainer.checkpoint_every_n_steps=3")
    code = f"{_PRELUDE}{patch}runpy.run_path('train.py', run_name='__main__')"
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *overrides]
    ended = _start(code, *arguments).wait(400)
    assert ended.returncode == -signal.SIGKILL, ended.stdout
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


def _start(code: str, *arguments: str) -> Forked:
    """Starts code that runs `train.py`; both its streams are kept as its output."""
    words = ("-c", code, *arguments, "trainer.accelerator=cpu")
    return Forked(words, script_environment(), folder=REPOSITORY, is_merged=True)


@pytest.mark.slow  # Kills at random moments are in tests/faults.
@pytest.mark.parametrize("step", [13])
def test_sigkill_when_the_log_shows_a_step(
    step: int, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    config = tiny_config(tmp_path, *TWENTY_STEPS)
    assert config.trainer.log_every_n_steps == 1
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *TWENTY_STEPS]
    child = _start(_SLOW_STEPS, *arguments)
    assert any(f"step {step}/{NUM_STEPS}" in line for line in child.lines())
    child.send_signal(signal.SIGKILL)
    assert child.wait(60).returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert not (run / "adapter").exists()
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")


def test_ctrl_c_leaves_with_130_and_can_be_resumed(
    tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    arguments = ["debug=tiny", "run_name=run", f"paths.output_dir={tmp_path}", *TWENTY_STEPS]
    child = _start(_SLOW_STEPS, *arguments)
    for line in child.lines():
        if f"step 6/{NUM_STEPS}" in line:
            child.send_signal(signal.SIGINT)
    ended = child.wait(60)
    text = ended.stdout
    assert ended.returncode == 130, text
    assert "error: interrupted; the same command with the same run_name goes on from here" in text
    assert "Traceback" not in text
    result = train_tiny(tmp_path, *TWENTY_STEPS)
    assert have_equal_weights(result.adapter, uninterrupted(*TWENTY_STEPS) / "adapter")
