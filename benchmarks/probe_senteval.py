"""Compares `probe=senteval` with SentEval itself: same vectors, same seeds, one process.

SentEval is not part of this project. Get a checkout of github.com/facebookresearch/SentEval (or
of a fork with its `senteval/tools`), then

    EMBEDLLM_DATA_DIR=/data OMP_NUM_THREADS=1 \
        python benchmarks/probe_senteval.py --senteval ../SentEval --output comparison.json

prints a table of accuracies and seconds, and leaves with status 1 if a task is more than 0.5
points off for any seed, or the mean over the tasks more than 0.2. SentEval takes about an hour
for the seven tasks, three seeds and 768 dimensions times three; `--tasks CR TREC MRPC` or
`--max-examples 2000` take minutes.

Without `--vectors` the vectors are made from the words of the real tasks: TF-IDF, reduced to 300
dimensions, turned into `--width` dimensions that have offsets and sizes as uneven as those of a
language model. With it, they are read from an .npz file of arrays `<task>/<split>/features`
(float32 [N, D], for MRPC the pair features) and `<task>/<split>/labels` (int64 [N]), rows in
SentEval's order (`transfer_tasks.senteval_order`).

Without a GPU SentEval does not run as it is, and neither with Python 3.11. Three things are
changed from outside, none of which touches a number: `.cuda()` does nothing, classifiers are
told to keep their rows where they are (`cudaEfficient`), and `inspect.getargspec` is there again.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from embedllm.evaluation.probes.protocol import SPLITS_OF_PROBE_KIND, ProbeData, pair_features
from embedllm.evaluation.probes.senteval import SentEvalProbe
from embedllm.evaluation.transfer_readers import TRANSFER_FILES
from embedllm.evaluation.transfer_tasks import (
    TRANSFER_TASKS,
    TransferSplit,
    load_transfer_task,
    senteval_order,
    texts_to_encode,
)

MAX_TASK_DIFFERENCE = 0.5
MAX_MEAN_DIFFERENCE = 0.2
NUM_TOPICS = 300


@dataclass(frozen=True)
class Comparison:
    """One task and seed: accuracies in percent, and wall time."""

    task: str
    seed: int
    width: int
    num_train: int
    senteval_dev: float
    senteval_test: float
    dev: float
    test: float
    senteval_seconds: float
    seconds: float

    @property
    def difference(self) -> float:
        """Test accuracy of the probe minus that of SentEval."""
        return self.test - self.senteval_test


def main() -> int:
    """Runs the comparison and returns the exit status."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    validation = import_senteval(options.senteval)
    comparisons = []
    for data in load_data(options):
        for seed in options.seeds:
            comparison = compare(data, seed, validation)
            comparisons.append(comparison)
            sys.stderr.write(f"{comparison}\n")
            if options.output is not None:
                records = [asdict(comparison) for comparison in comparisons]
                options.output.write_text(json.dumps(records, indent=2) + "\n", "utf-8")
    sys.stdout.write(render(comparisons))
    return 0 if is_within_limits(comparisons) else 1


def parse_options() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--senteval", type=Path, required=True, help="folder of a SentEval checkout"
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EMBEDLLM_DATA_DIR"))
    parser.add_argument("--vectors", type=Path, help="read vectors from this .npz file")
    parser.add_argument("--tasks", nargs="+", default=TRANSFER_TASKS, choices=TRANSFER_TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1111, 1, 2])
    parser.add_argument("--width", type=int, default=768, help="dimensions of made vectors")
    parser.add_argument("--max-examples", type=int, help="use so many examples of a split")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the single results to this .json file")
    return parser.parse_args()


def import_senteval(folder: Path) -> ModuleType:
    """Returns SentEval's module `tools.validation`, made to run here."""
    if not (folder / "senteval/tools/validation.py").is_file():
        sys.exit(f"--senteval {folder}: there is no senteval/tools/validation.py in it.")
    sys.path.insert(0, str(folder))
    if not hasattr(inspect, "getargspec"):
        inspect.getargspec = inspect.getfullargspec  # type: ignore[attr-defined]
    validation = importlib.import_module("senteval.tools.validation")
    if torch.cuda.is_available():
        return validation
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    classifier = validation.MLP

    def build_on_cpu(*args: Any, **kwargs: Any) -> Any:
        return classifier(*args, **(kwargs | {"cudaEfficient": True}))

    validation.MLP = build_on_cpu  # type: ignore[attr-defined]
    return validation


def load_data(options: argparse.Namespace) -> Iterator[ProbeData]:
    """Yields the vectors of the tasks, read or made."""
    arrays = dict(np.load(options.vectors)) if options.vectors is not None else None
    for name in options.tasks:
        files = TRANSFER_FILES[name]
        if arrays is None:
            features, labels = make_vectors(name, options)
        else:
            splits = SPLITS_OF_PROBE_KIND[files.kind]
            features = {split: arrays[f"{name}/{split}/features"] for split in splits}
            labels = {split: arrays[f"{name}/{split}/labels"] for split in splits}
        if options.max_examples is not None:
            for split in features:
                # At even distances, as the order is by length.
                rows = np.linspace(0, len(labels[split]) - 1, options.max_examples).astype(int)
                rows = np.unique(rows)
                features[split], labels[split] = features[split][rows], labels[split][rows]
        yield ProbeData(
            name=name,
            kind=files.kind,
            num_classes=len(files.classes),
            features=features,
            labels=labels,
        )


