"""Sentences that a language model is asked a word for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from embedllm.config import DemonstrationsConfig
from embedllm.demonstrations.records import SUFFIXES, read_records, read_text
from embedllm.demonstrations.sets import PAPER_STSB
from embedllm.errors import DataError
from embedllm.evaluation.readers import TASK_FILES, Layout, read_task_files

STSB_TRAIN: Final = "stsb-train"

_KEY: Final = "sentences"


def read_sentences(config: DemonstrationsConfig) -> tuple[list[str], str]:
    """Returns the sentences of `config.sentences` in file order, and the name of their source.

    White space is collapsed. Double quotes become single ones, as the paper's clean-up makes
    them: in a prompt the sentence stands between double quotes.

    Raises:
        DataError: The file cannot be read, is not UTF-8, is malformed or has no sentence, or the
            data folder has no STS-B training split.
    """
    name = config.sentences or ""
    if name == STSB_TRAIN:
        sentences, source = _read_stsb_train(config), PAPER_STSB
    else:
        path = Path(name).expanduser()
        source = path.name
        if not path.is_file():
            raise DataError(
                f"{_KEY}={name} is neither {STSB_TRAIN!r} nor a file (looked at {path.absolute()})"
            )
        if path.suffix.lower() in SUFFIXES:
            column = config.sentence_column
            records = read_records(path, (column,), key=_KEY)
            sentences = [record.text(column, path, key=_KEY) for record in records]
        else:
            # Line feeds alone end a line: others occur inside sentences of web text.
            sentences = read_text(path, key=_KEY).split("\n")
    cleaned = [" ".join(sentence.replace('"', "'").split()) for sentence in sentences]
    cleaned = [sentence for sentence in cleaned if sentence]
    if not cleaned:
        raise DataError(f"{_KEY}={name}: there is no sentence in it")
    return cleaned, source


def _read_stsb_train(config: DemonstrationsConfig) -> list[str]:
    """Returns both sentences of every pair of the split that the paper's come from."""
    if config.evaluation.data_dir is None:
        raise DataError(
            f"{_KEY}={STSB_TRAIN} needs data files, but no folder is set. Set evaluation.data_dir "
            "or the environment variable EMBEDLLM_DATA_DIR to the folder that holds senteval/ or "
            f"sts/, or set {_KEY} to a file of your own"
        )
    files = replace(
        TASK_FILES["STSBenchmark"],
        subsets=("train",),
        senteval="STS/STSBenchmark/sts-train.csv",
        jsonl="stsb_train.jsonl",
        split="train",
    )
    layout: Layout = config.evaluation.layout  # type: ignore[assignment]  # checked by the config
    content = read_task_files(files, Path(config.evaluation.data_dir), layout=layout)
    pairs = [pair for subset in content.pairs.values() for pair in subset]
    return [sentence for pair in pairs for sentence in (pair.sentence1, pair.sentence2)]
