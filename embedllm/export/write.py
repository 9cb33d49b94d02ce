"""An exported folder: written beside its place, loaded anew, compared, and only then there."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from embedllm.config import ExportConfig
from embedllm.errors import AdapterError
from embedllm.export.card import write_card
from embedllm.export.output_folder import check_space, identity_of, refuse_output
from embedllm.export.places import without_places
from embedllm.export.sentence_transformers_folder import (
    FOREIGN_FILES,
    load_folder,
    require_sentence_transformers,
    write_modules,
)
from embedllm.export.source import Source, is_quantized, load_merged, num_bytes
from embedllm.files import new_folder, sha256_of, write_json
from embedllm.log import get_logger
from embedllm.models.adapter_folder import (
    DESCRIPTION_FILE,
    PROBE_FILE,
    PROBE_SENTENCES,
    PROBE_TOLERANCE_OTHER_DTYPE,
    AdapterDescription,
    verify_probe,
)
from embedllm.models.backbone import load_tokenizer
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder
from embedllm.versions import library_versions

_log = get_logger(__name__)
_CPU: Final = torch.device("cpu")

PROBES: Final[tuple[str, ...]] = (
    *PROBE_SENTENCES,
    "",
    " ",
    "Rain!",
    "Is it raining?",
    'She asked "why?" and left',
    "It's a line\nand\tanother  one",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \uff01 na\u00efve \U0001f600\U0001f468\u200d\U0001f469",
    "{sentence} {{ s }} <s></s> 50% \\n",
    "word " * 300,
)
"""Texts on which every exported folder is compared with the adapter. The last is long; what is too
long for the model is compared by its tokens, which costs no pass."""

MERGE_TOLERANCE: Final = 1e-4
"""Largest difference of vectors of merged weights from the adapter's, relative to their length.
Merging changes the order of float32 sums: SmolLM2-135M is 4e-6 away."""

TOLERANCE: Final = 1e-5
"""Largest difference of an exported vector from ours, relative to the vector's length: float32
sums in another order."""


def write_export(config: ExportConfig, source: Source) -> Path:
    """Makes `config.output` and returns it.

    Raises:
        AdapterError: The exported vectors are not the adapter's; nothing is left behind.
        CheckpointError: There is no room, or the folder cannot be written.
        ConfigError: The folder holds something else, or what checks it is not installed.
    """
    output, cache_dir = Path(config.output).expanduser(), Path(config.paths.cache_dir)
    refuse_output(config, source, output)
    if config.format == "sentence-transformers":
        require_sentence_transformers()
    check_space(output, num_bytes(source, cache_dir))
    vectors = _adapter_vectors(source, cache_dir)
    with new_folder(output.resolve()) as work:
        _write_weights(work, config, source, cache_dir)
        encoder = _describe_and_load(work, config, source, cache_dir)
        _compare_with_adapter(encoder, vectors, source)
        is_plain = _write_modules(work, encoder) if _is_st(config) else True
        _write_description(work, config, source, encoder)
        write_card(work, config, source)
        _compare_as_others_load(work, config, encoder, is_plain=is_plain)
    return output


def _adapter_vectors(source: Source, cache_dir: Path) -> np.ndarray | None:
    """Returns what the adapter on its whole base gives; None where there is no whole base."""
    if is_quantized(source, cache_dir):
        return None
    model = replace(source.model, dtype="float32")
    encoder = load_adapted_encoder(source.folder, cache_dir, device=_CPU, model=model)
    if source.description.dtype != source.dtype:
        _log.info(
            "trained over %s; merged into the base in %s", source.description.dtype, source.dtype
        )
    return encoder.encode(PROBES)


def _is_st(config: ExportConfig) -> bool:
    return config.format == "sentence-transformers"


def _write_weights(work: Path, config: ExportConfig, source: Source, cache_dir: Path) -> None:
    model = load_merged(source, cache_dir)
    # sentence-transformers reads states and has no use for the head.
    part: Any = model.base_model if _is_st(config) else model
    # The original format of de-quantised weights is the packed one.
    part.save_pretrained(work, save_original_format=not is_quantized(source, cache_dir))
    load_tokenizer(source.model, cache_dir).save_pretrained(work)


def _describe_and_load(
    work: Path, config: ExportConfig, source: Source, cache_dir: Path
) -> SentenceEncoder:
    """Returns the folder's encoder in float32, as anybody will load it."""
    from safetensors.numpy import save_file

    from embedllm.models.loading import full_model, load_encoder

    model = replace(full_model(source.model, work), tokenizer=None, dtype="float32")
    encoder = load_encoder(model, source.description.prompt, cache_dir, device=_CPU)
    save_file({"vectors": encoder.encode(PROBE_SENTENCES)}, work / PROBE_FILE)
    return encoder


