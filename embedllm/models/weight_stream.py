"""Weights that reach their place block by block, so that no process ever holds a whole model.

A trunk is built without weights. Then each of its blocks in turn (an embedding table, a decoder
layer, what stands beside them) gets real tensors on the device, is filled, quantised and, where the
model is spread over processes, cut down to this process' share. So the most that is held is one
block beside what stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from embedllm.errors import ModelError
from embedllm.models.checkpoint_files import Checkpoint
from embedllm.models.structure import decoder_layers, keep_layers
from embedllm.random_state import kept_state, set_seed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shard = Callable[[nn.Module], object]
"""Cuts the parameters of a module, in place, down to this process' share (FSDP2, ZeRO-3). It gets
every decoder layer and embedding table as soon as it is filled, and at last the trunk with the
few parameters that are left. All processes call it for the same modules in the same order."""


@dataclass(frozen=True)
class Attachment:
    """What is put onto a trunk while it is loaded, for example an adapter.

    Attributes:
        attach: Returns the trunk with it, the trunk's own modules changed in place.
        reads_weights: Whether it looks at the trunk's weights, which have to be there then.
    """

    attach: Callable[[nn.Module], nn.Module]
    reads_weights: bool


@dataclass(frozen=True)
class Block:
    """A part of a trunk that is filled at once.

    Attributes:
        name: Name of its module in the trunk.
        is_whole: Whether the modules inside belong to it; they are blocks themselves otherwise.
        is_unit: Whether it is large enough to be sharded by itself.
        members: Its modules under their names in the trunk, a module before those inside it.
    """

    name: str
    is_whole: bool
    is_unit: bool
    members: Sequence[tuple[str, nn.Module]]


class Weights(Protocol):
    """Where the weights of a trunk come from."""

    def fill(self, block: Block, device: torch.device) -> None:
        """Gives a block real parameters on `device`."""
        ...


def join(*names: str) -> str:
    """Returns a module's or parameter's dotted name; empty parts are left out."""
    return ".".join(filter(None, names))


def build_without_weights(config: PreTrainedConfig, dtype: torch.dtype) -> nn.Module:
    """Returns the trunk in evaluation mode, with parameters on the meta device.

    Buffers (rotary frequencies, masks) are real: the model's own code has just computed them.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        # Drawing what is nowhere took half of the time.
        stack.enter_context(no_init_weights())
        stack.enter_context(init_empty_weights(include_buffers=False))
        trunk: Any = AutoModel.from_config(config, dtype=dtype)
    # The library ties where it draws.
    trunk.tie_weights()
    return cast(nn.Module, trunk.eval())


def has_tied_weights(trunk: nn.Module) -> bool:
    """Whether a parameter is in several places, which may be blocks of their own."""
    places = trunk.named_parameters(remove_duplicate=False)
    return sum(1 for _ in places) != sum(1 for _ in trunk.parameters())


def blocks_of(trunk: nn.Module) -> list[Block]:
    """Returns the blocks, which together hold every parameter and buffer once.

    Raises:
        ModelError: The decoder layers are not found.
    """
    layers = decoder_layers(trunk)[2]
    path = next(name for name, module in trunk.named_modules() if module is layers)
    around = ["", *(path[:i] for i, letter in enumerate(path) if letter == "."), path]
    blocks = []
    for parent in dict.fromkeys(around):
        module = trunk.get_submodule(parent)
        blocks.append(Block(parent, is_whole=False, is_unit=False, members=[(parent, module)]))
        for child, inner in module.named_children():
            name = join(parent, child)
            if name not in around:
                is_unit = parent == path or isinstance(inner, nn.Embedding)
                members = [(join(name, inside), m) for inside, m in inner.named_modules()]
                blocks.append(Block(name, is_whole=True, is_unit=is_unit, members=members))
    return blocks


