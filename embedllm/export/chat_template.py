r"""A prompt as a chat template, which every library that knows tokenizers can fill.

The template does clean-up and the text around the sentence; what the tokenizer then gives are
`tokenize`'s ids. sentence-transformers renders each text through it and, when it cuts a text that
is too long, puts the template's end back, so the suffix survives as it does here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from embedllm.prompts.template import Prompt
from embedllm.prompts.tokenize import leading_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A system message is sentence-transformers' `prompt`, a text in front of the sentence.
_JOIN: Final = "{%- set s = messages | map(attribute='content') | join -%}"
# `prompts.clean_up.clean_up_paper`; Jinja's strings are Python's.
_CLEAN_UPS: Final = {
    "none": "",
    "paper": """
{%- set s = s.split() | join(' ') -%}
{%- if s and s[-1] not in '.?"' ~ "'" -%}{%- set s = s ~ '.' -%}{%- endif -%}
{%- set s = s.replace('"', "'") -%}
{%- if s and s[-1] == '?' -%}{%- set s = s[:-1] ~ '.' -%}{%- endif -%}""",
}


def to_chat_template(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns the Jinja template of a prompt; None for one that is more than a template.

    Args:
        prompt: Template and clean-up of use.
        tokenizer: Its special tokens in front of a text are part of the template.
    """
    is_plain = (
        len(prompt.literals) == 2
        and prompt.max_sentence_tokens is None
        and prompt.pool_over == "prompt"
        and prompt.before_prepended is None
    )
    if not is_plain:
        return None
    before, after = (json.dumps(text, ensure_ascii=False) for text in prompt.literals)
    head = "".join(
        map(str, tokenizer.convert_ids_to_tokens(list(leading_special_tokens(tokenizer))))
    )
    filled = f"({before} ~ s ~ {after}) | trim"
    return f"{_JOIN}{_CLEAN_UPS[prompt.clean_up]}\n{{{{- {json.dumps(head)} ~ ({filled}) -}}}}"
