"""What a score belongs to: the settings that decide a vector, and the name of their row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Final

from embedllm.config import ModelConfig, PromptConfig, flatten
from embedllm.report.methods import METHODS, Method
from embedllm.results import StoredResult

# How the vector is read; settings that differ in nothing else belong to one model.
_READ_OUT: Final = ("pooling", "layer", "token_prepending_layers", "normalize")
# The type asked for (`auto`) says less than the one that was used, and code that was trusted
# leaves no trace in a vector.
_WITHOUT_EFFECT: Final = ("dtype", "trust_remote_code")
_FOR_RANDOM_WEIGHTS: Final = ("architecture", "init_seed")
_FOR_TRAINING: Final = ("training_clean_up", "max_sentence_tokens")
_MAX_VALUE_CHARACTERS: Final = 60


@dataclass(frozen=True)
class Setting:
    """What decides the vectors of one row.

    Attributes:
        base: The model and the type of its weights; rows with one base can be compared.
        rest: How its vectors are read, prompt and adapter.
    """

    base: Mapping[str, Any]
    rest: Mapping[str, Any]

    @classmethod
    def of(cls, result: StoredResult) -> Setting:
        """Returns the setting of a result; keys that older records lack have their defaults."""
        record = result.record
        model = asdict(ModelConfig(name="")) | record["model"]
        unused = list(_WITHOUT_EFFECT)
        if model["init"] != "random" and not model["gguf_package"]:
            unused += _FOR_RANDOM_WEIGHTS
        model = {key: value for key, value in model.items() if key not in unused}
        prompt = asdict(PromptConfig(template="")) | record["prompt"]
        prompt = {key: value for key, value in prompt.items() if key not in _FOR_TRAINING}
        prompt["demonstrations"] = [_without_source(d) for d in _items(prompt["demonstrations"])]
        adapter = record["adapter_sha256"] or record["adapter"]
        rest = {key: model.pop(key) for key in _READ_OUT}
        return cls(
            base={"model": model, "dtype": record["dtype"]},
            rest={"model": rest, "prompt": prompt, "adapter": adapter},
        )

    @property
    def base_key(self) -> str:
        """Identifies the base."""
        return _digest(self.base)

    @property
    def key(self) -> str:
        """Identifies the setting."""
        return _digest([self.base, self.rest])

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the demonstrations."""
        found = self.rest["prompt"]["demonstrations"]
        return tuple(str(d.get("word")) for d in found if isinstance(d, dict))


@dataclass(frozen=True)
class RowName:
    """The name of a row.

    Attributes:
        text: The name, plain text.
        label: The file of `conf/method`, another label, or None.
        is_standard: Whether the method is read as its file says; the order of the paper and the
            gains of later methods are stated for such rows.
    """

    text: str
    label: str | None
    is_standard: bool

    @property
    def method(self) -> Method | None:
        """The method, when it is a known one."""
        return METHODS.get(self.label or "")

    @property
    def order(self) -> tuple[int, str]:
        """Place in tables: known methods in their order, then all others by name."""
        known = list(METHODS)
        is_known = self.label in known
        return (known.index(self.label or "") if is_known else len(known), self.text)


def name_row(setting: Setting, results: Sequence[StoredResult]) -> RowName:
    """Returns the name of a setting.

    Args:
        setting: The setting.
        results: Its results, the newest last; a known label among them goes before another one.
    """
    newest = results[-1]
    labels = [result.label for result in reversed(results) if result.label]
    label = next((label for label in labels if label in METHODS), next(iter(labels), None))
    if label in ("prompteol", "demonstration"):
        # Either may have been given the other's prompt on the command line.
        label = "demonstration" if setting.words else "prompteol"
    method = METHODS.get(label or "", Method(label or _run_of(newest)))
    read_out = _describe_read_out(setting.rest["model"], method)
    parts = [method.title, *([" + ".join(f'"{w}"' for w in setting.words)] * bool(setting.words))]
    is_tuned = setting.rest["adapter"] is not None
    text = ", ".join([" ".join(parts), *read_out, *(["fine-tuned"] if is_tuned else [])])
    return RowName(text, label, is_standard=not read_out)


def shorten_model(name: str) -> str:
    """Returns a model's name without the organisation, or without the folders in front of it."""
    return PurePath(name).name or name


def shorten_adapter(path: str) -> str:
    """Returns the run's name for an adapter in a run folder, else the name of its folder."""
    folder = PurePath(path)
    return (folder.parent.name if folder.name == "adapter" else folder.name) or path


def distinguish(names: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names, with the facts that differ behind those that are equal.

    Args:
        names: Names.
        facts: What each stands for; no two that have one name are equal.
    """
    flat = [flatten(dict(fact)) for fact in facts]
    new = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        places = [place for place, other in enumerate(names) if other == name]
        keys = sorted({key for place in places for key in flat[place]})
        differing = [k for k in keys if len({_digest(flat[p].get(k)) for p in places}) > 1]
        for place in places:
            new[place] = ", ".join([name, *(_say(k, flat[place].get(k)) for k in differing)])
    # Long values are cut, perhaps where they differ.
    return [
        f"{name} ({_digest(fact)[:6]})" if new.count(name) > 1 else name
        for name, fact in zip(new, flat, strict=True)
    ]


def _run_of(result: StoredResult) -> str:
    return shorten_adapter(result.adapter) if result.adapter else result.run_name


def _describe_read_out(read_out: Mapping[str, Any], method: Method) -> list[str]:
    found = []
    if read_out["pooling"] != method.pooling:
        found.append(f"{read_out['pooling']} pooling")
    if read_out["layer"] != -1:
        found.append(f"layer {read_out['layer']}")
    layers = read_out["token_prepending_layers"]
    if layers != method.token_prepending_layers:
        found.append(f"token prepending in {layers} layers")
    # The cosine is the same, but a classifier sees it.
    if read_out["normalize"]:
        found.append("normalized")
    return found


def _without_source(demonstration: Any) -> Any:
    if not isinstance(demonstration, dict):
        return demonstration
    return {key: value for key, value in demonstration.items() if key != "source"}


def _items(value: Any) -> Iterable[Any]:
    """Returns a list; the schema leaves open whether there is one."""
    return value if isinstance(value, list) else []


def _say(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > _MAX_VALUE_CHARACTERS:
        text = f"{text[: _MAX_VALUE_CHARACTERS - 3]}..."
    return f"{key}={text}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
