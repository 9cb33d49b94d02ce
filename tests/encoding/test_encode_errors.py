"""What an encoding says about wrong values, wrong rows and a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encode_files import close, encode, read_bytes, shard_times, write_input
from encode_runs import FLOAT32_TOLERANCE, stack, tiny_encoder
from limits import largest_file
from tiny_runs import REPOSITORY, read_json, run_script

from embedllm.models.configured import EncoderChoice
from embedllm.models.encoder import SentenceEncoder

pytestmark = pytest.mark.usefixtures("entry_process")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["input=no.txt"], ["input=no.txt: no such file"]),
        (["input=5"], ["input=5 must be a file, a pattern or a list"]),
        (["input=[]"], ["input=[] must be a file"]),
        (["input_format=csv"], ["text_column=text is not there", "'A 0 eats 0 apples.'"]),
        (["input_format=parquet"], ["not a whole Parquet file"]),
        (["input_format=word"], ["input_format='word' is not known; allowed: auto, text"]),
        (["id_column=id"], ["is a text file, which has no columns"]),
        (["format=csv"], ["format='csv' is not known; allowed: npy, parquet"]),
        (["prompt.template=none"], ["prompt.template"]),
        (["model.architecture.model_type=nothing"], ["model_type='nothing'"]),
        (["adapter_path=/nowhere"], ["adapter_path=/nowhere is no adapter folder"]),
        (["output=FILE"], ["is a file; it must be a folder"]),
        (["output=PARENT"], ["lies in output="]),
    ],
)
def test_errors_come_before_any_weight(
    overrides: list[str],
    parts: list[str],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delattr(EncoderChoice, "load")
    places = {"output=FILE": f"output={source}", "output=PARENT": f"output={source.parent}"}
    overrides = [places.get(override, override) for override in overrides]
    with pytest.raises(SystemExit) as stop:
        encode(source, tmp_path / "out", *overrides)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    for part in parts:
        assert part in message
    assert not list(source.parent.glob("vectors-*"))


def test_a_bad_row_is_one_message_or_an_empty_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": "c"}\n')
    with pytest.raises(SystemExit) as stop:
        encode(path, tmp_path / "out")
    assert stop.value.code == 2
    assert f"{path}:2: column 'text' is null" in capsys.readouterr().err
    ids, vectors = stack(encode(path, tmp_path / "out", "on_bad_row=empty"))
    assert ids == [0, 1, 2]
    assert close(vectors, tiny_encoder().encode(["a", "", "c"]), FLOAT32_TOLERANCE)
    assert read_json(tmp_path / "out" / "manifest.json")["num_bad_rows"] == 1


def test_what_float16_cannot_hold_is_one_message(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encode_small = SentenceEncoder.encode

    def encode_large(self: SentenceEncoder, sentences: Any, **options: Any) -> np.ndarray:
        return encode_small(self, sentences, **options) * np.float32(1e6)

    monkeypatch.setattr(SentenceEncoder, "encode", encode_large)
    with pytest.raises(SystemExit) as stop:
        encode(source, tmp_path / "out", "dtype=float16")
    assert stop.value.code == 2
    assert "dtype=float32" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("vectors-*"))


@pytest.mark.parametrize("output_format", ["npy", "parquet"])
def test_finished_shards_outlive_a_full_disk(
    output_format: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_input(tmp_path / "x.txt", [f"text {i}" for i in range(300)])
    values = ("shard_rows=250", f"format={output_format}")
    output = tmp_path / "out"
    whole = encode(path, tmp_path / "whole", *values)
    # The second of two processes begins with the second shard, which is small.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with largest_file(20_000), pytest.raises(SystemExit) as stop:
        encode(path, output, *values)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "set output to another folder" in message
    assert "Traceback" not in message
    assert [p.name for p in output.glob("vectors-*")] == [f"vectors-00001.{output_format}"]
    before = shard_times(output)
    encode(path, output, *values)
    name = f"vectors-00001.{output_format}"
    assert shard_times(output)[name] == before[name]
    assert read_bytes(output) == read_bytes(whole)


def test_an_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    result = run_script("-m", "embedllm", "encode", "model=tiny", "input=no.txt")
    assert result.returncode == 2
    assert "output" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (REPOSITORY / ".hydra").exists()
