"""The state of an optimizer with whole tensors, in the form that torch gives it on one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim import Optimizer


def number_states(states: Iterable[Mapping[str, Any]], optimizer: Optimizer) -> dict[str, Any]:
    """Returns a state dict in torch's form: state by number, and the groups without tensors.

    Args:
        states: State of every parameter, in the optimizer's order; empty before its first step.
        optimizer: Has one group of parameters.
    """
    numbered = {i: dict(state) for i, state in enumerate(states)}
    options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    return {
        "state": {i: state for i, state in numbered.items() if state},
        "param_groups": [{**options, "params": list(numbered)}],
    }


def set_options(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Gives an optimizer the learning rate and the other options of a state dict.

    Args:
        optimizer: Its groups of parameters all have the same options.
        saved: The state dict, of one group.
    """
    options = {k: v for k, v in saved["param_groups"][0].items() if k != "params"}
    for group in optimizer.param_groups:
        group.update(options)
