"""`python -m embedllm encode`: every format, killed, shared, refused, and how much it holds."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encode_files import (
    SPREAD,
    SUFFIXES,
    arguments,
    close,
    encode,
    read_bytes,
    shard_times,
    write_input,
)
from hydra import compose, initialize_config_dir
from tiny_models import build_tiny_config
from tiny_runs import REPOSITORY, read_json, restored_logging, run_script, script_environment

from embedllm.config import AdapterConfig, EncodeConfig, PromptConfig
from embedllm.encoding import command, read_shards
from embedllm.encoding.shards import ShardFolder
from embedllm.entry import CONF_DIR, register, to_typed
from embedllm.invocation import Invocation
from embedllm.models.adapter_folder import save_adapter
from embedllm.models.adapters import attach_adapter
from embedllm.models.configured import EncoderChoice
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder

FLOAT32_TOLERANCE = 1e-6
# Other companions in a batch are other shapes of the same sums.
COMPANIONS_TOLERANCE = 1e-5
FLOAT16_TOLERANCE = 2**-10
CPU = torch.device("cpu")
START_SECONDS = 300.0
SHARD_ROWS = 50
NUM_SHARDS = 12
SIZE = (f"shard_rows={SHARD_ROWS}",)
# A whole process holds what it has freed too; without growth the two moments differ by 1 MB or so.
MAX_GROWTH_MB = 30.0

TEXTS = [
    "A man is riding a horse.",
    "",
    'She said: "no", didn\'t she?',
    "na\u00efve caf\u00e9 \U0001f600",
    "two\u2028parts",
    "A man is riding a horse.",
    *(f"Sentence {i} about {'dogs ' * (i % 4)}and cats" for i in range(14)),
]


@pytest.fixture(autouse=True)
def _restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with restored_logging():
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "sentences.txt"
    return write_input(
        path, [f"A {i} eats {i % 7} apples." for i in range(SHARD_ROWS * NUM_SHARDS - 7)]
    )


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call run through; tests copy what they change."""
    with restored_logging():
        return encode(source, tmp_path_factory.mktemp("finished") / "out", *SIZE)


def compose_encode(*overrides: str) -> EncodeConfig:
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = to_typed(compose("encode", overrides=["input=x", "output=x", *overrides]))
    assert isinstance(config, EncodeConfig)
    return config


def tiny_encoder(*overrides: str) -> SentenceEncoder:
    config = compose_encode("model=tiny", SPREAD, *overrides)
    return load_encoder(config.model, config.prompt, Path("unused"), device=CPU)


