"""embedllm turns decoder LLMs into sentence embedders: prompt, contrastive LoRA, evaluation.

from embedllm import SentenceEncoder

encoder = SentenceEncoder.load("outputs/first/adapter")
vectors = encoder.encode(["A man is riding a horse.", "It is raining."])
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedllm.models.encoder import SentenceEncoder

try:
    # Made from git tags when it was installed (setuptools-scm).
    __version__ = version("embedllm")
except PackageNotFoundError:
    # A checkout on the path that nobody installed.
    __version__ = "0+unknown"
__all__ = ["SentenceEncoder", "__version__"]


def __getattr__(name: str) -> Any:
    # The encoder brings torch and transformers, for which a look at the version must not wait.
    if name == "SentenceEncoder":
        from embedllm.models.encoder import SentenceEncoder

        return SentenceEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
