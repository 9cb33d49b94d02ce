"""What is exported: an adapter folder, its base model, and the trained weights in one model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from embedllm import program
from embedllm.config import ModelConfig
from embedllm.errors import AdapterError, ModelError
from embedllm.log import get_logger
from embedllm.models.adapter_folder import AdapterDescription, read_description
from embedllm.models.backbone import load_language_model, load_model_config
from embedllm.models.loading import full_model
from embedllm.models.sources import as_model_error, hub_options, source_of
from embedllm.models.weight_stream import build_without_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = get_logger(__name__)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Source:
    """An adapter folder, its checksums verified; no weight is loaded yet.

    Attributes:
        folder: The adapter folder.
        description: Its `embedllm.json`.
        model: The 16- or 32-bit model that the adapter is put onto; of full fine-tuning the folder.
        dtype: Name of the type in which the weights are written.
    """

    folder: Path
    description: AdapterDescription
    model: ModelConfig
    dtype: str

    @property
    def is_full(self) -> bool:
        """Whether all weights were trained, so that there is nothing to merge."""
        return self.description.method == "full"


def open_source(adapter: str, dtype: str) -> Source:
    """Returns what `adapter` names, an adapter folder or a run folder with one.

    Args:
        adapter: The folder.
        dtype: `auto` for the type of the base weights in training.

    Raises:
        AdapterError: There is no adapter folder, or it is damaged.
    """
    folder = Path(adapter).expanduser()
    if not (folder / "embedllm.json").is_file() and (folder / "adapter").is_dir():
        folder /= "adapter"
    if not folder.is_dir():
        raise AdapterError(
            f"adapter={adapter}: there is no folder {folder}; {program.shown('train')} prints one"
        )
    description = read_description(folder)
    if dtype == "auto":
        # `float32`, or `nf4 (float32)` for a quantised base.
        dtype = description.dtype.rpartition("(")[2].rstrip(")")
    base = description.model
    if description.method == "full":
        base = full_model(base, folder)
    base = replace(base, dtype=dtype, quantization="none", trust_remote_code=False)
    return Source(folder, description, base, dtype)


def is_quantized(source: Source, cache_dir: Path) -> bool:
    """Whether the base model exists in a quantised form alone."""
    config = load_model_config(source.model, cache_dir)
    return getattr(config, "quantization_config", None) is not None


def num_bytes(source: Source, cache_dir: Path) -> int:
    """Returns about how many bytes the written weights take, without loading any."""
    config = load_model_config(source.model, cache_dir)
    trunk = build_without_weights(config, getattr(torch, source.dtype))
    size = sum(p.numel() * p.element_size() for p in trunk.parameters())
    if not config.tie_word_embeddings:
        table = cast(Any, trunk).get_input_embeddings().weight
        size += table.numel() * table.element_size()
    return size


def load_merged(source: Source, cache_dir: Path) -> PreTrainedModel:
    """Returns the model with the adapter in its weights, on the host.

    It has the head that predicts the next token where there is one; else it is the trunk alone.

    Raises:
        AdapterError: The adapter does not fit, or its method cannot be merged.
        ModelError: The base model cannot be had.
    """
    dtype = getattr(torch, source.dtype)
    # Merged in float32 and rounded once: merged in bfloat16, SmolLM2-135M was 0.4 away, so 0.04.
    source = replace(source, model=replace(source.model, dtype="float32"))
    if is_quantized(source, cache_dir):
        from transformers import AutoModelForCausalLM

        _log.info("the base model exists in a quantised form alone: its weights are de-quantised")
        # Before any pass: on a CPU the first one packs the weights anew, past de-quantising.
        packed = _from_pretrained(AutoModelForCausalLM, source.model, cache_dir)
        model = packed.dequantize(dtype=torch.float32)
    else:
        model = _load_whole(source.model, cache_dir)
    if not source.is_full:
        _merge(model.base_model, source.folder)
    return cast("PreTrainedModel", model.to(dtype))


def _load_whole(model: ModelConfig, cache_dir: Path) -> Any:
    try:
        return load_language_model(model, cache_dir, device=_CPU)
    except ModelError as error:
        if "lacks" not in str(error):
            raise
        reason = str(error)
    # Full fine-tuning and GGUF files keep the trunk alone; only a tied head can be had from it.
    from transformers import AutoModel

    _log.info("written without the head that predicts words, for AutoModel alone: %s", reason)
    return _from_pretrained(AutoModel, model, cache_dir)


def _from_pretrained(auto_class: Any, model: ModelConfig, cache_dir: Path) -> Any:
    with as_model_error(model, "model.name", model.name):
        return auto_class.from_pretrained(
            source_of(model, cache_dir), dtype=getattr(torch, model.dtype), **hub_options(model)
        ).eval()


def _merge(trunk: torch.nn.Module, folder: Path) -> None:
    """Puts the adapter's changes into the trunk's own weights, by peft, in place."""
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(cast(Any, trunk), str(folder))
        adapted.merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise AdapterError(f"the adapter in {folder} cannot be merged: {error}") from error
