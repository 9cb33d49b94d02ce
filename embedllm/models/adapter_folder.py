"""The adapter folder: weights, and everything needed to use them the way they were trained.

    adapter_config.json          peft's own file (absent for full fine-tuning)
    adapter_model.safetensors    peft's own file (full: config.json, model*.safetensors)
    embedllm.json                base model, prompt, pooling, checksums, where it came from
    probe.safetensors            vectors of two sentences, compared on every load

An adapter that silently does not load gives plausible vectors of the untrained model; the probe
makes that impossible. All tensors are safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from embedllm import program
from embedllm.config import AdapterConfig, DemonstrationConfig, ModelConfig, PromptConfig
from embedllm.distributed import main_only
from embedllm.errors import AdapterError
from embedllm.files import new_folder, sha256_of
from embedllm.models.adapters import adapter_from_folder, load_adapter_state
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.quantization import describe_weights, described_quantization
from embedllm.models.weight_stream import Attachment
from embedllm.models.whole import whole_state
from embedllm.versions import library_versions

FORMAT_VERSION = 1
DESCRIPTION_FILE = "embedllm.json"
PROBE_FILE = "probe.safetensors"
_WEIGHTS = "adapter_model.safetensors"
PROBE_SENTENCES = (
    "A man is riding a horse along the beach.",
    'The committee said: "no decision has been made", didn\'t it?',
)
"""Two unlike sentences; the second has quotes and a question mark, so clean-up shows too."""

PROBE_TOLERANCE_SAME_DTYPE = 1e-3
"""Largest relative distance of a probe vector when the weights have the type they had in
training. Other kernels and library versions stay far below; another adapter does not."""
PROBE_TOLERANCE_OTHER_DTYPE = 0.1
"""The same when weights are loaded in another type, for example bfloat16 (8 bits of mantissa), or
when either base is in 8 bits: there kernels round inputs, and SmolLM2-135M is 0.03 away."""
PROBE_TOLERANCE_OTHER_QUANTIZATION = 0.4
"""The same when one of the two bases is in 4 bits and the other is not. SmolLM2-135M in NF4 is 0.2
away from its float32 (0.27 for the worst of 40 sentences; two sentences are 0.5 apart), larger
models less. Eight steps of training move a vector by 0.7."""


@dataclass(frozen=True)
class AdapterDescription:
    """Content of `embedllm.json`.

    Attributes:
        model: The base model as configured in training, pooling and layer included.
        prompt: The prompt as configured in training.
        method: peft method in lower case, or `full`.
        dtype: What the base weights were when the probe was made: `float32`, `nf4 (float32)`.
        training: Free facts for readers: step, score, data, seed.
        checksums: SHA-256 of every other file in the folder.
        versions: Libraries that wrote it.
        format_version: Version of this layout.
    """

    model: ModelConfig
    prompt: PromptConfig
    method: str
    dtype: str
    training: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save_adapter(
    folder: Path,
    encoder: SentenceEncoder,
    *,
    model: ModelConfig,
    prompt: PromptConfig,
    adapter: AdapterConfig,
    training: Mapping[str, Any],
) -> None:
    """Writes an adapter folder; it appears only when it is complete.

    Args:
        folder: Target, replaced when it exists.
        encoder: The trained encoder; its vectors become the probe.
        model: Config of the base model.
        prompt: Config of the prompt.
        adapter: Config of the adapter.
        training: Facts for readers.
    """
    from safetensors.numpy import save_file

    trunk = cast(Any, encoder.embedder.trunk)
    # Weights and vectors come from all ranks; rank 0 writes.
    state = whole_state(trunk, only_trainable=adapter.method != "full")
    vectors = encoder.encode(PROBE_SENTENCES)

    def write() -> None:
        with new_folder(folder) as work:
            trunk.save_pretrained(work, **({} if state is None else {"state_dict": state}))
            if adapter.method == "full":
                encoder.tokenizer.save_pretrained(work)
            # peft adds a model card that is empty but for its own headings.
            (work / "README.md").unlink(missing_ok=True)
            save_file({"vectors": vectors}, work / PROBE_FILE)
            description = AdapterDescription(
                model=model,
                prompt=prompt,
                method=adapter.method,
                dtype=describe_weights(trunk),
                training=dict(training),
                checksums={p.name: sha256_of(p) for p in sorted(work.iterdir())},
                versions=library_versions(),
            )
            text = json.dumps(asdict(description), indent=2, ensure_ascii=False)
            (work / DESCRIPTION_FILE).write_text(f"{text}\n", encoding="utf-8")

    main_only(write)


def read_description(folder: Path) -> AdapterDescription:
    """Returns the description of an adapter folder after checking every file's checksum.

    Needs no model, so damage is found before any weight of the base is loaded.

    Raises:
        AdapterError: Not an adapter folder, a newer format, or a missing or changed file.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise AdapterError(
            f"adapter_path={folder} is no adapter folder: it has no {DESCRIPTION_FILE} "
            f"({program.shown('train')} prints the path of the one it wrote)"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise AdapterError(
                f"{path} has format {version}, this version reads {FORMAT_VERSION}; update embedllm"
            )
        values["model"] = ModelConfig(**values["model"])
        demonstrations = [DemonstrationConfig(**d) for d in values["prompt"]["demonstrations"]]
        values["prompt"] = PromptConfig(**values["prompt"] | {"demonstrations": demonstrations})
        known = {f.name for f in fields(AdapterDescription)}
        description = AdapterDescription(**{k: v for k, v in values.items() if k in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"{path} is damaged: {error}") from error
    _verify_checksums(folder, description.checksums)
    return description


def _verify_checksums(folder: Path, checksums: Mapping[str, str]) -> None:
    if not isinstance(checksums, Mapping) or PROBE_FILE not in checksums:
        raise AdapterError(
            f"{folder / DESCRIPTION_FILE} is damaged: it lists no checksum of {PROBE_FILE}"
        )
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise AdapterError(f"{path} is missing; the adapter folder is incomplete")
        if sha256_of(path) != expected:
            raise AdapterError(
                f"{path} is damaged: its content is not what was saved (SHA-256 differs); "
                "copy the folder again or use another adapter"
            )


def saved_adapter(folder: Path) -> Attachment:
    """Returns the peft adapter of `folder`, every weight accounted for.

    Raises:
        AdapterError: Here or when it is attached: the adapter does not fit the trunk.
    """

    def attach(trunk: nn.Module) -> nn.Module:
        with _as_misfit(folder):
            adapted = fresh.attach(trunk)
        restore_adapter(adapted, folder)
        return adapted.requires_grad_(False)

    with _as_misfit(folder):
        fresh = adapter_from_folder(str(folder))
    return replace(fresh, attach=attach)


@contextmanager
def _as_misfit(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"the adapter in {folder} does not fit this model: {error}") from error


def restore_adapter(adapted: nn.Module, folder: Path) -> None:
    """Sets the weights of the adapter that `adapted` already has to those in `folder`.

    Raises:
        AdapterError: The weights do not fit.
    """
    load_adapter_state(adapted, _read_tensors(folder / _WEIGHTS))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path} is damaged: {error}") from error
    return tensors


def verify_probe(encoder: SentenceEncoder, folder: Path, *, saved_dtype: str) -> float:
    """Compares the encoder's vectors of the probe sentences with the saved ones.

    Args:
        encoder: The loaded encoder.
        folder: The adapter folder.
        saved_dtype: What the base weights were when the probe was made.

    Returns:
        The largest relative distance |v - saved| / |saved|.

    Raises:
        AdapterError: The distance is above the tolerance for this pair of types.
    """
    tensors = _read_tensors(folder / PROBE_FILE)
    if "vectors" not in tensors:
        raise AdapterError(f"{folder / PROBE_FILE} is damaged: it holds no vectors")
    saved = tensors["vectors"].double().numpy()
    loaded = encoder.encode(PROBE_SENTENCES).astype(np.float64)
    if loaded.shape != saved.shape:
        raise AdapterError(
            f"the adapter in {folder} was saved with vectors of width {saved.shape[1]}, this "
            f"model gives {loaded.shape[1]}: another base model, pooling or layer"
        )
    norms = np.linalg.norm(saved, axis=1)
    distance = float((np.linalg.norm(loaded - saved, axis=1) / norms).max())
    dtype = describe_weights(encoder.embedder.trunk)
    tolerance = _tolerance(saved_dtype, dtype)
    if not distance <= tolerance:
        raise AdapterError(
            f"the adapter in {folder} does not give the vectors it was saved with: relative "
            f"distance {distance:.3g}, allowed {tolerance} (saved in {saved_dtype}, loaded in "
            f"{dtype}). The base model, prompt or pooling is another one than in training; "
            "leave out model=... and prompt=... to use the adapter's own"
        )
    return distance


def _tolerance(saved: str, loaded: str) -> float:
    """Returns the largest relative distance for two kinds of base weights."""
    kinds = {described_quantization(saved), described_quantization(loaded)}
    if "nf4" in kinds and len(kinds) > 1:
        return PROBE_TOLERANCE_OTHER_QUANTIZATION
    if saved == loaded and "int8" not in kinds:
        return PROBE_TOLERANCE_SAME_DTYPE
    return PROBE_TOLERANCE_OTHER_DTYPE
