"""The model card: what the model is, how it was made and scored, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from embedllm import __version__
from embedllm.config import ExportConfig
from embedllm.export.source import Source
from embedllm.files import sha256_of
from embedllm.log import get_logger
from embedllm.models.encoder import SentenceEncoder
from embedllm.prompts.tokenize import leading_special_tokens

_log = get_logger(__name__)

_TEMPLATE: Final = Path(__file__).parent / "templates" / "card.md"
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What transformers users write behind `states`, [L, H].
_POOL: Final = {
    "last": "vector = states[-1].float()",
    "mean": "vector = states.float().mean(dim=0)",
    "weighted_mean": (
        "weights = torch.arange(1, len(ids) + 1) / sum(range(len(ids) + 1))\n"
        "    vector = weights @ states.float()"
    ),
}


def write_card(
    folder: Path, config: ExportConfig, source: Source, encoder: SentenceEncoder, *, is_plain: bool
) -> None:
    """Writes README.md.

    Args:
        folder: Where to.
        config: What was asked for.
        source: Where the weights come from.
        encoder: The exported model.
        is_plain: Whether sentence-transformers needs nothing beside itself.
    """
    from huggingface_hub import ModelCard, ModelCardData

    scores = read_scores(source.folder)
    title = (config.push or Path(config.output).name).rpartition("/")[2]
    data = ModelCardData(
        language=config.language,
        license=config.license,
        library_name=_library(config),
        pipeline_tag="sentence-similarity" if _is_st(config) else "feature-extraction",
        base_model=_public_name(source.description.model.name),
        tags=_tags(config),
        datasets=_datasets(source.description.training),
        model_name=title if scores else None,
        eval_results=_eval_results(scores) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        **_contents(config, source, encoder, scores, title=title, is_plain=is_plain),
    )
    (folder / "README.md").write_text(f"{str(card).rstrip()}\n", encoding="utf-8")


def read_scores(adapter: Path) -> list[dict[str, str]]:
    """Returns what the run saved beside an adapter: task, before, after, metric, protocol.

    A result of another adapter, and a file that cannot be read, count as none.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for name in ("before", "after"):
        try:
            path = adapter.resolve().parent / "results" / f"{name}.json"
            records[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
    if records["after"].get("adapter_sha256") != sha256_of(adapter / "embedllm.json"):
        _log.warning("the run's results are of another adapter; the card has no scores")
        return []
    before = records["before"].get("tasks", {})
    return [
        {
            "task": name,
            "before": f"{before[name]['score']:.2f}" if name in before else "",
            "after": f"{task['score']:.2f}",
            "metric": task["metric"],
            "protocol": str(task.get("protocol") or task.get("probe") or ""),
        }
        for name, task in records["after"].get("tasks", {}).items()
    ]


def _contents(
    config: ExportConfig,
    source: Source,
    encoder: SentenceEncoder,
    scores: list[dict[str, str]],
    *,
    title: str,
    is_plain: bool,
) -> dict[str, Any]:
    description, prompt = source.description, encoder.prompt
    fill = json.dumps(prompt.literals[0], ensure_ascii=False)
    for literal in prompt.literals[1:]:
        fill += f" + clean_up(sentence) + {json.dumps(literal, ensure_ascii=False)}"
    vector = "vector / vector.norm()" if encoder.embedder.normalize else "vector"
    return {
        "title": title,
        "version": __version__,
        "place": config.push or config.output,
        "width": encoder.encode([]).shape[1],
        "base": _public_name(description.model.name) or Path(description.model.name).name,
        "method": "all weights" if source.is_full else f"{description.method} adapter, merged",
        "prompt": "{sentence}".join(prompt.literals).replace("\n", "\\n"),
        "clean_up": prompt.clean_up,
        "pooling": encoder.embedder.pooling,
        "layer": encoder.embedder.layer,
        "normalize": encoder.embedder.normalize,
        "dtype": source.dtype,
        "facts": _facts(description.training),
        "scores": scores,
        "is_sentence_transformers": _is_st(config),
        "is_plain": is_plain,
        "sentence_transformers": _version_of("sentence-transformers"),
        "head": list(leading_special_tokens(encoder.tokenizer)),
        "fill": f"({fill}).strip()",
        "pool": f"{_POOL[encoder.embedder.pooling]}\n    return {vector}",
        "max_length": encoder.max_length,
    }


def _facts(training: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns data and hyper-parameters, as far as the adapter says; no path of this machine."""
    data, trainer = training.get("data", {}), training.get("trainer", {})
    loss = training.get("loss", {})
    facts = {
        "data": _data_name(data),
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


def _data_name(data: Mapping[str, Any]) -> str | None:
    if data.get("source") == "sample":
        return "synthetic sample triplets of embedllm"
    path = data.get("path")
    return path if path is None or _HUB_NAME.fullmatch(path) else Path(path).name


def _datasets(training: Mapping[str, Any]) -> list[str] | None:
    path = training.get("data", {}).get("path")
    is_hub_name = isinstance(path, str) and _HUB_NAME.fullmatch(path) and not Path(path).exists()
    return [path] if is_hub_name else None


def _eval_results(scores: list[dict[str, str]]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="STS" if row["metric"] == "spearman" else "Classification",
            dataset_type=row["task"],
            dataset_name=row["task"],
            metric_type=row["metric"],
            metric_value=float(row["after"]),
            metric_name=f"{row['metric']} x100 ({row['protocol']})",
        )
        for row in scores
    ]


def _public_name(name: str) -> str | None:
    """Returns the hub name of a base model; None for a folder or a size without weights."""
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _is_st(config: ExportConfig) -> bool:
    return config.format == "sentence-transformers"


def _library(config: ExportConfig) -> str:
    return "sentence-transformers" if _is_st(config) else "transformers"


def _tags(config: ExportConfig) -> list[str]:
    tags = ["feature-extraction", "sentence-similarity", "embedllm", "prompteol"]
    return ["sentence-transformers", *tags] if _is_st(config) else tags


def _version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
