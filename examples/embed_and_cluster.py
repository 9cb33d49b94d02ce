"""Embeds the texts of a folder, groups them, and shows what each group is about.

    python examples/embed_and_cluster.py examples/texts
    python examples/embed_and_cluster.py notes/ --model outputs/first/adapter --clusters 8

Every .txt file is one text. Without --clusters their number is the one with the best silhouette.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from embedllm import SentenceEncoder
from embedllm.errors import EmbedllmError

MAX_CLUSTERS = 10


def read_texts(folder: Path) -> dict[str, str]:
    """Returns the texts by file name; white space is made single spaces."""
    paths = sorted(folder.rglob("*.txt"))
    texts = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}
    return {name: " ".join(text.split()) for name, text in texts.items() if text.strip()}


def cluster(vectors: np.ndarray, number: int | None) -> KMeans:
    """Returns groups of unit vectors [N, D]: so many, or the number that separates best."""
    if number is not None:
        return KMeans(number, n_init=10, random_state=0).fit(vectors)
    # Texts may differ and their vectors not, where they are cut at the model's longest text.
    most = min(MAX_CLUSTERS, len(vectors) - 1, len(np.unique(vectors, axis=0)))
    if most < 2:
        return KMeans(1, random_state=0).fit(vectors)
    tried = [KMeans(k, n_init=10, random_state=0).fit(vectors) for k in range(2, most + 1)]
    return max(tried, key=lambda found: silhouette_score(vectors, found.labels_))


def main() -> None:
    """Reads, embeds, groups, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with .txt files")
    parser.add_argument("--model", default="smollm2-135m", help="adapter, exported folder or name")
    parser.add_argument("--clusters", type=int, help="how many groups; default the best number")
    parser.add_argument("--show", type=int, default=3, help="texts to print of each group")
    arguments = parser.parse_args()

    if arguments.clusters is not None and arguments.clusters < 1:
        sys.exit(f"error: --clusters {arguments.clusters} must be at least 1")
    texts = read_texts(arguments.folder)
    number = len(set(texts.values()))
    if number < max(3, arguments.clusters or 0):
        found = f"{len(texts)} texts (*.txt), {number} of them different"
        sys.exit(f"error: {arguments.folder} has {found}; that is too few")
    encoder = SentenceEncoder.load(arguments.model)
    names = list(texts)
    vectors = encoder.encode(list(texts.values()), normalize=True)
    # What all texts share says nothing about how they differ; nor do rounding errors, which a
    # vector that is the mean itself would be made of.
    vectors = (vectors - vectors.mean(axis=0)).round(6)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    found = cluster(vectors, arguments.clusters)

    for label, center in enumerate(found.cluster_centers_):
        members = np.flatnonzero(found.labels_ == label)
        central = members[np.argsort(-vectors[members] @ center)]
        print(f"cluster {label + 1}: {len(members)} texts")
        for index in central[: arguments.show]:
            print(f"  {names[index]}: {texts[names[index]][:90]}")


if __name__ == "__main__":
    try:
        main()
    except (EmbedllmError, OSError, UnicodeError) as error:
        sys.exit(f"error: {error}")
