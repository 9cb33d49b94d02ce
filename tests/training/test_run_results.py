"""What a run leaves behind: adapter, results, metrics, log lines; and which adapter is kept."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded_runs import CPU, SENTENCES, FinishedRun, column, evaluate, read_metrics, record_run
from tiny_runs import REPOSITORY, read_json, read_weights, tiny_config, train_tiny

from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman
from embedllm.evaluation.tasks import load_task
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.results import read_results
from embedllm.training.callbacks.dev_score import DevScore

SPEARMAN_TOLERANCE = 1e-4


def test_leaves_a_complete_adapter_folder(finished: FinishedRun) -> None:
    assert finished.result.adapter == finished.root / "adapter"
    assert {p.name for p in finished.result.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "embedllm.json",
        "probe.safetensors",
    }
    assert not (finished.root / "candidates").exists()


@pytest.mark.parametrize("name", ["before", "after"])
def test_results_say_everything_needed_to_repeat_them(name: str, finished: FinishedRun) -> None:
    record = read_json(finished.root / "results" / f"{name}.json")
    assert record == getattr(finished.result, name)
    assert record["model"]["name"] == "tiny-opt"
    assert record["adapter"] == (None if name == "before" else str(finished.result.adapter))
    assert record["prompt"]["template"] == 'This sentence : "{sentence}" means in one word:"'
    assert record["prompt"]["clean_up"] == "paper"
    assert (record["dtype"], record["seed"]) == ("float32", 42)
    assert {"python", "embedllm", "torch", "transformers", "peft"} <= record["versions"].keys()
    assert "not installed" not in record["versions"].values()
    data = record["data"]["sample-test"]["test"]
    assert data["num_pairs"] == 200
    assert re.fullmatch("[0-9a-f]{64}", data["sha256"])
    assert record["tasks"]["sample-test"]["score"] == record["averages"]["sts"]
    assert record["seconds"] >= 0


def test_results_name_the_git_revision(finished: FinishedRun) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    record = read_json(finished.root / "results" / "after.json")
    assert re.fullmatch("[0-9a-f]{40}(\\+changes)?", record["git_revision"])
    # Somebody may commit between the run and this line.
    known = subprocess.run(
        ["git", "merge-base", "--is-ancestor", record["git_revision"][:40], head],
        cwd=REPOSITORY,
        check=False,
    )
    assert known.returncode == 0


def test_training_changes_the_scores(finished: FinishedRun) -> None:
    assert finished.result.before is not None
    assert finished.result.after is not None
    assert finished.result.before["averages"] != finished.result.after["averages"]


def test_metrics_file_has_every_figure(finished: FinishedRun) -> None:
    rows = read_metrics(finished.root)
    steps = list(range(1, 9))
    losses = column(rows, "train/loss")
    assert list(losses) == steps
    assert all(0 < value < 30 for value in losses.values())
    assert list(column(rows, "train/learning_rate")) == steps
    assert all(v > 0 for v in column(rows, "train/sentences_per_second").values())
    assert all(v > 0 for v in column(rows, "train/tokens_per_second").values())
    # 7 other positives and 8 hard negatives.
    assert set(column(rows, "train/negatives_per_anchor").values()) == {15.0}
    assert list(column(rows, "dev/sample-dev")) == [4, 8]


def test_log_lines_have_every_figure(finished: FinishedRun) -> None:
    lines = [line for line in finished.lines if line.startswith("step ")]
    line = (
        r"step {}/8  loss \d+\.\d{{4}}  accuracy \d\.\d\d  lr {}  \d+\.\d sentences/s  "
        r"\d+ tokens/s  data wait \d+\.\d ms \(\d+\.\d%\)  15 negatives per anchor  "
        r"\d+:\d\d:\d\d left"
    )
    learning_rates = [5e-4 * (8 - step) / 8 for step in range(8)]
    steps = [text for text in lines if "loss" in text]
    for step, (text, rate) in enumerate(zip(steps, learning_rates, strict=True), start=1):
        assert re.fullmatch(line.format(step, re.escape(f"{rate:.2e}")), text), text
    scores = [text for text in lines if "sample-dev" in text]
    assert [text.split("  ")[0] for text in scores] == ["step 4/8", "step 8/8"]
    assert scores[0].endswith("(best so far)")


def test_log_says_what_is_trained_on(finished: FinishedRun) -> None:
    text = "\n".join(finished.lines)
    assert '</s>This sentence : "A man is riding a horse." means in one word:"' in text
    assert "64 examples, 8 per optimizer step in 1 contrastive batch(es), 8 steps" in text
    assert "parameters are trained" in text
    assert "weights float32 on cpu, precision 32-true" in text


def test_evaluate_gives_the_scores_of_the_run(finished: FinishedRun, tmp_path: Path) -> None:
    after = evaluate(tmp_path, f"adapter_path={finished.result.adapter}")
    for key in (
        "tasks",
        "averages",
        "data",
        "model",
        "prompt",
        "dtype",
        "adapter",
        "adapter_sha256",
    ):
        assert finished.result.after is not None
        assert after[key] == finished.result.after[key], key
    before = evaluate(tmp_path, "model=tiny")
    assert finished.result.before is not None
    assert before["tasks"] == finished.result.before["tasks"]
    # The adapter brings its model, so no file of conf/model was chosen.
    assert (after["model_choice"], before["model_choice"]) == (None, "chosen")
    assert before["command"] == ["evaluate.py", "model=tiny"]


def test_results_are_in_the_store(finished: FinishedRun, tmp_path: Path) -> None:
    folder = finished.root.parent / "store"
    stored = [result.record for result in read_results(folder, strict=True)]
    records = [finished.result.before, finished.result.after]
    assert sorted(stored, key=str) == sorted(records, key=str)
    record = evaluate(tmp_path, "model=tiny")
    assert [r.record for r in read_results(tmp_path / "store", strict=True)] == [record]


def test_a_finished_run_stores_again_what_the_store_has_lost(
    finished: FinishedRun, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, tmp_path / "run")
    for _ in range(2):
        train_tiny(tmp_path)
        assert len(read_results(tmp_path / "store", strict=True)) == 2


def test_evaluate_keeps_the_adapters_own_model_under_single_overrides(
    finished: FinishedRun, tmp_path: Path
) -> None:
    record = evaluate(tmp_path, f"adapter_path={finished.result.adapter}", "model.dtype=bfloat16")
    assert (record["model"]["name"], record["dtype"]) == ("tiny-opt", "bfloat16")


def test_the_base_is_untouched(finished: FinishedRun, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    base = load_encoder(config.model, config.prompt, tmp_path, device=CPU)
    adapted = load_adapted_encoder(finished.result.adapter, tmp_path, device=CPU)
    assert not np.array_equal(adapted.encode(SENTENCES), base.encode(SENTENCES))
    adapted.embedder.trunk = adapted.embedder.trunk.unload()
    assert np.array_equal(adapted.encode(SENTENCES), base.encode(SENTENCES))
    # And so are the weights of the model that was trained, not only of a copy loaded later.
    assert finished.recorder.module is not None
    trunk = copy.deepcopy(finished.recorder.module.embedder.trunk)
    trained = trunk.unload().state_dict()  # type: ignore[operator]
    original = base.embedder.trunk.state_dict()
    assert trained.keys() == original.keys()
    assert all(torch.equal(trained[name], original[name]) for name in original)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        pytest.param({3: 1.0, 6: 3.0, 8: 2.0}, 6, id="best"),
        pytest.param({3: 3.0, 6: 3.0, 8: 2.0}, 6, id="tie-goes-to-the-later"),
        pytest.param({3: -3.0, 6: -2.0, 8: -1.0}, 8, id="last-step-is-a-candidate"),
        pytest.param({3: 0.0, 6: -2.0, 8: -1.0}, 3, id="first"),
    ],
)
def test_the_adapter_with_the_best_dev_score_is_kept(
    scores: dict[int, float], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = dict.fromkeys(scores, "")
    weights: dict[int, Any] = {}

    def score(self: DevScore, step: int, total: int) -> float:
        seen[step] = "scored"
        assert total == 8
        weights[step] = {
            name: value.clone()
            for name, value in self._encoder.embedder.named_parameters()
            if value.requires_grad
        }
        return scores[step]

    monkeypatch.setattr(DevScore, "_score", score)
    result = train_tiny(tmp_path, "evaluation.dev_every_n_steps=3", "evaluation.tasks=[]")
    assert seen == dict.fromkeys(scores, "scored")
    facts = read_json(result.adapter / "embedllm.json")["training"]
    assert (facts["step"], facts["dev_score"]) == (best, scores[best])
    saved = {name.replace(".weight", ""): v for name, v in read_weights(result.adapter).items()}
    kept = {
        name.removeprefix("trunk.").replace(".default.weight", ""): value
        for name, value in weights[best].items()
    }
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def test_without_a_dev_task_the_last_step_is_kept(tmp_path: Path) -> None:
    recorder, result = record_run(tmp_path, "evaluation=none")
    assert (result.before, result.after) == (None, None)
    assert not (tmp_path / "run" / "results").exists()
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == 8
    assert recorder.module is not None
    saved = list(read_weights(result.adapter).values())
    trained = [p for p in recorder.module.parameters() if p.requires_grad]
    assert sum(v.double().sum() for v in saved) == pytest.approx(
        float(sum(p.detach().double().sum() for p in trained)), rel=1e-12
    )


def test_dev_score_is_the_spearman_of_the_evaluation(tmp_path: Path, finished: FinishedRun) -> None:
    encoder = load_adapted_encoder(finished.result.adapter, tmp_path, device=CPU)
    task = load_task("sample-dev", data_dir=None)
    callback = DevScore(encoder, task, every_n_steps=1, folder=tmp_path, save=lambda *_: None)
    pairs = task.subsets["dev"]
    vectors = encoder.encode(pairs.sentence1), encoder.encode(pairs.sentence2)
    expected = spearman(cosine_similarity_pairs(*vectors), pairs.scores)
    assert abs(callback._score(1, 1) / 100 - expected) < SPEARMAN_TOLERANCE
    # A second call must not add to the first.
    assert abs(callback._score(2, 2) / 100 - expected) < SPEARMAN_TOLERANCE
