"""The model of a training with shapes and types but without numbers, and what it holds.

The library's own code builds it on the meta device, and peft attaches the adapter there. To be run
it becomes fake tensors of a CPU (torch's `FakeTensorMode`), whose operations choose the kernels of
a CPU; nothing is allocated or computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from embedllm.config import AdapterConfig, ModelConfig
from embedllm.models.adapters import attach_adapter
from embedllm.models.attention import use_short_row_attention
from embedllm.models.backbone import (
    decoder_layers,
    keep_layers,
    load_model_config,
    resolve_dtype,
    resolve_layer,
)
from embedllm.models.linear import use_onednn_linear
from embedllm.planning.quantization import int8_bytes, nf4_bytes
from embedllm.planning.work import count_matmul_weights

_CPU: Final = torch.device("cpu")
# Of so many layers two are in the middle, so that their difference is what one of them takes.
_MOST_LAYERS: Final = 4
# DeepSpeed's stage3_param_persistence_threshold.
_SMALL: Final = 100_000


@dataclass(frozen=True)
class Weights:
    """Some weights: how many they are, and their bytes in the type that they train in."""

    number: int
    bytes: int

    @classmethod
    def of(cls, parameters: Iterable[Tensor]) -> Weights:
        """Returns the figures of some parameters."""
        parameters = list(parameters)
        number = sum(p.numel() for p in parameters)
        return cls(number, sum(p.numel() * p.itemsize for p in parameters))


@dataclass(frozen=True)
class Inventory:
    """What a model with its adapter consists of.

    Attributes:
        frozen: Weights that are not trained.
        trainable: Weights that are.
        embeddings: Tables, among the former two.
        matrices: Weights of the base's linear layers, which can be quantised.
        nf4_bytes: What these are in NF4 with double quantisation.
        int8_bytes: What these are in 8 bits.
        largest_matrix: Weights of the largest of them.
        largest_trained: Weights of the largest tensor that is trained.
        num_trained: Tensors that are trained.
        layer: Weights of one decoder layer with its adapter.
        outside: Weights outside the decoder layers.
        small: Weights in tensors that ZeRO 3 leaves whole.
        matmul_weights: Weights of the base that every token is multiplied with.
        num_layers: Decoder layers.
        hidden_size: Width of the states between layers.
        vector_size: Width of the vectors.
    """

    frozen: Weights
    trainable: Weights
    embeddings: Weights
    matrices: Weights
    nf4_bytes: int
    int8_bytes: int
    largest_matrix: int
    largest_trained: int
    num_trained: int
    layer: Weights
    outside: Weights
    small: Weights
    matmul_weights: int
    num_layers: int
    hidden_size: int
    vector_size: int

    @property
    def total(self) -> int:
        """All weights."""
        return self.frozen.number + self.trainable.number

    @property
    def base(self) -> int:
        """Weights without an adapter's: the frozen ones, or all where all are trained."""
        return self.frozen.number or self.trainable.number

    def frozen_bytes(self, quantization: str) -> int:
        """Returns what the frozen weights take, their matrices quantised or not."""
        kept = self.frozen.bytes - self.matrices.bytes
        if quantization == "nf4":
            return kept + self.nf4_bytes
        return kept + self.int8_bytes if quantization == "int8" else self.frozen.bytes


