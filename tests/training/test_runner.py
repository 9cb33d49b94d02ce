"""A training run from a config to its folder: files, log, schedule, order, best adapter, W&B."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny_runs import (
    REPOSITORY,
    compose_evaluate,
    extra_callback,
    have_equal_weights,
    read_json,
    read_weights,
    run_script,
    script_environment,
    tiny_config,
    train_tiny,
)

from embedllm.data.loader import ContrastiveBatch
from embedllm.errors import ConfigError
from embedllm.evaluation.command import run_evaluate
from embedllm.evaluation.metrics import cosine_similarity_pairs, spearman
from embedllm.evaluation.tasks import load_task
from embedllm.invocation import Invocation
from embedllm.models.loading import load_adapted_encoder, load_encoder
from embedllm.results import read_results
from embedllm.training import loggers
from embedllm.training.callbacks.dev_score import DevScore
from embedllm.training.callbacks.step_seed import StepSeed
from embedllm.training.module import ContrastiveModule
from embedllm.training.runner import TrainResult

CPU = torch.device("cpu")
SENTENCES = ["A man plays a guitar.", "Nobody is at the beach", "The committee met on Monday."]
SPEARMAN_TOLERANCE = 1e-4


class Recorder(pl.Callback):
    """Keeps what every step saw."""

    def __init__(self) -> None:
        self.module: ContrastiveModule | None = None
        self.batches: list[ContrastiveBatch] = []
        self.epochs: list[int] = []
        self.learning_rates: list[float] = []
        self.gradient_norms: list[float] = []
        self.negatives: list[int] = []
        self.is_training: list[bool] = []
        self.num_steps = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        self.epochs.append(trainer.current_epoch)
        self.learning_rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.is_training.append(all(m.training for m in pl_module.modules()))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        self.module = pl_module
        # What AdamW has used: gradients stay until the next batch begins.
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.gradient_norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        self.negatives.append(pl_module.num_negatives)
        self.num_steps = trainer.global_step


def _record(folder: Path, *overrides: str) -> tuple[Recorder, TrainResult]:
    recorder = Recorder()
    with extra_callback(recorder):
        result = train_tiny(folder, *overrides)
    return recorder, result


def _read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "version_0" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _column(rows: Sequence[dict[str, str]], name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in rows if row[name]}


# --- What a run leaves behind -------------------------------------------------------------------


class FinishedRun:
    """A run of `debug=tiny` and its log."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "run"
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("embedllm")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            self.recorder, self.result = _record(folder)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return FinishedRun(tmp_path_factory.mktemp("finished"))


def test_leaves_a_complete_adapter_folder(finished: FinishedRun) -> None:
    assert finished.result.adapter == finished.root / "adapter"
    assert {p.name for p in finished.result.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "embedllm.json",
        "probe.safetensors",
    }
    assert not list((finished.root / "candidates").iterdir())


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
    rows = _read_metrics(finished.root)
    steps = list(range(1, 9))
    losses = _column(rows, "train/loss")
    assert list(losses) == steps
    assert all(0 < value < 30 for value in losses.values())
    assert list(_column(rows, "train/learning_rate")) == steps
    assert all(v > 0 for v in _column(rows, "train/sentences_per_second").values())
    assert all(v > 0 for v in _column(rows, "train/tokens_per_second").values())
    # 7 other positives and 8 hard negatives.
    assert set(_column(rows, "train/negatives_per_anchor").values()) == {15.0}
    assert list(_column(rows, "dev/sample-dev")) == [4, 8]


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


def _evaluate(folder: Path, *overrides: str) -> dict[str, Any]:
    folders = [f"paths.output_dir={folder}", f"paths.results_dir={folder}/store"]
    config = compose_evaluate("run_name=e", *folders, *overrides)
    invocation = Invocation(list(overrides), folder / "e", choices={"model": "chosen"})
    run_evaluate(config, invocation)
    return read_json(folder / "e" / "results.json")


def test_evaluate_gives_the_scores_of_the_run(finished: FinishedRun, tmp_path: Path) -> None:
    after = _evaluate(tmp_path, f"adapter_path={finished.result.adapter}")
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
    before = _evaluate(tmp_path, "model=tiny")
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
    record = _evaluate(tmp_path, "model=tiny")
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
    record = _evaluate(tmp_path, f"adapter_path={finished.result.adapter}", "model.dtype=bfloat16")
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
    trained = finished.recorder.module.embedder.trunk.unload().state_dict()  # type: ignore[operator]
    original = base.embedder.trunk.state_dict()
    assert trained.keys() == original.keys()
    assert all(torch.equal(trained[name], original[name]) for name in original)


