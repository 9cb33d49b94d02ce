"""Lets MTEB (Muennighoff et al. 2023, arXiv 2210.07316) run our encoders on its own tasks.

MTEB hands over raw texts; prompt, clean-up and token budget are the encoder's own, the same for
every task and for queries and documents, and no instruction of a task is added. mteb is an extra,
so it is imported where it is used and never by importing this module.

MTEB files results under a model's name and revision. The revision here is a hash of everything
that decides on a vector, so a result made with another prompt or adapter is never taken for one
of this model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedllm.config import ModelConfig, PromptConfig, fingerprint
from embedllm.errors import ConfigError
from embedllm.evaluation.metrics import cosine_similarity_pairs
from embedllm.models.adapter_folder import read_description
from embedllm.models.backbone import resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_adapted_encoder, load_encoder

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from mteb.types import PromptType

    Embeddings = NDArray[Any] | torch.Tensor

_ORGANISATION = "embedllm"


class MTEBEncoder:
    """A `SentenceEncoder` with the methods of MTEB's `EncoderProtocol`.

    Example:
        >>> model = MTEBEncoder.from_adapter(Path("outputs/first/adapter"), cache_dir=cache_dir)
        >>> mteb.evaluate(model, mteb.get_tasks(["STSBenchmark"]))

    Args:
        encoder: What is evaluated, prompt and all.
        name: Name in MTEB's results; `embedllm/` is put in front of one without a slash.
        identity: What tells this encoder from others beyond prompt, pooling and dtype, as plain
            values: base model, checksums of an adapter. Noted in the metadata and part of the
            revision, so encoders whose weights it does not tell apart share results in MTEB's
            cache.
        base_model: Name of the model that was prompted or adapted.
        languages: What the model is meant for, as MTEB writes it.

    Raises:
        ConfigError: mteb is not installed.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        name: str,
        *,
        identity: Mapping[str, Any],
        base_model: str | None = None,
        languages: Sequence[str] = ("eng-Latn",),
    ) -> None:
        _require_mteb()
        self.encoder = encoder
        self.name = name if "/" in name else f"{_ORGANISATION}/{name}"
        self.base_model = base_model
        self.languages = tuple(languages)
        self.settings: dict[str, Any] = {
            "prompt": asdict(encoder.prompt),
            "pooling": encoder.embedder.pooling,
            "layer": encoder.embedder.layer,
            "normalize": encoder.embedder.normalize,
            "dtype": encoder.dtype,
            **identity,
        }

    @classmethod
    def from_config(
        cls,
        model: ModelConfig,
        prompt: PromptConfig,
        *,
        cache_dir: Path,
        name: str | None = None,
        device: torch.device | None = None,
        tokens_per_batch: int | None = None,
    ) -> MTEBEncoder:
        """Returns a base model as it is, with a prompt.

        Args:
            model: The backbone.
            prompt: The prompt; its evaluation side is used.
            cache_dir: Where converted models lie.
            name: Name in MTEB's results; default the last part of the model's name.
            device: Where the weights go; default the GPU when there is one.
            tokens_per_batch: Padded tokens per forward pass.

        Raises:
            ConfigError: mteb is not installed, or the template does not fit the model.
            ModelError: The model or tokenizer cannot be had.
        """
        _require_mteb()
        device = device or resolve_device()
        encoder = load_encoder(
            model, prompt, cache_dir, device=device, tokens_per_batch=tokens_per_batch
        )
        return cls(
            encoder,
            name or _last_part(model.name),
            identity={
                "model": asdict(model),
                "commit": _commit_of(encoder),
                "prompt": asdict(prompt),
            },
            base_model=model.name,
        )

    @classmethod
    def from_adapter(
        cls,
        folder: Path,
        *,
        cache_dir: Path,
        model: ModelConfig | None = None,
        name: str | None = None,
        device: torch.device | None = None,
        tokens_per_batch: int | None = None,
    ) -> MTEBEncoder:
        """Returns the model that an adapter folder describes, with its prompt, probe verified.

        Args:
            folder: What training wrote.
            cache_dir: Where converted models lie.
            model: Base model to use instead of the saved one, as in `load_adapted_encoder`.
            name: Name in MTEB's results; default the name of the run's folder.
            device: Where the weights go; default the GPU when there is one.
            tokens_per_batch: Padded tokens per forward pass.

        Raises:
            ConfigError: mteb is not installed.
            AdapterError: Damaged folder, or the vectors are not those of training.
            ModelError: The base model cannot be had.
        """
        _require_mteb()
        description = read_description(folder)
        device = device or resolve_device()
        encoder = load_adapted_encoder(
            folder, cache_dir, device=device, model=model, tokens_per_batch=tokens_per_batch
        )
        base = model or description.model
        place = folder.resolve()
        identity = {
            "model": asdict(base),
            "commit": _commit_of(encoder),
            "prompt": asdict(description.prompt),
            "adapter": {"method": description.method, "checksums": description.checksums},
        }
        return cls(
            encoder,
            name or (place.parent.name if place.name == "adapter" else place.name),
            identity=identity,
            base_model=base.name,
        )

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB writes beside its results, as far as it is known.

        `revision` is the hash of `loader_kwargs`, which say how the vectors are made.
        `use_instructions` is MTEB's word for a fixed prompt, too.
        """
        from mteb.models.model_meta import ModelMeta

        parameters = list(self.encoder.embedder.parameters())
        num_bytes = sum(p.numel() * p.element_size() for p in parameters)
        # Quantised weights are packed into integers, several to an element.
        is_packed = not all(p.is_floating_point() for p in parameters)
        return ModelMeta(
            loader=None,
            loader_kwargs=self.settings,
            name=self.name,
            revision=fingerprint(self.settings),
            release_date=None,
            languages=list(self.languages),
            n_parameters=None if is_packed else sum(p.numel() for p in parameters),
            memory_usage_mb=num_bytes / 2**20,
            max_tokens=self.encoder.max_length,
            embed_dim=self.encoder.encode([]).shape[1],
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=True,
            training_datasets=None,
            adapted_from=self.base_model,
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        show_progress_bar: bool = True,
        precision: str | None = None,
        **kwargs: Any,
    ) -> NDArray[Any]:
        """Returns one vector per text, [N, D], in order: float32, and float64 for STS tasks.

        MTEB's main score of STS is made of scikit-learn's cosines in the type of the vectors,
        and float32 there ranks pairs by rounding noise: up to 2.5e-4 of Spearman on SentEval's
        subsets with bag-of-words vectors. In float64 it equals our own score.

        Args:
            inputs: Batches; their texts are under `text`. What MTEB puts into a text (title,
                instruction of a query) stays.
            task_metadata: The task; its name labels the progress bar.
            hf_split: Unused, as are `hf_subset` and `prompt_type`: one prompt for everything.
            hf_subset: See above.
            prompt_type: See above.
            show_progress_bar: Show progress.
            precision: Refused unless None or float32: MTEB would file the unchanged vectors as
                quantised ones.
            kwargs: Other `encode_kwargs` of `mteb.evaluate`, without effect. Batches are formed
                by tokens, not by MTEB's `batch_size`.

        Raises:
            ConfigError: `precision` asks for quantised vectors.
        """
        if precision not in (None, "float32"):
            raise ConfigError(
                f"encode_kwargs has precision={precision!r}, but the vectors are float32 and are "
                "not quantised; leave precision out of encode_kwargs"
            )
        texts = [text for batch in inputs for text in batch["text"]]
        label = task_metadata.name if show_progress_bar else None
        vectors: NDArray[Any] = self.encoder.encode(texts, progress=label)
        return vectors.astype(np.float64) if task_metadata.type == "STS" else vectors

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> torch.Tensor:
        """Returns the cosine of every row of one with every row of the other, [N, M].

        Computed by mteb, in float32 or, for float64 vectors, in float64. Narrower types are
        widened first, since equal low-precision cosines make ties that change a ranking.
        """
        from mteb.similarity_functions import cos_sim

        result: torch.Tensor = cos_sim(_widen(embeddings1), _widen(embeddings2))
        return result

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> torch.Tensor:
        """Returns the cosine of row i with row i, float64 [N], as `evaluate_sts` computes it.

        mteb's own function normalises first, after which a sentence and its copy have 1 give or
        take the last digit, and such pairs are ranked by noise where they are tied.
        """
        left, right = (_widen(e).double().cpu().numpy() for e in (embeddings1, embeddings2))
        return torch.from_numpy(cosine_similarity_pairs(left, right))


def _require_mteb() -> None:
    if importlib.util.find_spec("mteb") is None:
        raise ConfigError(
            "MTEBEncoder needs the package mteb, which is not installed; "
            "install it with `pip install 'embedllm[mteb]'`"
        )


def _widen(embeddings: Embeddings) -> torch.Tensor:
    tensor = torch.as_tensor(embeddings)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _commit_of(encoder: SentenceEncoder) -> str | None:
    """Returns the hub's commit of the base weights; None for folders and random weights."""
    commit: str | None = getattr(
        getattr(encoder.embedder.trunk, "config", None), "_commit_hash", None
    )
    return commit
