"""States that are computed again when their gradient is due, with nothing kept in between.

torch's own checkpoint keeps the graph of the first pass, without its tensors: 4 MB for each pack of
SmolLM2-135M, so 370 packs (4,096 triplets) took 1.5 GB. Here the first pass records nothing. In the
backward pass the function runs again with the same random numbers and under the same autocast, and
its gradients are handed to the graph outside. So every parameter gets its whole gradient at once,
at the end of one backward pass, as distributed strategies expect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Run = Callable[[Sequence[Tensor]], Tensor]


def recomputed(run: Run, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Returns `run(inputs)`, with gradient.

    Args:
        run: Computes from the inputs and the parameters alone; drops out from torch's generators.
        inputs: What else may need a gradient.
        parameters: Leaves that `run` uses.
    """
    if not torch.is_grad_enabled():
        return run(inputs)
    conditions = Conditions.now((*inputs, *parameters))
    return cast(
        Tensor, cast(Any, _Recomputed).apply(run, conditions, len(inputs), *inputs, *parameters)
    )


@dataclass(frozen=True)
class Conditions:
    """What a pass depends on beside its tensors."""

    device: torch.device
    random_states: tuple[Tensor, ...]
    autocast: dict[str, Any]

    @classmethod
    def now(cls, tensors: Sequence[Tensor]) -> Conditions:
        """Returns what holds at this moment, on the device of the tensors."""
        device = tensors[0].device if tensors else torch.device("cpu")
        states = [torch.get_rng_state()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
        autocast = {
            "device_type": device.type,
            "enabled": torch.is_autocast_enabled(device.type),
            "dtype": torch.get_autocast_dtype(device.type),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }
        return cls(device, tuple(states), autocast)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The same random numbers and autocast again; the generators go on as if nothing was."""
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if is_cuda else []):
            torch.set_rng_state(self.random_states[0])
            if is_cuda:
                torch.cuda.set_rng_state(self.random_states[1], self.device)
            with torch.autocast(**self.autocast):
                yield


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, conditions: Conditions, num_inputs: int, *tensors: Tensor
    ) -> Tensor:
        ctx.run, ctx.conditions = run, conditions
        ctx.save_for_backward(*tensors[:num_inputs])
        # Not saved: the second pass must meet the very leaves that `run` uses.
        ctx.parameters = tensors[num_inputs:]
        return run(tensors[:num_inputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        with ctx.conditions.restored(), torch.enable_grad():
            output = ctx.run(inputs)
        needed = ctx.needs_input_grad[3:]
        tensors = (*inputs, *ctx.parameters)
        wanted = [tensor for tensor, is_needed in zip(tensors, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(output, wanted, gradient, allow_unused=True))
        return None, None, None, *(next(found) if is_needed else None for is_needed in needed)