def make_vectors(
    name: str, options: argparse.Namespace
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]:
    """Returns vectors made from words, and labels, by split, in SentEval's order."""
    task = load_transfer_task(name, data_dir=options.data_dir)
    columns: dict[str, list[list[str]]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for split, content in task.splits.items():
        columns[split], labels[split] = to_columns(content)
    first = [text for column in next(iter(columns.values())) for text in column]
    topics = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2), token_pattern=r"\S+")
    reduction = TruncatedSVD(NUM_TOPICS, random_state=0).fit(topics.fit_transform(first[:20_000]))
    random = np.random.default_rng(0)
    spread = np.sqrt(reduction.singular_values_)
    mixing = random.standard_normal((NUM_TOPICS, options.width)) / spread[:, None]
    offsets = random.standard_normal(options.width)
    # Most sizes within a factor of 3, and three dimensions that tower above the rest.
    sizes = np.exp(0.5 * random.standard_normal(options.width))
    sizes[:3] *= 15

    def embed(texts: list[str]) -> NDArray[np.float32]:
        mixed = reduction.transform(topics.transform(texts)) @ mixing * 3
        return ((mixed + offsets) * sizes).astype(np.float32)

    features = {}
    for split, texts in columns.items():
        vectors = [embed(column) for column in texts]
        features[split] = pair_features(*vectors) if task.is_pair_task else vectors[0]
    return features, labels


def to_columns(split: TransferSplit) -> tuple[list[list[str]], NDArray[np.int64]]:
    """Returns one or two lists of sentences, and labels, in SentEval's order."""
    order = senteval_order(split)
    columns = [split.sentence1] if split.sentence2 is None else [split.sentence1, split.sentence2]
    texts = [texts_to_encode([column[i] for i in order]) for column in columns]
    return texts, np.array(split.labels)[order]


def compare(data: ProbeData, seed: int, validation: ModuleType) -> Comparison:
    """Scores one task with both."""
    start = time.monotonic()
    senteval_dev, senteval_test = run_senteval(data, seed, validation)
    seconds = time.monotonic() - start
    score = SentEvalProbe().score(data, seed=seed)
    return Comparison(
        task=data.name,
        seed=seed,
        width=next(iter(data.features.values())).shape[1],
        num_train=score.num_train,
        senteval_dev=senteval_dev,
        senteval_test=senteval_test,
        dev=score.dev_accuracy,
        test=score.accuracy,
        senteval_seconds=round(seconds, 1),
        seconds=round(score.seconds, 1),
    )


def run_senteval(data: ProbeData, seed: int, validation: ModuleType) -> tuple[float, float]:
    """Returns SentEval's dev and test accuracy, with the settings of the published numbers."""
    classifier = {
        "nhid": 0,
        "optim": "adam",
        "batch_size": 64,
        "tenacity": 5,
        "epoch_size": 4,
    }
    config = {
        "nclasses": data.num_classes,
        "seed": seed,
        "usepytorch": True,
        "kfold": 10,
        "classifier": classifier,
        "cudaEfficient": not torch.cuda.is_available(),
    }
    x, y = data.features, data.labels
    if data.kind == "cross_validation":
        run = validation.InnerKFoldClassifier(x["all"], y["all"], config)
    elif data.kind == "train_test":
        run = validation.KFoldClassifier(
            *({"X": x[split], "y": y[split]} for split in ("train", "test")), config
        )
    else:
        names = {"train": "train", "valid": "dev", "test": "test"}
        run = validation.SplitClassifier(
            *({name: part[split] for name, split in names.items()} for part in (x, y)), config
        )
    dev, test = run.run()[:2]
    return float(dev), float(test)


def render(comparisons: list[Comparison]) -> str:
    """Returns a Markdown table: means over the seeds, and the largest difference of one seed."""
    lines = [
        "| task | width | train | SentEval | probe | largest difference | SentEval s | probe s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in dict.fromkeys(comparison.task for comparison in comparisons):
        runs = [comparison for comparison in comparisons if comparison.task == task]
        largest = max((run.difference for run in runs), key=abs)
        lines.append(
            f"| {task} | {runs[0].width} | {runs[0].num_train} "
            f"| {np.mean([run.senteval_test for run in runs]):.2f} "
            f"| {np.mean([run.test for run in runs]):.2f} | {largest:+.2f} "
            f"| {np.mean([run.senteval_seconds for run in runs]):.1f} "
            f"| {np.mean([run.seconds for run in runs]):.1f} |"
        )
    lines.append(
        f"| mean | | | {np.mean([run.senteval_test for run in comparisons]):.2f} "
        f"| {np.mean([run.test for run in comparisons]):.2f} "
        f"| {max(mean_differences(comparisons), key=abs):+.2f} "
        f"| {sum(run.senteval_seconds for run in comparisons):.0f} in all "
        f"| {sum(run.seconds for run in comparisons):.0f} in all |"
    )
    return "\n".join(lines) + "\n"


def mean_differences(comparisons: list[Comparison]) -> list[float]:
    """Returns the mean difference over the tasks of every seed."""
    seeds = dict.fromkeys(comparison.seed for comparison in comparisons)
    return [
        float(np.mean([run.difference for run in comparisons if run.seed == seed]))
        for seed in seeds
    ]


def is_within_limits(comparisons: list[Comparison]) -> bool:
    """Says whether every task and the mean over the tasks are close enough, for every seed."""
    return all(abs(run.difference) <= MAX_TASK_DIFFERENCE for run in comparisons) and all(
        abs(difference) <= MAX_MEAN_DIFFERENCE for difference in mean_differences(comparisons)
    )


if __name__ == "__main__":
    sys.exit(main())
