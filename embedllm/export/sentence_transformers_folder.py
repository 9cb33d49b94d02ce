"""The files that make `SentenceTransformer(folder)` give our vectors.

Its own modules do it wherever they can: the prompt is the tokenizer's chat template, the vector
the last token's (or the mean), so nothing has to be installed or trusted. A prompt, tokenizer or
layer that these modules cannot follow gets a module of embedllm's (`module.py`) instead, which
needs embedllm and `trust_remote_code=True`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from embedllm.errors import ConfigError
from embedllm.export.chat_template import to_chat_template
from embedllm.files import write_json
from embedllm.models.encoder import SentenceEncoder
from embedllm.versions import installed_version, library_versions

_POOLINGS: Final = {"last": "lasttoken", "mean": "mean", "weighted_mean": "weightedmean"}
_MODULES: Final = "sentence_transformers.base.modules.transformer.Transformer"
OWN_MODULE: Final = "embedllm.export.module.PromptModule"
REQUIREMENT: Final = "sentence-transformers>=6.2"
FOREIGN_FILES: Final = ("modules.json", "config_sentence_transformers.json")


def require_sentence_transformers() -> None:
    """Raises ConfigError where sentence-transformers is missing or too old."""
    from transformers.utils.versions import require_version

    try:
        require_version(REQUIREMENT)
    except ImportError as error:
        found = installed_version("sentence-transformers") or "none"
        raise ConfigError(
            f"format=sentence-transformers checks what it writes with {REQUIREMENT}; installed: "
            f"{found}; `pip install 'embedllm[export]'`, or use format=merged"
        ) from error


def needs_embedllm(folder: Path) -> bool:
    """Whether the module of a folder with sentence-transformers' files is embedllm's."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    return any(module["type"] == OWN_MODULE for module in modules)


def write_modules(folder: Path, encoder: SentenceEncoder, *, probes: Sequence[str]) -> bool:
    """Adds sentence-transformers' files to a folder with trunk and tokenizer.

    Args:
        folder: What is added to; its tokenizer gets the prompt.
        encoder: What the folder has to equal.
        probes: Texts on which the tokens are compared.

    Returns:
        Whether its own modules do, without embedllm.
    """
    is_plain = _write_plain_modules(folder, encoder) and _reads_alike(folder, encoder, probes)
    if not is_plain:
        write_json(folder / "modules.json", [_module(0, "", OWN_MODULE)])
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "__version__": _versions(),
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    return is_plain


def load_folder(folder: Path, *, is_plain: bool) -> Any:
    """Returns the folder as sentence-transformers loads it, on the CPU, in float32."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=not is_plain,
        local_files_only=True,
        model_kwargs={"dtype": "float32"},
    )


def _write_plain_modules(folder: Path, encoder: SentenceEncoder) -> bool:
    from sentence_transformers.models import Normalize, Pooling
    from transformers import AutoTokenizer

    template = to_chat_template(encoder.prompt, encoder.tokenizer)
    embedder = encoder.embedder
    if template is None or embedder.layer != -1 or encoder.more_prompts:
        return False
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        # Masked everywhere; the library asks for one.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if encoder.max_length is not None:
        tokenizer.model_max_length = encoder.max_length
    tokenizer.save_pretrained(folder)
    output = {"method": "forward", "method_output_name": "last_hidden_state"}
    # Texts are taken, and put into messages because those are known.
    modalities = {"text": output, "message": {**output, "format": "flat"}}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": modalities,
            "module_output_name": "token_embeddings",
        },
    )
    width = encoder.encode([]).shape[1]
    behind: list[Any] = [Pooling(width, pooling_mode=cast(Any, _POOLINGS[embedder.pooling]))]
    behind += [Normalize()] if embedder.normalize else []
    modules = [_module(0, "", _MODULES)]
    for number, module in enumerate(behind, start=1):
        place = f"{number}_{type(module).__name__}"
        (folder / place).mkdir()
        module.save(str(folder / place))
        modules.append(_module(number, place, f"{type(module).__module__}.{type(module).__name__}"))
    write_json(folder / "modules.json", modules)
    return True


def _module(number: int, place: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": place, "type": kind}


def _versions() -> dict[str, str]:
    versions = library_versions()
    return {
        "sentence_transformers": str(installed_version("sentence-transformers")),
        "transformers": versions["transformers"],
        "pytorch": versions["torch"],
    }


def _reads_alike(folder: Path, encoder: SentenceEncoder, probes: Sequence[str]) -> bool:
    """Whether sentence-transformers makes the same tokens of some texts, and cuts alike."""
    texts = [*probes, *texts_beyond(encoder.max_length)]
    module = load_folder(folder, is_plain=True)
    for text, expected in zip(texts, encoder.token_ids(texts), strict=True):
        if module.preprocess([text])["input_ids"][0].tolist() != expected:
            return False
    return True


def texts_beyond(max_length: int | None) -> list[str]:
    """Returns texts of more tokens than a model has positions; none for one without a limit."""
    # A word is one token at least.
    words = ("word ", '"Why?" na\u00efve \U0001f600 ')
    return [word * max_length for word in words] if max_length is not None else []