def place_blocks(
    trunk: nn.Module,
    *,
    device: torch.device,
    weights: Weights | None,
    num_layers: int | None = None,
    convert: Callable[[Sequence[tuple[str, nn.Module]]], None] | None = None,
    attach: Callable[[nn.Module], nn.Module] | None = None,
    shard: Shard | None = None,
) -> nn.Module:
    """Brings every block of a trunk to its place, one after the other.

    Args:
        trunk: The trunk.
        device: Where it goes.
        weights: What fills it; None when it is filled already.
        num_layers: Layers that stay; those above are removed and never filled. None for all.
        convert: Replaces modules of a block that was filled, for example by quantised ones.
        attach: Puts something onto the trunk before it is filled, so that what belongs to a block
            is sharded together with it.
        shard: See `Shard`.

    Returns:
        The trunk, or what `attach` has made of it.
    """
    above = set() if num_layers is None else set(decoder_layers(trunk)[2][num_layers:])
    blocks = [block for block in blocks_of(trunk) if block.members[0][1] not in above]
    root = trunk
    if attach is not None:
        _lend_weights(trunk)
        root = attach(trunk)
    while blocks:
        # Taken from the list, which would keep alive what is replaced in it.
        block = blocks.pop(0)
        if weights is not None:
            weights.fill(block, device)
        if convert is not None:
            convert(block.members)
        module = trunk.get_submodule(block.name)
        cast(Any, module)._apply(partial(_to_device, device=device), recurse=block.is_whole)
        if shard is not None and block.is_unit:
            shard(module)
    if num_layers is not None:
        # Not before: the spread of random numbers can depend on how many layers there are.
        keep_layers(trunk, num_layers)
    if shard is not None:
        shard(root)
    return root


def _lend_weights(trunk: nn.Module) -> None:
    """Gives parameters on the meta device zeros on the host that take no memory.

    What is attached goes to the device of the weights beside it, and would lose its own on meta.
    """
    for module in trunk.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                module._parameters[key] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)


def _to_device(tensor: Tensor, *, device: torch.device) -> Tensor:
    return tensor if tensor.device == device else tensor.to(device)


class RandomWeights:
    """Weights as the library would draw them for a new model.

    Every module has random numbers of its own, which depend on the seed, its name and the kind of
    device: not on the order of the blocks, on other modules, or on how many processes share the
    model. They are drawn in float32, so other types hold the same numbers, rounded.

    Args:
        trunk: The trunk.
        seed: The seed.
    """

    def __init__(self, trunk: nn.Module, seed: int) -> None:
        from transformers import PreTrainedModel

        self._trunk = trunk
        self._seed = seed
        self._owners: dict[str, Any] = {}
        for name, module in trunk.named_modules():
            # A model inside a model has rules of its own for what is in it.
            outer = self._owners.get(name.rpartition(".")[0])
            self._owners[name] = module if isinstance(module, PreTrainedModel) else outer

    @torch.no_grad()
    def fill(self, block: Block, device: torch.device) -> None:
        """Draws the weights of a block.

        Raises:
            ModelError: The library does not say how a weight begins.
        """
        types = _materialize(block.members, device, dtype=torch.float32)
        for _, parameter, _ in types:
            parameter.view(-1)[:1] = torch.nan
        with kept_state(device):
            # The modules inside first: some families draw a few of their weights once more.
            for name, module in reversed(block.members):
                if block.is_whole or module._parameters:
                    set_seed(_seed_of(self._seed, name), device)
                    self._owners[name]._init_weights(module)
        for name, parameter, dtype in types:
            if parameter.view(-1)[:1].isnan().any():
                raise ModelError(
                    f"model.init=random: transformers does not say how {name} begins in a "
                    f"{type(self._trunk).__name__}; use another architecture or real weights"
                )
            parameter.data = parameter.data.to(dtype)


class CheckpointWeights:
    """Weights of a saved model.

    Args:
        checkpoint: The files, with a place for every weight.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @torch.no_grad()
    def fill(self, block: Block, device: torch.device) -> None:
        """Reads the weights of a block, and nothing else.

        Raises:
            ModelError: A file cannot be read, or a weight has another shape.
        """
        targets = {name: p.data for name, p, _ in _materialize(block.members, device)}
        for name, module in block.members:
            for key, buffer in module.named_buffers(recurse=False):
                if key not in module._non_persistent_buffers_set:
                    targets[join(name, key)] = buffer
        shapes = {name: target.shape for name, target in targets.items()}
        for name, tensor in self._checkpoint.read(shapes):
            targets[name].copy_(tensor)


def _materialize(
    members: Sequence[tuple[str, nn.Module]],
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
) -> list[tuple[str, nn.Parameter, torch.dtype]]:
    """Gives modules' own parameters memory on a device, without values.

    Args:
        members: Modules by name.
        device: Where.
        dtype: Type of the memory, default the parameter's own.

    Returns:
        Name, parameter and the type that the parameter is to have.
    """
    made = []
    for name, module in members:
        for key, parameter in module._parameters.items():
            if parameter is None:
                continue
            final = parameter.dtype
            memory: Tensor = torch.empty(parameter.shape, dtype=dtype or final, device=device)
            if parameter.is_meta:
                parameter = nn.Parameter(memory, requires_grad=parameter.requires_grad)
                module._parameters[key] = parameter
            else:
                parameter.data = memory
            made.append((join(name, key), parameter, final))
    return made


def _seed_of(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
