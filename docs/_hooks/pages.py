"""What mkdocs.yml cannot say: a generated page, pages still to come, links out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from configuration import configuration_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_GENERATED = {"configuration.md": configuration_page}
# A page's text, then a path that leads out of docs/ (README.md has a page of its own here).
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Takes pages out of the navigation that nobody has written yet."""
    docs = Path(config.docs_dir)
    config.nav = _existing(config.nav or [], docs)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    for path, make in _GENERATED.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository that are no pages into their names."""

    def name(found: re.Match[str]) -> str:
        target = (Path(config.docs_dir) / page.file.src_uri).parent / found[0].split("](")[1][:-1]
        inside = str(target).split("#")[0]
        if files.get_file_from_path(_relative(inside, config.docs_dir)) is not None:
            return found[0]
        if found[2] == "README.md":
            depth = page.file.src_uri.count("/")
            return f"[{found[1]}]({'../' * depth}index.md)"
        text = found[1].strip("`")
        return f"`{found[2]}`" if text == found[2] else f"{found[1]} (`{found[2]}`)"

    return _OUTSIDE.sub(name, markdown)


def _relative(path: str, docs_dir: str) -> str:
    full = Path(path).resolve()
    docs = Path(docs_dir).resolve()
    return full.relative_to(docs).as_posix() if full.is_relative_to(docs) else ""


def _existing(nav: list[Any], docs: Path) -> list[Any]:
    kept: list[Any] = []
    for entry in nav:
        [(title, value)] = entry.items()
        if isinstance(value, list):
            if inner := _existing(value, docs):
                kept.append({title: inner})
        elif value in _GENERATED or (docs / value).is_file():
            kept.append(entry)
    return kept
