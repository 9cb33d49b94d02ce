"""What `python -m embedllm encode` does: index the input, make the missing shards, say so."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from embedllm.config import EncodeConfig, fingerprint
from embedllm.console import print_line
from embedllm.distributed import use_device_of
from embedllm.encoding.index import RecordIndex, load_or_build_index, read_index
from embedllm.encoding.inputs import open_inputs
from embedllm.encoding.manifest import Manifest, describe_settings, refuse_file
from embedllm.encoding.reader import read_shards
from embedllm.encoding.shards import ShardFolder
from embedllm.encoding.work import ShardWorker
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries
from embedllm.models.backbone import load_model_config, resolve_device
from embedllm.models.configured import EncoderChoice, choose_encoder
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.quantization import describe_dtype
from embedllm.models.vector_cache import checksum_weights
from embedllm.prompts.template import build_more_prompts, build_prompt
from embedllm.ranks import Rank, current_rank

_log = get_logger(__name__)

_COMMAND: Final = "python -m embedllm encode"


def run_encode(config: EncodeConfig, invocation: Invocation) -> None:
    """Makes the shards that are missing, or says that all are there.

    Any number of processes may run this with the same folder at once; the main one reports.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    start = time.perf_counter()
    quiet_libraries()
    rank = current_rank()
    use_device_of(rank)
    output = Path(config.output).expanduser()
    refuse_file(output)
    choice = choose_encoder(
        config.model,
        config.prompt,
        adapter_path=config.adapter_path,
        overrides=invocation.overrides,
    )
    build_prompt(choice.prompt)
    build_more_prompts(choice.prompt)
    files = open_inputs(config)
    device = resolve_device()
    settings = describe_settings(
        config,
        choice,
        files,
        dtype=describe_dtype(choice.model, device),
        device=device.type,
    )
    folder = ShardFolder(output, suffix=config.format, dtype=config.dtype)
    folder.make()
    manifest = Manifest(folder, settings, command=[*_COMMAND.split(), *invocation.overrides])
    load = _encoder_loader(config, choice, manifest)
    index_path = folder.work / f"index-{fingerprint(settings['input'] | settings['output'])}.json"
    index = read_index(index_path)
    if index is None:
        _check_model(config, choice)
        index = load_or_build_index(
            index_path, files, folder, shard_rows=config.shard_rows, on_bad_row=config.on_bad_row
        )
    worker = ShardWorker(load, files, index, folder, manifest, rank)
    missing = worker.missing()
    _note_plan(manifest, index, missing)
    worker.make(missing)
    if rank.is_main:
        seconds = time.perf_counter() - start
        _report(invocation, folder, manifest, index, missing, rank, seconds=seconds)


def _check_model(config: EncodeConfig, choice: EncoderChoice) -> None:
    """Raises ModelError for a model that cannot be had, before the input is read for long."""
    if choice.adapter is None:
        load_model_config(choice.model, Path(config.paths.cache_dir))


def _encoder_loader(
    config: EncodeConfig, choice: EncoderChoice, manifest: Manifest
) -> Callable[[], SentenceEncoder]:
    """Returns a function that loads the encoder at its first call.

    A call that finds all shards there loads nothing.
    """

    @cache
    def load() -> SentenceEncoder:
        encoder = choice.load(
            Path(config.paths.cache_dir),
            device=resolve_device(),
            tokens_per_batch=config.tokens_per_batch,
        )
        manifest.note_weights(checksum_weights(encoder.embedder.trunk))
        _log.info("prompt in use: %s", encoder.describe())
        return encoder

    return load


def _note_plan(manifest: Manifest, index: RecordIndex, missing: list[int]) -> None:
    manifest.note(
        num_rows=index.num_rows,
        num_bad_rows=index.num_bad_rows,
        num_shards=index.num_shards,
        id_type=index.id_type,
    )
    num_there = index.num_shards - len(missing)
    _log.info("%d rows in %d shards, %d are there", index.num_rows, index.num_shards, num_there)
    if index.num_bad_rows:
        _log.warning(
            "%d rows without a readable sentence are empty sentences (on_bad_row=empty)",
            index.num_bad_rows,
        )


def _report(
    invocation: Invocation,
    folder: ShardFolder,
    manifest: Manifest,
    index: RecordIndex,
    made: list[int],
    rank: Rank,
    *,
    seconds: float,
) -> None:
    """Notes the width of the vectors and prints what is there and how fast it came."""
    embedding_dim = int(next(read_shards(folder.root)).vectors.shape[1])
    manifest.note(embedding_dim=embedding_dim)
    if made:
        num_rows = sum(len(index.rows_of(shard)) for shard in made)
        _log.info(
            "%d rows in %.1f s, %.1f rows/s, %d process(es)",
            num_rows,
            seconds,
            num_rows / seconds,
            rank.world_size,
        )
    state = "written" if made else "all there already"
    text = (
        f"{index.num_rows:,} vectors of {embedding_dim} {folder.dtype.name} numbers in "
        f"{index.num_shards} shards, {state}: {folder.root}"
    )
    record = {
        "output": str(folder.root),
        "num_rows": index.num_rows,
        "num_shards": index.num_shards,
        "num_shards_made": len(made),
        "embedding_dim": embedding_dim,
        "dtype": folder.dtype.name,
    }
    invocation.show(record, lambda console: print_line(console, text))
