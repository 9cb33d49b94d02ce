"""How many operations a step needs: those of the plain model, token by token.

The rule is that of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): a token costs two operations
for each weight that it is multiplied with, and a gradient costs the same again, once for what goes
in and once for the weight. With an adapter the weights of the trunk need no gradient. Attention is
left out, as there: its share grows with the length, and prompts are short.
"""

from __future__ import annotations

from torch import nn

_FORWARD, _TO_INPUTS, _TO_WEIGHTS = 2, 2, 2


def useful_factor(*, is_training: bool, trains_all: bool) -> int:
    """Returns the operations per weight and token.

    Args:
        is_training: Whether there is a backward pass.
        trains_all: Whether it ends in the trunk's own weights (`adapter=full`).
    """
    if not is_training:
        return _FORWARD
    return _FORWARD + _TO_INPUTS + (_TO_WEIGHTS if trains_all else 0)


def count_matmul_weights(trunk: nn.Module) -> int:
    """Returns the weights that every token is multiplied with: no embeddings, norms or biases.

    Args:
        trunk: The trunk without an adapter.
    """
    return sum(weight.numel() for weight in _matrices(trunk))


def widest_layer(trunk: nn.Module) -> tuple[int, int]:
    """Returns the two sides of the trunk's largest matrix, the smaller one first."""
    largest = max(_matrices(trunk), key=lambda weight: weight.numel())
    short, long = sorted(largest.shape[-2:])
    return short, long


def _matrices(trunk: nn.Module) -> list[nn.Parameter]:
    layers = (module for module in trunk.modules() if not isinstance(module, nn.Embedding))
    weights = (weight for layer in layers for weight in layer.parameters(recurse=False))
    return [weight for weight in weights if weight.ndim >= 2]
