"""What decides the token ids of texts, as one hash."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from embedllm import prompts
from embedllm.config import fingerprint
from embedllm.log import get_logger
from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import leading_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = get_logger(__name__)
_FORMAT = 1


def fingerprint_token_ids(
    texts: Iterable[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_length: int | None,
) -> str | None:
    """Returns a hash of all that `prompts.tokenize` makes the ids of these texts from.

    Names and paths have no part in it: the same tokenizer in another folder gives the same hash,
    another one under the same name does not. Repeated texts count once.

    Args:
        texts: The texts, in the order of the ids.
        tokenizer: The backbone's tokenizer.
        prompt: The finished prompt.
        max_length: Positions that the model has.

    Returns:
        The hash; None for a tokenizer that cannot be told from another one.
    """
    try:
        described = _describe(tokenizer)
    except Exception as error:  # code of other people, which may refuse in any way
        _log.warning(
            "the tokenizer of %r cannot be told from others (%s: %s), so the token ids of the "
            "training texts stay in memory and the next run tokenizes again",
            tokenizer.name_or_path,
            type(error).__name__,
            error,
        )
        return None
    return fingerprint(
        {
            "format": _FORMAT,
            "texts": _hash(text.encode(errors="surrogatepass") for text in dict.fromkeys(texts)),
            "prompt": asdict(prompt),
            "max_length": max_length,
            "tokenizer": described,
            "code": _hash(_read_files(Path(inspect.getfile(prompts)).parent.glob("*.py"))),
            "python": platform.python_version(),
        }
    )


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # With its length in front no part can begin where another one ends.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _describe(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    # A model may bring a class of its own, whose code no version stands for.
    classes = [each for each in type(tokenizer).__mro__ if each is not object]
    return {
        "content": _hash(_serialize(tokenizer)),
        "code": _hash(_read_files({Path(inspect.getfile(each)) for each in classes})),
        "versions": [version("transformers"), version("tokenizers")],
        # What `prompts.tokenize` asks the object itself for.
        "head": leading_special_tokens(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", None),
    }


def _serialize(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two are what the call before has asked for; every call sets them anew.
        backend |= {"padding": None, "truncation": None}
        return [json.dumps(backend, sort_keys=True).encode()]
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return _read_files(path for path in Path(folder).rglob("*") if path.is_file())


def _read_files(paths: Iterable[Path]) -> list[bytes]:
    """Returns the names and contents of files."""
    files = sorted((path.name, path.read_bytes()) for path in paths)
    return [part for name, content in files for part in (name.encode(), content)]
