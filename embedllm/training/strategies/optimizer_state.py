"""The state of an optimizer with whole tensors, in the form that torch gives it on one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim import Optimizer


def number_states(states: Iterable[Mapping[str, Any]], optimizer: Optimizer) -> dict[str, Any]:
    """Returns a state dict in torch's form: state by number, and the groups without tensors.

    Args:
        states: State of every parameter, in the optimizer's order.
        optimizer: Has one group of parameters.
    """
    numbered = {i: dict(state) for i, state in enumerate(states)}
    options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    return {"state": numbered, "param_groups": [{**options, "params": list(numbered)}]}