# --- Which adapter is kept ----------------------------------------------------------------------


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
    recorder, result = _record(tmp_path, "evaluation=none")
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


# --- Dropout, clipping, schedule ----------------------------------------------------------------


def test_dropout_is_active_in_training(finished: FinishedRun) -> None:
    assert all(finished.recorder.is_training)
    module = finished.recorder.module
    assert module is not None
    module.train()
    module.embedder.requires_grad_(False)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")

    def embed(seed: int, batch_idx: int) -> torch.Tensor:
        StepSeed(seed).on_train_batch_start(trainer, module, None, batch_idx)
        ids = torch.tensor([[2, 10, 20, 30]])
        return module.embedder(ids, torch.ones_like(ids))  # type: ignore[no-any-return]

    assert torch.equal(embed(0, 0), embed(0, 0))
    assert not torch.equal(embed(0, 0), embed(0, 1))
    assert not torch.equal(embed(0, 0), embed(1, 0))


def test_evaluation_leaves_dropout_on_for_the_next_step(tmp_path: Path) -> None:
    recorder, _ = _record(tmp_path, "evaluation.dev_every_n_steps=1", "evaluation.tasks=[]")
    assert all(recorder.is_training)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    free, _ = _record(tmp_path / "a", "evaluation=none", "trainer.gradient_clip_norm=0")
    assert min(free.gradient_norms) > 0.02
    clipped, _ = _record(tmp_path / "b", "evaluation=none", "trainer.gradient_clip_norm=0.01")
    assert clipped.gradient_norms == pytest.approx([0.01] * 8, rel=1e-3)


@pytest.mark.parametrize(("warmup", "used"), [(100, 2), (1, 1), (0, 0)])
def test_linear_schedule(warmup: int, used: int, tmp_path: Path) -> None:
    # At most a tenth of the steps is warm-up.
    recorder, _ = _record(
        tmp_path,
        "evaluation=none",
        "trainer.max_epochs=3",
        "trainer.max_steps=20",
        f"trainer.warmup_steps={warmup}",
        "trainer.learning_rate=0.001",
    )
    expected = [
        0.001 * (done / used if done < used else (20 - done) / (20 - used)) for done in range(20)
    ]
    assert recorder.learning_rates == pytest.approx(expected, rel=1e-12)
    logged = _column(_read_metrics(tmp_path / "run"), "train/learning_rate")
    assert list(logged.values()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("cosine", lambda done: 0.5 * (1 + math.cos(math.pi * done / 8))),
        ("constant_with_warmup", lambda done: 1.0),
    ],
)
def test_other_schedules(name: str, factor: Callable[[int], float], tmp_path: Path) -> None:
    recorder, _ = _record(tmp_path, "evaluation=none", f"trainer.lr_schedule={name}")
    expected = [5e-4 * factor(done) for done in range(8)]
    assert recorder.learning_rates == pytest.approx(expected, rel=1e-9)


# --- Length and order ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("trainer.max_steps=5",), 5),
        (("trainer.max_steps=null",), 8),
        (("trainer.max_steps=null", "trainer.max_epochs=2"), 16),
        (("trainer.max_steps=100", "trainer.max_epochs=2"), 16),
        (("trainer.max_steps=null", "data.max_examples=60"), 8),
        (("trainer.max_steps=null", "data.max_examples=60", "data.drop_last=true"), 7),
        # A last batch of one example would have no in-batch negative.
        (("trainer.max_steps=null", "data.max_examples=57"), 7),
        (("trainer.max_steps=null", "trainer.accumulate_grad_batches=2"), 8),
        # 15 micro-batches an epoch; its last step has one.
        (
            (
                "trainer.max_steps=null",
                "trainer.max_epochs=2",
                "data.max_examples=60",
                "trainer.accumulate_grad_batches=2",
            ),
            16,
        ),
    ],
)
def test_length_of_a_run(overrides: tuple[str, ...], steps: int, tmp_path: Path) -> None:
    recorder, result = _record(tmp_path, "evaluation=none", *overrides)
    assert recorder.num_steps == steps
    assert read_json(result.adapter / "embedllm.json")["training"]["step"] == steps
    # The schedule ends with the run: the last step has the last rate above zero.
    assert recorder.learning_rates[-1] == pytest.approx(5e-4 / steps * _slope(steps), rel=1e-9)


