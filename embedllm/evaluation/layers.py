"""What `python -m embedllm layers` does: score the vectors of every layer, all from one pass.

The paper reads the last layer alone; later work found that for some models an earlier one is
better, and always cheaper (`model.layer=K` never computes the layers above K).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedllm.config import LayersConfig
from embedllm.console import print_line, result_table
from embedllm.errors import ConfigError
from embedllm.evaluation.run import load_configured_tasks
from embedllm.evaluation.sts import evaluate_sts
from embedllm.evaluation.tasks import PairTask
from embedllm.files import write_atomically
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)


class _Table:
    """Vectors that were computed before, as an encoder."""

    def __init__(self, sentences: list[str], vectors: np.ndarray) -> None:
        self._row_of = {sentence: row for row, sentence in enumerate(sentences)}
        self._vectors = vectors

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._vectors[
            [self._row_of[sentence] for sentence in sentences]
        ]
        return rows


def run_layers(config: LayersConfig, invocation: Invocation) -> None:
    """Scores every layer, prints the table and writes `layers.csv`.

    Raises:
        ConfigError: The task is none of sentence pairs.
        EmbedllmError: Whatever else a user can mend, before any weight is loaded.
    """
    quiet_libraries()
    from embedllm.models.backbone import resolve_device
    from embedllm.models.layer_vectors import encode_layers
    from embedllm.models.loading import load_encoder

    (task,) = load_configured_tasks(config.evaluation, config.evaluation.tasks)
    if not isinstance(task, PairTask):
        raise ConfigError(f"evaluation.tasks=[{task.name}] has no sentence pairs; use sts-dev")
    encoder = load_encoder(
        config.model,
        config.prompt,
        Path(config.paths.cache_dir),
        device=resolve_device(),
        tokens_per_batch=config.evaluation.tokens_per_batch,
    )
    _log.info("prompt in use: %s", encoder.describe())
    columns = [c for s in task.subsets.values() for c in (s.sentence1, s.sentence2)]
    sentences = list(dict.fromkeys(sentence for column in columns for sentence in column))
    layers = encode_layers(encoder, sentences, progress="encoding all layers")
    scores = [evaluate_sts(_Table(sentences, vectors), [task]).tasks[0].score for vectors in layers]
    best = max(range(len(scores)), key=scores.__getitem__)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "score"])
    writer.writerows(enumerate(scores, start=1))
    path = invocation.folder / "layers.csv"
    write_atomically(path, text.getvalue().encode())
    table = result_table()
    for heading in ("layer", task.name):
        table.add_column(heading, justify="right")
    for layer, score in enumerate(scores, start=1):
        table.add_row(str(layer), f"{score:.2f}", style="bold" if layer == best + 1 else None)

    def draw(console: Console) -> None:
        console.print(table)
        print_line(console, f"best: model.layer={best + 1} ({scores[best]:.2f}); scores: {path}")

    record = {"task": task.name, "layers": dict(enumerate(scores, start=1)), "best": best + 1}
    invocation.show({**record, "scores": str(path)}, draw)
