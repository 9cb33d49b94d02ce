"""Draws the pictures of docs/concepts.md from kept records.

    python benchmarks/draw_concepts.py
    python benchmarks/draw_concepts.py --measure outputs/smollm2-nli/adapter

The second form first makes the record of similarities anew, with the default model and an adapter
of it; the other records are those of the fine-tuning and of the searches in benchmarks/results.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "pictures"
SIMILARITY = RECORDS / "concepts" / "similarity.json"
SENTENCES = (
    "A man is riding a horse.",
    "Somebody rides an animal.",
    "The bank raised its interest rates.",
    "Borrowing money became more expensive.",
    "It has been raining for three days.",
    "The weather is wet this week.",
    "She plays the violin in an orchestra.",
    "A musician performs with others.",
)


def measure(adapter: Path) -> None:
    """Writes the cosines of the sentences before and after fine-tuning."""
    from embedllm import SentenceEncoder
    from embedllm.versions import library_versions

    record: dict[str, Any] = {"versions": library_versions(), "sentences": SENTENCES}
    for name, source in (("before", "smollm2-135m"), ("after", str(adapter))):
        encoder = SentenceEncoder.load(source, device="cpu", dtype="float32")
        cosines = encoder.similarity(encoder.encode(list(SENTENCES)))
        record[name] = [[round(float(c), 4) for c in row] for row in cosines]
    SIMILARITY.parent.mkdir(parents=True, exist_ok=True)
    SIMILARITY.write_text(f"{json.dumps(record, indent=1)}\n", encoding="utf-8")


def draw_learning() -> Figure:
    """Returns loss, accuracy and dev score by step of the fine-tuning on NLI."""
    path = RECORDS / "smollm2-nli" / "metrics.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 2.8))
    columns = (
        (left, "train/loss", "loss"),
        (middle, "train/in_batch_accuracy", "positive found among 128"),
        (right, "dev/STSBenchmark-dev", "STS-B dev, Spearman x100"),
    )
    for axes, column, title in columns:
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color="tab:blue")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(visible=True, alpha=0.3)
    return figure


def draw_demonstrations() -> Figure:
    """Returns the scores of all candidates, round by round, for the models that were searched."""
    paths = (f"search_{name}.json" for name in ("smollm2-135m", "gemma3-270m"))
    found = [json.loads((RECORDS / "store" / "searches" / p).read_text("utf-8")) for p in paths]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=False)
    for axes, summary in zip(panels, found, strict=True):
        boxes = [
            {
                "med": rung["median"],
                "q1": rung["lower_quartile"],
                "q3": rung["upper_quartile"],
                "whislo": rung["min"],
                "whishi": rung["max"],
                "label": f"{rung['candidates']}\non {rung['pairs']}",
            }
            for rung in summary["rungs"]
        ]
        axes.bxp(boxes, showfliers=False, widths=0.5)
        baselines = [rung["baseline"] for rung in summary["rungs"]]
        places = np.arange(1, len(baselines) + 1)
        axes.hlines(baselines, places - 0.4, places + 0.4, color="tab:red", label="without one")
        axes.set_title(summary["model"]["name"].rpartition("/")[2], fontsize=10)
        axes.set_xlabel("candidates, on pairs of STS-B dev")
        axes.grid(visible=True, axis="y", alpha=0.3)
    panels[0].set_ylabel("Spearman x100")
    panels[0].legend(loc="lower right", fontsize=8)
    return figure


def draw_similarity() -> Figure:
    """Returns two matrices of cosines on one scale."""
    record = json.loads(SIMILARITY.read_text(encoding="utf-8"))
    sentences = record["sentences"]
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    for axes, name in zip(panels, ("before", "after"), strict=True):
        cosines = np.array(record[name])
        image = axes.imshow(cosines, vmin=0, vmax=1, cmap="viridis")
        axes.set_xticks(range(len(sentences)), [str(i + 1) for i in range(len(sentences))])
        axes.set_yticks(range(len(sentences)), [f"{s}  {i + 1}" for i, s in enumerate(sentences)])
        axes.tick_params(labelsize=8)
        axes.set_title(f"{name} fine-tuning", fontsize=10)
        for (row, column), value in np.ndenumerate(cosines):
            color = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, c=color)
    figure.colorbar(image, ax=panels, label="cosine", shrink=0.8)
    return figure


def main() -> None:
    """Makes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help="folder of an adapter of the default model")
    parser.add_argument("--output", type=Path, default=PICTURES)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    # The same records make the same bytes.
    plt.rcParams.update({"svg.hashsalt": "embedllm", "figure.constrained_layout.use": True})
    drawings = {
        "learning": draw_learning,
        "demonstrations": draw_demonstrations,
        "similarity": draw_similarity,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        figure = draw()
        path = arguments.output / f"concept-{name}.svg"
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


if __name__ == "__main__":
    main()