def _compare_with_adapter(
    encoder: SentenceEncoder, expected: np.ndarray | None, source: Source
) -> None:
    if expected is None:
        # Quantised products are rounded; the probe's tolerance is made for that.
        verify_probe(encoder, source.folder, saved_dtype=source.description.dtype)
        return
    probes, tolerance = PROBES, MERGE_TOLERANCE
    if source.dtype != "float32":
        # That tolerance is known for sentences, not for a lone emoji.
        probes, tolerance = PROBE_SENTENCES, PROBE_TOLERANCE_OTHER_DTYPE
    distance = relative_distance(encoder.encode(probes), expected[: len(probes)])
    _log.info("the merged weights (%s) are %.2g from the adapter", source.dtype, distance)
    if not distance <= tolerance:
        raise AdapterError(
            f"the exported vectors are {distance:.3g} away from the adapter's, allowed "
            f"{tolerance}; nothing was written. Use dtype=float32 where another type was asked for"
        )


def _write_modules(work: Path, encoder: SentenceEncoder) -> bool:
    is_plain = write_modules(work, encoder, probes=PROBES)
    if not is_plain:
        _log.warning(
            "sentence-transformers' own modules do not read this prompt as embedllm does: the "
            "folder needs embedllm and trust_remote_code=True"
        )
    return is_plain


def _write_description(
    work: Path, config: ExportConfig, source: Source, encoder: SentenceEncoder
) -> None:
    description, model = source.description, source.description.model
    names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
    written = AdapterDescription(
        # `full`: the folder itself is the model. Its type is chosen on loading, as before.
        model=replace(
            model,
            name=without_places(model.name, source.folder),
            tokenizer=None,
            gguf_package=None,
            quantization="none",
        ),
        prompt=description.prompt,
        method="full",
        dtype=encoder.dtype,
        training={
            **without_places(description.training, source.folder),
            "export": identity_of(config, source),
        },
        # Others may write these anew with the folder's other files as they are.
        checksums={n: sha256_of(work / n) for n in names if n not in FOREIGN_FILES},
        versions=library_versions(),
    )
    write_json(work / DESCRIPTION_FILE, asdict(written))


def _compare_as_others_load(
    work: Path, config: ExportConfig, encoder: SentenceEncoder, *, is_plain: bool
) -> None:
    """Loads the finished folder in fresh objects and compares.

    Raises:
        AdapterError: A vector differs.
    """
    expected = encoder.encode(PROBES)
    found = {"embedllm": SentenceEncoder.load(work, device="cpu", dtype="float32").encode(PROBES)}
    if _is_st(config):
        model = load_folder(work, is_plain=is_plain)
        found["sentence-transformers"] = model.encode(list(PROBES), show_progress_bar=False)
    for library, vectors in found.items():
        distance = relative_distance(vectors, expected)
        _log.info("loaded by %s: vectors differ by %.2g", library, distance)
        if not distance <= TOLERANCE:
            raise AdapterError(
                f"{library} gives other vectors of the exported folder: relative distance "
                f"{distance:.3g}, allowed {TOLERANCE}; nothing was written. Use format=merged"
            )


def relative_distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest |v - expected| / |expected| of [N, D] vectors."""
    difference = np.linalg.norm(found.astype(np.float64) - expected, axis=1)
    return float((difference / np.linalg.norm(expected.astype(np.float64), axis=1)).max())