def start_encode(source: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", *arguments(source, output, *SIZE)],
        cwd=REPOSITORY,
        env=script_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Returns when the condition holds; fails when the process ends before."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


def stack(folder: Path) -> tuple[list[Any], np.ndarray]:
    found = list(read_shards(folder))
    return [i for s in found for i in s.ids.tolist()], np.concatenate([s.vectors for s in found])


# --- What is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_vectors_of_the_encoder(suffix: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / f"x.{suffix}", TEXTS, [f"id {i}" for i in range(len(TEXTS))])
    named = () if suffix == "txt" else ("id_column=id",)
    ids, vectors = stack(encode(path, tmp_path / "out", "shard_rows=7", *named))
    encoder = tiny_encoder()
    shards = [encoder.encode(TEXTS[start : start + 7]) for start in (0, 7, 14)]
    assert ids == (list(range(len(TEXTS))) if suffix == "txt" else [f"id {i}" for i in range(20)])
    assert vectors.dtype == np.float32
    assert close(vectors, np.concatenate(shards), FLOAT32_TOLERANCE)
    # Other companions in the batch are other roundings.
    assert close(vectors, encoder.encode(TEXTS), COMPANIONS_TOLERANCE)
    # Other sentences have other vectors, the same sentence has the same.
    assert not close(vectors[:1], vectors[2:3], 0.01)
    assert np.array_equal(vectors[0], vectors[5])


@pytest.mark.parametrize("output_format", ["npy", "parquet"])
def test_float16_has_its_own_precision(output_format: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / "x.jsonl", TEXTS)
    folder = encode(path, tmp_path / "out", f"format={output_format}", "dtype=float16")
    ids, vectors = stack(folder)
    assert (ids, vectors.dtype) == (list(range(len(TEXTS))), np.float16)
    assert close(vectors.astype(np.float32), tiny_encoder().encode(TEXTS), FLOAT16_TOLERANCE)


def test_a_method_of_several_templates_is_encoded_too(tmp_path: Path) -> None:
    path = write_input(tmp_path / "x.txt", TEXTS)
    _, vectors = stack(encode(path, tmp_path / "out", "method=metaeol"))
    encoder = tiny_encoder("method=metaeol")
    assert encoder.more_prompts
    assert close(vectors, encoder.encode(TEXTS), FLOAT32_TOLERANCE)


def test_an_adapter_brings_its_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_tiny_config("opt")
    prompt = PromptConfig(template='"{sentence}" is:"')
    encoder = load_encoder(model, prompt, tmp_path / "cache", device=CPU)
    plain = encoder.encode(TEXTS)
    adapter = AdapterConfig(method="lora", options={"r": 2, "target_modules": "all-linear"})
    encoder.embedder.trunk = attach_adapter(encoder.embedder.trunk, adapter, seed=0)
    with torch.no_grad():
        for parameter in encoder.embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    encoder.embedder.eval()
    folder = tmp_path / "adapter"
    save_adapter(folder, encoder, model=model, prompt=prompt, adapter=adapter, training={})
    path = write_input(tmp_path / "x.txt", TEXTS)
    call = ["encode", f"input={path}", f"output={tmp_path / 'out'}", f"adapter_path={folder}"]
    command.run_encode(compose_encode(*call[1:]), Invocation(call[1:], tmp_path))
    _, vectors = stack(tmp_path / "out")
    assert close(vectors, encoder.encode(TEXTS), 1e-5)
    assert not close(vectors, plain, 0.01)
    settings = read_json(tmp_path / "out" / "manifest.json")["settings"]
    assert settings["prompt"]["template"] == prompt.template
    assert settings["adapter_sha256"]
    for override in ("prompt=plain", "prompt.clean_up=none", "method=echo"):
        with pytest.raises(ValueError, match=f"so {override} has no place"):
            command.run_encode(
                compose_encode(*call[1:], override),
                Invocation([*call[1:], override], tmp_path),
            )
    assert capsys.readouterr().out.count("20 vectors of 32 float32 numbers in 1 shards") == 1


def test_the_manifest_says_what_decides_the_vectors(finished: Path, source: Path) -> None:
    manifest = read_json(finished / "manifest.json")
    num_rows = SHARD_ROWS * NUM_SHARDS - 7
    assert (manifest["num_rows"], manifest["num_shards"]) == (num_rows, NUM_SHARDS)
    assert (manifest["embedding_dim"], manifest["num_bad_rows"]) == (32, 0)
    assert len(manifest["weights"]) == 64
    settings = manifest["settings"]
    assert settings["input"]["files"][str(source)]["bytes"] == source.stat().st_size
    assert settings["model"]["architecture"]["init_std"] == 0.2
    assert settings["model"]["dtype"] == "float32"
    assert {"torch", "transformers", "embedllm"} <= settings["versions"].keys()


# --- Killed, shared, finished -------------------------------------------------------------------


def test_killed_and_resumed_equals_run_through(
    source: Path, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start_encode(source, output)
    wait_for(lambda: len(list(output.glob("vectors-*"))) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = shard_times(output)
    num_there = sum(name.startswith("vectors") for name in before)
    assert 3 <= num_there < NUM_SHARDS
    encode(source, output, *SIZE)
    after = shard_times(output)
    # Ids alone, without the vectors, are no shard yet.
    whole = {name for name in before if (output / name.replace("ids", "vectors")).name in before}
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert read_bytes(output) == read_bytes(finished)


def test_two_processes_give_the_same_bytes(source: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    folder = ShardFolder(output, suffix="npy", dtype="float32")
    folder.make()
    first, second = range(NUM_SHARDS // 2), range(NUM_SHARDS // 2, NUM_SHARDS)
    # Each makes its half, so that neither can do all of the work.
    with ExitStack() as claims:
        for shard in first:
            assert claims.enter_context(folder.claimed(shard))
        other = start_encode(source, output, RANK="1", WORLD_SIZE="2")
        wait_for(lambda: folder.list_there() == set(second), other)
        other.send_signal(signal.SIGSTOP)
    main = start_encode(source, output, RANK="0", WORLD_SIZE="2")
    try:
        texts = [main.communicate(timeout=START_SECONDS)[0]]
    finally:
        other.send_signal(signal.SIGCONT)
    texts.append(other.communicate(timeout=START_SECONDS)[0])
    assert (main.returncode, other.returncode) == (0, 0), texts
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
    encode(source, output, *SIZE)
    assert shard_times(output) == before
    assert "all there already" in capsys.readouterr().out


def test_a_smaller_batch_may_go_on(source: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "vectors-00004.npy").unlink()
    encode(source, output, *SIZE, "tokens_per_batch=64")
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
        encode(source, output, *SIZE, override)
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


# --- Errors -------------------------------------------------------------------------------------


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


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """A limit on file size stands in for the full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


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


# --- Memory -------------------------------------------------------------------------------------


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) / 1024
    raise AssertionError("the process has ended")


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_million_rows_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with path.open("w") as file:
        file.writelines(f"dog {i % 1009} and cat {i}\n" for i in range(1_000_000))
    output = tmp_path / "out"
    start = time.monotonic()
    process = start_encode_large(path, output)
    resident = {}
    while process.poll() is None:
        num_there = len(list(output.glob("vectors-*")))
        if num_there in (2, 20) and num_there not in resident:
            resident[num_there] = _resident_mb(process.pid)
        time.sleep(0.02)
    seconds = time.monotonic() - start
    assert process.returncode == 0, process.communicate()[0]
    figures = f"{seconds:.0f} s, {1_000_000 / seconds:.0f} rows/s, resident MB: {resident}"
    sys.stderr.write(f"\na million rows: {figures}\n")
    assert resident[20] < resident[2] + MAX_GROWTH_MB, figures
    assert sum(len(shard.ids) for shard in read_shards(output)) == 1_000_000


def start_encode_large(source: Path, output: Path) -> subprocess.Popen[str]:
    overrides = arguments(source, output, "shard_rows=50000")
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", *overrides],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