def _slope(steps: int) -> float:
    return steps / (steps - steps // 10)


def test_each_epoch_has_every_example_once_in_another_order(tmp_path: Path) -> None:
    recorder, _ = _record(
        tmp_path, "evaluation=none", "trainer.max_steps=null", "trainer.max_epochs=2"
    )
    epochs: dict[int, list[tuple[int, ...]]] = {0: [], 1: []}
    for epoch, batch in zip(recorder.epochs, recorder.batches, strict=True):
        epochs[epoch] += [tuple(ids) for ids in batch.token_ids[: batch.num_anchors]]
    assert len(epochs[0]) == len(epochs[1]) == 64
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_the_seed_decides_the_order(tmp_path: Path) -> None:
    first, _ = _record(tmp_path / "a", "evaluation=none", "data.max_examples=null")
    second, _ = _record(tmp_path / "b", "evaluation=none", "data.max_examples=null", "seed=1")
    assert first.batches[0].token_ids != second.batches[0].token_ids


# --- Data of other shapes -----------------------------------------------------------------------


def _write_jsonl(path: Path, num_negatives: int) -> Path:
    lines = []
    for i in range(16):
        row = {"anchor": f"anchor number {i}", "positive": f"positive number {i}"}
        row |= {f"negative_{k}": f"negative {k} of {i}" for k in range(num_negatives)}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("num_negatives", "expected"), [(0, 7), (1, 15), (3, 31)])
def test_pairs_and_several_hard_negatives(
    num_negatives: int, expected: int, tmp_path: Path
) -> None:
    path = _write_jsonl(tmp_path / "train.jsonl", num_negatives)
    recorder, result = _record(
        tmp_path, "evaluation=none", "data=nli", f"data.path={path}", "data.global_batch_size=8"
    )
    assert recorder.num_steps == 2
    assert set(recorder.negatives) == {expected}
    assert (result.adapter / "adapter_model.safetensors").is_file()


def test_accumulated_batches_have_their_own_negatives_alone(tmp_path: Path) -> None:
    recorder, _ = _record(tmp_path, "evaluation=none", "trainer.accumulate_grad_batches=2")
    assert recorder.num_steps == 8
    assert len(recorder.batches) == 16
    # Micro-batches of 4: 3 other positives and 4 hard negatives.
    assert {batch.num_anchors for batch in recorder.batches} == {4}
    logged = _column(_read_metrics(tmp_path / "run"), "train/negatives_per_anchor")
    assert set(logged.values()) == {7.0}


# --- Prompts ------------------------------------------------------------------------------------


def test_demonstrations_stand_before_every_text_in_training_and_in_use(tmp_path: Path) -> None:
    demonstrations = "prompt.demonstrations=[{sentence: A jockey rides., word: Equestrian}]"
    recorder, result = _record(tmp_path / "a", demonstrations)
    loaded = load_adapted_encoder(result.adapter, tmp_path, device=CPU)
    start = loaded.tokenizer.decode(loaded.token_ids(["Zebra"])[0]).partition("Zebra")[0]
    assert "A jockey rides." in start
    assert "Equestrian" in start
    texts = [loaded.tokenizer.decode(ids) for b in recorder.batches for ids in b.token_ids]
    assert texts
    assert all(text.startswith(start) for text in texts)
    # It is read, not only fed: without it the same steps give another adapter.
    assert not have_equal_weights(result.adapter, train_tiny(tmp_path / "b").adapter)
    record = _evaluate(tmp_path, f"adapter_path={result.adapter}")
    assert result.after is not None
    assert record["tasks"] == result.after["tasks"]


# --- Speed and memory ---------------------------------------------------------------------------


def test_activation_checkpointing_changes_no_bit_of_the_adapter(
    finished: FinishedRun, tmp_path: Path
) -> None:
    """Dropout is on in these runs."""
    for number, mode in enumerate(("packs", "layers", "all")):
        result = train_tiny(
            tmp_path / str(number), f"trainer.activation_checkpointing={mode}", "evaluation=none"
        )
        plain = train_tiny(tmp_path / f"{number}-plain", "evaluation=none")
        assert have_equal_weights(result.adapter, plain.adapter), mode


