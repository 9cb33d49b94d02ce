"""The model card: what the model is, how it was made and scored, and how to use it."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from embedllm import __version__
from embedllm.config import ExportConfig
from embedllm.export.places import is_local, public_name
from embedllm.export.scores import read_scores, to_eval_results
from embedllm.export.sentence_transformers_folder import needs_embedllm
from embedllm.export.source import Source
from embedllm.files import write_atomically
from embedllm.log import get_logger
from embedllm.models.adapter_folder import PROBE_FILE
from embedllm.models.backbone import (
    load_model_config,
    load_tokenizer,
    max_positions,
    resolve_layer,
)
from embedllm.models.loading import full_model
from embedllm.prompts.template import Prompt, build_more_prompts, build_prompt
from embedllm.prompts.tokenize import leading_special_tokens
from embedllm.versions import installed_version

_log = get_logger(__name__)

_TEMPLATE: Final = Path(__file__).parent / "templates" / "card.md"
# The last line of a card: a checksum of those above it, by which a change by hand shows.
_MARK: Final = "\n<!-- as written by embedllm: "
# What transformers users write behind `states`, [L, H].
_POOL: Final = {
    "last": "vector = states[-1].float()",
    "mean": "vector = states.float().mean(dim=0)",
    "weighted_mean": (
        "weights = torch.arange(1, len(ids) + 1) / sum(range(len(ids) + 1))\n"
        "    vector = weights @ states.float()"
    ),
}


def write_card(folder: Path, config: ExportConfig, source: Source) -> None:
    """Writes README.md of an exported folder; one that was changed by hand stays as it is.

    Args:
        folder: The export, whole but for the card.
        config: What was asked for.
        source: Where the weights come from.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    path = folder / "README.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    if before is not None and before != _marked(before.rpartition(_MARK)[0]):
        _log.warning(
            "%s was changed by hand and stays as it is; delete it to have it written anew", path
        )
        return
    card = _marked(_card(folder, config, source))
    if card != before:
        write_atomically(path, card.encode())


def _marked(text: str) -> str:
    return f"{text}{_MARK}{sha256(text.encode()).hexdigest()} -->\n"


def _card(folder: Path, config: ExportConfig, source: Source) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    scores = read_scores(source.folder)
    title = (config.push or Path(config.output).name).rpartition("/")[2]
    dataset = _hub_dataset(source)
    data = ModelCardData(
        language=config.language,
        license=config.license,
        library_name=_library(config),
        pipeline_tag="sentence-similarity" if _is_st(config) else "feature-extraction",
        base_model=_hub_base(source),
        tags=_tags(config),
        datasets=[dataset] if dataset is not None else None,
        model_name=title if scores else None,
        eval_results=to_eval_results(scores) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=title,
        scores=scores,
        **_facts_of_the_model(folder, source),
        **_facts_of_use(folder, config, source),
    )
    return str(card).rstrip()


def _facts_of_the_model(folder: Path, source: Source) -> dict[str, Any]:
    from safetensors.numpy import load_file

    model = source.description.model
    prompt = build_prompt(source.description.prompt)
    base = _hub_base(source) or Path(model.name).name
    method = "all weights" if source.is_full else f"{source.description.method} adapter, merged"
    return {
        "version": __version__,
        "width": load_file(folder / PROBE_FILE)["vectors"].shape[1],
        "base": _cell(f"{base}, random weights" if model.init == "random" else base),
        "method": method,
        "prompt": _code("{sentence}".join(prompt.literals)),
        "clean_up": prompt.clean_up,
        "pooling": model.pooling,
        "normalize": model.normalize,
        "dtype": source.dtype,
        "facts": [(name, _cell(str(value))) for name, value in _facts(source)],
    }