class FakeModel:
    """A trunk with its adapter, on fake tensors.

    Args:
        model: The backbone. With an architecture in its config no hub is asked.
        adapter: What is trained.
        cache_dir: Where converted models lie.
        kind: Kind of the devices, which decides `model.dtype=auto`.
        precision: `trainer.precision`.

    Attributes:
        inventory: What the whole model consists of.
        dtype: Type of the base's weights.
        is_shortened: Whether layers above `model.layer` are gone.

    Raises:
        ModelError: The architecture is unknown or makes no model.
        ConfigError: The adapter does not fit the model.
    """

    def __init__(
        self,
        model: ModelConfig,
        adapter: AdapterConfig,
        cache_dir: Path,
        *,
        kind: str,
        precision: str,
    ) -> None:
        from transformers.pytorch_utils import Conv1D

        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.dtype = plan_dtype(model.dtype, kind)
        with torch.device("meta"):
            trunk, layer = _build_trunk(model, cache_dir, self.dtype)
            self.is_shortened = layer != -1
            matrices = [m.weight for m in trunk.modules() if isinstance(m, nn.Linear | Conv1D)]
            matmul_weights = count_matmul_weights(trunk)
            trunk = attach_adapter(trunk, adapter, seed=0)
            if precision == "bf16-true":
                trunk = trunk.to(torch.bfloat16)
        self.inventory = _take_inventory(trunk, matrices, matmul_weights)
        # All layers are counted; of those that are run, a few show what each of them takes.
        keep_layers(trunk, min(_MOST_LAYERS, self.inventory.num_layers))
        self._trunk = trunk

    def faking(self) -> AbstractContextManager[Any]:
        """The context in which its tensors are made and used."""
        return self._mode

    @property
    def runnable_layers(self) -> tuple[int, ...]:
        """Numbers of layers to run with: all of a small model, else two to draw a line through."""
        if self.inventory.num_layers <= _MOST_LAYERS:
            return (self.inventory.num_layers,)
        return _MOST_LAYERS - 1, _MOST_LAYERS

    def copy(self, num_layers: int) -> nn.Module:
        """Returns the first so many layers, on fake tensors of a CPU."""
        copy = deepcopy(self._trunk)
        keep_layers(copy, num_layers)
        with self._mode:
            _move_to_cpu(copy)
        return copy


def plan_dtype(name: str, kind: str) -> torch.dtype:
    """Returns the type of the weights on devices that need not be here."""
    if name == "auto":
        return torch.bfloat16 if kind == "cuda" else torch.float32
    return resolve_dtype(name, _CPU)


def _build_trunk(model: ModelConfig, cache_dir: Path, dtype: torch.dtype) -> tuple[nn.Module, int]:
    from transformers import AutoModel

    if model.architecture:
        model = replace(model, init="random")
    config = load_model_config(model, cache_dir)
    trunk: nn.Module = AutoModel.from_config(config, dtype=dtype)
    layer = resolve_layer(model.layer, config.num_hidden_layers)
    if layer != -1:
        keep_layers(trunk, layer)
    use_short_row_attention(trunk)
    use_onednn_linear(trunk)
    return trunk, layer


def _move_to_cpu(module: nn.Module) -> None:
    """Replaces tensors of the meta device, also those that modules share."""
    moved: dict[int, Any] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in moved:
                value = torch.empty_like(parameter, device="cpu")
                moved[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
            setattr(owner, name, moved[id(parameter)])
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, torch.empty_like(buffer, device="cpu"))


def _take_inventory(trunk: nn.Module, matrices: list[Tensor], matmul_weights: int) -> Inventory:
    parameters = list(trunk.parameters())
    trained = [p for p in parameters if p.requires_grad]
    layers = decoder_layers(trunk)[2]
    inside = {id(p) for p in layers.parameters()}
    tables = [m for m in trunk.modules() if isinstance(m, nn.Embedding)]
    config: Any = cast(Any, trunk).config
    return Inventory(
        frozen=Weights.of(p for p in parameters if not p.requires_grad),
        trainable=Weights.of(trained),
        embeddings=Weights.of(p for m in tables for p in m.parameters(recurse=False)),
        matrices=Weights.of(matrices),
        nf4_bytes=sum(nf4_bytes(m.numel()) for m in matrices),
        int8_bytes=sum(int8_bytes(m.numel(), num_rows=len(m)) for m in matrices),
        largest_matrix=max((m.numel() for m in matrices), default=0),
        largest_trained=max((p.numel() for p in trained), default=0),
        num_trained=len(trained),
        layer=Weights.of(layers[0].parameters()),
        outside=Weights.of(p for p in parameters if id(p) not in inside),
        small=Weights.of(p for p in parameters if p.numel() < _SMALL),
        matmul_weights=matmul_weights,
        num_layers=len(layers),
        hidden_size=config.hidden_size,
        vector_size=getattr(config, "word_embed_proj_dim", None) or config.hidden_size,
    )
