"""`python -m embedllm encode`: killed, shared, finished, gone on with other values."""

from __future__ import annotations

import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from encode_files import arguments, close, encode, read_bytes, shard_times
from encode_runs import FLOAT32_TOLERANCE, NUM_SHARDS, SIZE, stack
from processes import START_SECONDS, start_command, wait_for

from embedllm.encoding import command
from embedllm.encoding.shards import ShardFolder
from embedllm.models.configured import EncoderChoice

pytestmark = pytest.mark.usefixtures("entry_process")


def _shard_folder(output: Path) -> ShardFolder:
    """Returns the folder of a call that is not begun yet, as one of its processes opens it."""
    folder = ShardFolder(output, suffix="npy", dtype="float32")
    folder.make()
    return folder


def test_killed_and_resumed_equals_run_through(
    source: Path, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = _shard_folder(output)
    # Without the last shard the call cannot be over before it is killed.
    with folder.claimed(NUM_SHARDS - 1):
        process = start_command(*arguments(source, output, SIZE))
        wait_for(lambda: len(list(output.glob("vectors-*"))) >= 3, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60).returncode == -signal.SIGKILL
    before = shard_times(output)
    num_there = sum(name.startswith("vectors") for name in before)
    assert 3 <= num_there < NUM_SHARDS
    encode(source, output, SIZE)
    after = shard_times(output)
    # Ids alone, without the vectors, are no shard yet.
    whole = {name for name in before if (output / name.replace("ids", "vectors")).name in before}
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert read_bytes(output) == read_bytes(finished)


def test_two_processes_give_the_same_bytes(source: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder = _shard_folder(output)
    first, second = range(NUM_SHARDS // 2), range(NUM_SHARDS // 2, NUM_SHARDS)
    # Each makes its half, so that neither can do all of the work.
    with ExitStack() as claims:
        for shard in first:
            assert claims.enter_context(folder.claimed(shard))
        other = start_command(*arguments(source, output, SIZE), RANK="1", WORLD_SIZE="2")
        wait_for(lambda: folder.list_there() == set(second), other)
        other.send_signal(signal.SIGSTOP)
    main = start_command(*arguments(source, output, SIZE), RANK="0", WORLD_SIZE="2")
    try:
        ended = [main.wait(START_SECONDS)]
    finally:
        other.send_signal(signal.SIGCONT)
    ended.append(other.wait(START_SECONDS))
    texts = [process.stdout for process in ended]
    assert [process.returncode for process in ended] == [0, 0], texts
    assert read_bytes(output) == read_bytes(finished)
    # Only the main process reports.
    assert "written:" in texts[0]
    assert "written:" not in texts[1]


def test_a_finished_folder_loads_no_model(
    source: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    monkeypatch.delattr(EncoderChoice, "load")
    monkeypatch.delattr(command, "load_model_config")
    before = shard_times(output)
    encode(source, output, SIZE)
    assert shard_times(output) == before
    assert "all there already" in capsys.readouterr().out


def test_a_smaller_batch_may_go_on(source: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "vectors-00004.npy").unlink()
    encode(source, output, SIZE, "tokens_per_batch=64")
    assert close(stack(output)[1], stack(finished)[1], FLOAT32_TOLERANCE)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("prompt=plain", "prompt.template: was"),
        ("prompt.clean_up=none", "prompt.clean_up: was 'paper', is 'none'"),
        ("model.normalize=true", "model.normalize: was False, is True"),
        ("dtype=float16", "output.dtype: was 'float32', is 'float16'"),
        ("shard_rows=51", "output.shard_rows: was 50, is 51"),
        ("on_bad_row=empty", "input.on_bad_row: was 'error', is 'empty'"),
    ],
)
def test_other_values_are_refused(
    override: str,
    key: str,
    source: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    before = read_bytes(output)
    with pytest.raises(SystemExit) as stop:
        encode(source, output, SIZE, override)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"error: output={output} holds vectors of another call (" in message
    assert key in message
    assert read_bytes(output) == before


def test_a_changed_input_is_refused(
    source: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.txt"
    shutil.copyfile(source, path)
    output = encode(path, tmp_path / "out", "shard_rows=500")
    with path.open("a") as file:
        file.write("one more\n")
    with pytest.raises(SystemExit) as stop:
        encode(path, output, "shard_rows=500")
    assert stop.value.code == 2
    assert "x.txt.bytes: was" in capsys.readouterr().err