def _facts_of_use(folder: Path, config: ExportConfig, source: Source) -> dict[str, Any]:
    description, cache_dir = source.description, Path(config.paths.cache_dir)
    model = full_model(source.model, folder)
    architecture, tokenizer = load_model_config(model, cache_dir), load_tokenizer(model, cache_dir)
    prompt = build_prompt(description.prompt)
    is_one_text = prompt.pool_over == "prompt" and prompt.before_prepended is None
    vector = "vector / vector.norm()" if model.normalize else "vector"
    return {
        "place": json.dumps(_place(config), ensure_ascii=False),
        "is_sentence_transformers": _is_st(config),
        "is_plain": not _is_st(config) or not needs_embedllm(folder),
        "sentence_transformers": installed_version("sentence-transformers"),
        "in_transformers": is_one_text and not build_more_prompts(description.prompt),
        "layer": resolve_layer(model.layer, architecture.num_hidden_layers),
        "head": list(leading_special_tokens(tokenizer)),
        "fill": _fill(prompt),
        "pool": f"{_POOL[model.pooling]}\n    return {vector}",
        "cuts": _cuts(prompt, max_positions(architecture)),
    }


def _place(config: ExportConfig) -> str:
    """Returns what the snippets load: the name on the hub, or the folder as seen from here."""
    output = Path(config.output).expanduser()
    return config.push or (output.name if output.is_absolute() else config.output)


def _fill(prompt: Prompt) -> str:
    """Returns the Python expression that puts `sentence` into the prompt."""
    first, *others = (json.dumps(text, ensure_ascii=False) for text in prompt.literals)
    return f"({first}{''.join(f' + clean_up(sentence) + {text}' for text in others)}).strip()"


def _cuts(prompt: Prompt, max_length: int | None) -> str:
    """Returns which texts embedllm and sentence-transformers cut, and transformers does not."""
    cuts = []
    if prompt.max_sentence_tokens is not None:
        cuts.append(f"sentences of more than {prompt.max_sentence_tokens} tokens")
    if max_length is not None:
        cuts.append(f"prompts of more than the model's {max_length} positions")
    return " and ".join(cuts)


def _cell(text: str) -> str:
    """Returns a text for a cell of a table."""
    return text.replace("\n", "\\n").replace("|", "\\|")


def _code(text: str) -> str:
    """Returns a text as code in a cell of a table, backticks and bars included."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{_cell(text)}{space}{fence}"


def _facts(source: Source) -> list[tuple[str, Any]]:
    """Returns data and hyper-parameters, as far as the adapter says; no path of this machine."""
    training = source.description.training
    data, trainer = training.get("data", {}), training.get("trainer", {})
    loss = training.get("loss", {})
    facts = {
        "data": _data_name(source),
        "examples": data.get("max_examples"),
        "examples per step": data.get("global_batch_size"),
        "steps": training.get("step"),
        "epochs": trainer.get("max_epochs"),
        "learning rate": trainer.get("learning_rate"),
        "schedule": trainer.get("lr_schedule"),
        "weight decay": trainer.get("weight_decay"),
        "precision": trainer.get("precision"),
        "temperature": loss.get("temperature"),
        "weight of hard negatives": loss.get("hard_negative_weight"),
        "seed": training.get("seed"),
        "chosen by": training.get("dev_task"),
    }
    return [(name, value) for name, value in facts.items() if value is not None]


def _data_name(source: Source) -> str | None:
    data = source.description.training.get("data", {})
    if data.get("source") == "sample":
        return "synthetic sample triplets of embedllm"
    path = data.get("path")
    return path and (Path(path).name if is_local(path, source.folder) else path)


def _hub_dataset(source: Source) -> str | None:
    data = source.description.training.get("data", {})
    path = data.get("path") if data.get("source") != "sample" else None
    return path and public_name(path, source.folder)


def _hub_base(source: Source) -> str | None:
    """Returns the hub name of the base model; None for a folder or a size without weights."""
    model = source.description.model
    return public_name(model.name, source.folder) if model.init == "pretrained" else None


def _is_st(config: ExportConfig) -> bool:
    return config.format == "sentence-transformers"


def _library(config: ExportConfig) -> str:
    return "sentence-transformers" if _is_st(config) else "transformers"


def _tags(config: ExportConfig) -> list[str]:
    tags = ["feature-extraction", "sentence-similarity", "embedllm", "prompteol"]
    return ["sentence-transformers", *tags] if _is_st(config) else tags