def test_without_dropout_a_shared_prefix_gives_the_same_losses(tmp_path: Path) -> None:
    """AdamW blows rounding up to whole steps where a gradient is zero, so weights may differ."""
    losses = []
    for name, share in (("a", "true"), ("b", "false")):
        # OPT has dropout of its own.
        options = ["adapter.options.lora_dropout=0", "model.architecture.dropout=0"]
        options.append("evaluation=none")
        train_tiny(tmp_path / name, *options, f"trainer.share_prefix={share}")
        losses.append(_column(_read_metrics(tmp_path / name / "run"), "train/loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != losses[1], "nothing was shared"


# --- Adapters and precision ---------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "dora", "ia3", "vera"])
def test_other_adapters_train_and_load_again(adapter: str, tmp_path: Path) -> None:
    result = train_tiny(tmp_path, f"adapter={adapter}")
    base = load_encoder(
        tiny_config(tmp_path).model, tiny_config(tmp_path).prompt, tmp_path, device=CPU
    )
    loaded = load_adapted_encoder(result.adapter, tmp_path, device=CPU)
    assert not np.array_equal(loaded.encode(SENTENCES), base.encode(SENTENCES))
    record = _evaluate(tmp_path, f"adapter_path={result.adapter}")
    assert result.after is not None
    assert record["tasks"] == result.after["tasks"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_on_cpu(precision: str, tmp_path: Path) -> None:
    overrides = ["evaluation=none", f"trainer.precision={precision}"]
    if precision == "bf16-true":
        overrides.append("model.dtype=bfloat16")
    recorder, result = _record(tmp_path / "a", *overrides)
    exact = train_tiny(tmp_path / "b", "evaluation=none")
    assert recorder.module is not None
    dtypes = {p.dtype for p in recorder.module.parameters() if p.requires_grad}
    assert dtypes == {torch.float32 if precision == "bf16-mixed" else torch.bfloat16}
    assert not have_equal_weights(result.adapter, exact.adapter)


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) at step \d.*learning_rate"):
        train_tiny(tmp_path, "evaluation=none", "adapter=full", "trainer.learning_rate=1e20")
    assert not (tmp_path / "run" / "adapter").exists()


# --- Weights & Biases ---------------------------------------------------------------------------


@pytest.fixture
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    # No netrc of the person who runs the tests.
    monkeypatch.setenv("HOME", str(tmp_path))


def _wandb_run(tmp_path: Path, **environment: str) -> tuple[str, list[Path]]:
    result = run_script(
        "train.py",
        "debug=tiny",
        "run_name=run",
        f"paths.output_dir={tmp_path}",
        "trainer.accelerator=cpu",
        "evaluation=none",
        "logger=wandb",
        "logger.timeout_seconds=3",
        environment=script_environment(HOME=str(tmp_path), **environment),
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "adapter").is_dir()
    return result.stdout + result.stderr, list((tmp_path / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"WANDB_MODE": "offline"}, id="offline"),
        pytest.param(
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, id="refused"
        ),
    ],
)
def test_wandb_offline(environment: dict[str, str], tmp_path: Path) -> None:
    text, folders = _wandb_run(tmp_path, **environment)
    assert len(folders) == 1
    assert list(folders[0].glob("*.wandb"))
    assert f"wandb sync {folders[0]}" in text
    assert ("W&B did not start in mode online" in text) == ("WANDB_API_KEY" in environment)
    assert "the run goes on without W&B" not in text


@pytest.mark.usefixtures("no_wandb_settings")
def test_a_failing_wandb_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    modes = []

    def fail(mode: str, *_: Any) -> None:
        modes.append(mode)
        raise OSError("no room for a service")

    monkeypatch.setattr(loggers, "_start_wandb", fail)
    monkeypatch.setattr(loggers, "_stop_wandb_service", lambda: None)
    result = train_tiny(tmp_path, "evaluation=none", "logger=wandb")
    assert result.adapter.is_dir()
    assert modes == ["offline"]
    assert "no room for a service" in caplog.text
    assert "the run goes on without W&B" in caplog.text


@pytest.mark.usefixtures("no_wandb_settings")
def test_wandb_is_tried_online_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def fail(mode: str, *_: Any) -> None:
        modes.append(mode)
        raise TimeoutError

    monkeypatch.setattr(loggers, "_start_wandb", fail)
    monkeypatch.setattr(loggers, "_stop_wandb_service", lambda: None)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    train_tiny(tmp_path, "evaluation=none", "logger=wandb")
    assert modes == ["online", "offline"]
