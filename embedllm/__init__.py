"""embedllm turns decoder LLMs into sentence embedders: prompt, contrastive LoRA, evaluation."""

from importlib.metadata import PackageNotFoundError, version

try:
    # Made from git tags when it was installed (setuptools-scm).
    __version__ = version("embedllm")
except PackageNotFoundError:
    # A checkout on the path that nobody installed.
    __version__ = "0+unknown"
