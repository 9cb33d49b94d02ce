"""The page of all configuration keys, from the dataclasses that check them and from conf/."""

from __future__ import annotations

import ast
import dataclasses
import html
import inspect
import sys
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from embedllm import entry
from embedllm.cli import COMMANDS

_INTRO = """\
# Configuration

Every key of every command, made from the typed configuration when this site is built.
`group=option` chooses a file of `conf/`, `group.key=value` changes one value; unknown keys and
values that are not allowed are refused before any weight is loaded. `python train.py --cfg job`
prints what a command line makes of it all.

"""

_MAX_DEFAULT = 60


@dataclass(frozen=True)
class Key:
    """A field of a configuration class.

    Attributes:
        name: Its name.
        type: As people say it.
        description: Its docstring.
        limits: What its values may be, where more than the type says so.
        default: As the class has it; None for what has to be chosen.
    """

    name: str
    type: str
    description: str
    limits: str
    default: str | None


def configuration_page() -> str:
    """Returns the page as Markdown."""
    entry.register()
    groups: dict[str, type[Any]] = {}
    users: dict[str, list[str]] = {}
    defaults: dict[str, Any] = {}
    commands = []
    for name, schema in entry._SCHEMAS.items():
        values = _composed(name)
        own, inner = split_fields(schema)
        for group, kind in inner.items():
            groups.setdefault(group, kind)
            users.setdefault(group, []).append(name)
            defaults.setdefault(group, values.get(group, {}))
        commands.append(_command_section(name, schema, own, list(inner), values))
    sections = [_group_section(g, groups[g], users[g], defaults[g]) for g in sorted(groups)]
    return "\n".join([_INTRO, "## Commands\n", *commands, "## Groups\n", *sections])


def split_fields(schema: type[Any]) -> tuple[list[str], dict[str, type[Any]]]:
    """Returns the names of a command's own keys, and its groups with their classes."""
    own, groups = [], {}
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = _class_of(hints[field.name])
        if kind is not None and not _is_list(hints[field.name]):
            groups[field.name] = kind
        else:
            own.append(field.name)
    return own, groups


def keys_of(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Yields all keys of a class with their paths, those of classes in it included."""
    hints = typing.get_type_hints(schema)
    for key in _read_class(schema):
        inner = _class_of(hints[key.name])
        path = f"{prefix}{key.name}"
        if inner is None:
            yield path, key
        elif _is_list(hints[key.name]):
            yield path, key
            yield from keys_of(inner, f"{path}[].")
        else:
            yield from keys_of(inner, f"{path}.")


def _composed(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(entry.CONF_DIR), version_base="1.3"):
        config = compose(name)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _command_section(
    name: str, schema: type[Any], own: list[str], groups: list[str], values: dict[str, Any]
) -> str:
    summary = COMMANDS[name].summary if name in COMMANDS else ""
    rows = [(path, key) for path, key in keys_of(schema) if path.split("[")[0] in own]
    linked = ", ".join(f"[`{group}`](#{group})" for group in groups)
    lines = [f"### `{name}`\n", f"{summary[:1].upper()}{summary[1:]}.\n"]
    lines += [_table(rows, values), f"Groups: {linked}.\n" if groups else ""]
    return "\n".join(lines)


def _group_section(name: str, schema: type[Any], users: list[str], values: Any) -> str:
    described = inspect.cleandoc(schema.__doc__ or "").split("\n\n")[0]
    lines = [f"### {name}\n", f"{' '.join(described.split())} Used by {', '.join(users)}.\n"]
    folder = entry.CONF_DIR / name
    options = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    lines += [
        f"- `{name}={path.relative_to(folder).with_suffix('').as_posix()}`: {_purpose(path)}"
        for path in options
    ]
    rows = [(f"{name}.{path}", key) for path, key in keys_of(schema)]
    return "\n".join([*lines, "", _table(rows, {name: values})])


def _purpose(path: Path) -> str:
    """Returns the first sentence of the comment that a file of conf/ begins with."""
    comments = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# "))
    return html.escape(" ".join(comments).split(". ")[0].rstrip("."), quote=False)


def _table(rows: list[tuple[str, Key]], values: dict[str, Any]) -> str:
    lines = ["| key | type | default | what |", "| --- | --- | --- | --- |"]
    for path, key in rows:
        default = _show(_look_up(values, path, key.default))
        what = " ".join(f"{key.description} {key.limits}".split())
        cells = [f'<span id="{path}">`{path}`</span>', key.type, default, html.escape(what, False)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _look_up(values: Any, path: str, default: str | None) -> Any:
    """Returns what the composed configuration has, which may differ from the class's default."""
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return default
        values = values[part]
    return values


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value).replace("\n", " ")
    if text == "???":
        return "required"
    text = text if len(text) <= _MAX_DEFAULT else f"{text[:_MAX_DEFAULT]} ..."
    return f"`{text}`" if text else '`""`'


def _read_class(schema: type[Any]) -> list[Key]:
    [node] = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(node, ast.ClassDef)
    limits = _limits_of(node, schema)
    described: dict[str, str] = {}
    last = ""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            last = item.target.id
        elif isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and last:
            described[last] = inspect.cleandoc(str(item.value.value))
        else:
            last = ""
    hints = typing.get_type_hints(schema)
    return [
        Key(
            field.name,
            _say_type(hints[field.name]),
            described.get(field.name, ""),
            limits.get(field.name, ""),
            _default_of(field),
        )
        for field in dataclasses.fields(schema)
    ]


def _limits_of(node: ast.ClassDef, schema: type[Any]) -> dict[str, str]:
    """Reads `one_of` and `at_least`, the checks of single values, where keys are plain text."""
    names = vars(sys.modules[schema.__module__])
    limits = {}
    for call in ast.walk(node):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        if call.func.id not in ("one_of", "at_least") or not isinstance(call.args[0], ast.Constant):
            continue
        key = str(call.args[0].value).rpartition(".")[2]
        try:
            bound = eval(ast.unparse(call.args[2]), dict(names))
        except (NameError, AttributeError):
            # It depends on another key.
            continue
        if call.func.id == "one_of":
            shown = ", ".join("null" if value is None else f"`{value}`" for value in bound)
            limits[key] = f"Allowed: {shown}."
        else:
            is_strict = any(word.arg == "strictly" for word in call.keywords)
            limits[key] = f"{'Greater than' if is_strict else 'At least'} {bound}."
    return limits


def _default_of(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return None if field.default is None else str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "???"


def _class_of(hint: Any) -> type[Any] | None:
    """Returns the configuration class that a type is, or holds."""
    for kind in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return kind
    return None


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, dict)


def _say_type(hint: Any) -> str:
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    if hint is type(None):
        return "null"
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is list:
        return f"list of {_say_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if arguments:
        return " or ".join(_say_type(argument) for argument in arguments)
    name = getattr(hint, "__name__", str(hint))
    return words.get(name, name.lower())
