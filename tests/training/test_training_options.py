"""Prompts, memory savers, adapters and precisions train and load again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_runs import CPU, SENTENCES, FinishedRun, column, evaluate, read_metrics, record_run
from tiny_runs import have_equal_weights, tiny_config, train_tiny

from embedllm.errors import NonFiniteError
from embedllm.models.loading import load_adapted_encoder, load_encoder


def test_demonstrations_stand_before_every_text_in_training_and_in_use(
    finished: FinishedRun, tmp_path: Path
) -> None:
    demonstrations = "prompt.demonstrations=[{sentence: A jockey rides., word: Equestrian}]"
    recorder, result = record_run(tmp_path, demonstrations, "evaluation.before=false")
    loaded = load_adapted_encoder(result.adapter, tmp_path, device=CPU)
    start = loaded.tokenizer.decode(loaded.token_ids(["Zebra"])[0]).partition("Zebra")[0]
    assert "A jockey rides." in start
    assert "Equestrian" in start
    texts = [loaded.tokenizer.decode(ids) for b in recorder.batches for ids in b.token_ids]
    assert texts
    assert all(text.startswith(start) for text in texts)
    # It is read, not only fed: without it the same steps give another adapter.
    assert not have_equal_weights(result.adapter, finished.result.adapter)
    record = evaluate(tmp_path, f"adapter_path={result.adapter}")
    assert result.after is not None
    assert record["tasks"] == result.after["tasks"]


# --- Speed and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["packs", "layers", "all"])
def test_activation_checkpointing_changes_no_bit_of_the_adapter(
    mode: str, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    """Dropout is on in these runs."""
    overrides = (f"trainer.activation_checkpointing={mode}", "evaluation=none")
    result = train_tiny(tmp_path, *overrides)
    assert have_equal_weights(result.adapter, uninterrupted("evaluation=none") / "adapter")


def test_without_dropout_a_shared_prefix_gives_the_same_losses(tmp_path: Path) -> None:
    """AdamW blows rounding up to whole steps where a gradient is zero, so weights may differ."""
    losses = []
    for name, share in (("a", "true"), ("b", "false")):
        # OPT has dropout of its own.
        options = ["adapter.options.lora_dropout=0", "model.architecture.dropout=0"]
        options.append("evaluation=none")
        train_tiny(tmp_path / name, *options, f"trainer.share_prefix={share}")
        losses.append(column(read_metrics(tmp_path / name / "run"), "train/loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != losses[1], "nothing was shared"


# --- Adapters and precision ---------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["full", "dora", "ia3", "vera"])
def test_other_adapters_train_and_load_again(adapter: str, tmp_path: Path) -> None:
    overrides = ("evaluation.before=false", "evaluation.dev_task=null")
    result = train_tiny(tmp_path, f"adapter={adapter}", *overrides)
    config = tiny_config(tmp_path)
    base = load_encoder(config.model, config.prompt, tmp_path, device=CPU)
    loaded = load_adapted_encoder(result.adapter, tmp_path, device=CPU)
    assert not np.array_equal(loaded.encode(SENTENCES), base.encode(SENTENCES))
    record = evaluate(tmp_path, f"adapter_path={result.adapter}")
    assert result.after is not None
    assert record["tasks"] == result.after["tasks"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_on_cpu(
    precision: str, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    overrides = ["evaluation=none", f"trainer.precision={precision}"]
    if precision == "bf16-true":
        overrides.append("model.dtype=bfloat16")
    recorder, result = record_run(tmp_path, *overrides)
    assert recorder.module is not None
    dtypes = {p.dtype for p in recorder.module.parameters() if p.requires_grad}
    assert dtypes == {torch.float32 if precision == "bf16-mixed" else torch.bfloat16}
    assert not have_equal_weights(result.adapter, uninterrupted("evaluation=none") / "adapter")


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError,
        match=r"are? NaN or infinite.*learning_rate|the (loss|gradient) of step \d is NaN",
    ):
        train_tiny(tmp_path, "evaluation=none", "adapter=full", "trainer.learning_rate=1e20")
    assert not (tmp_path / "run" / "adapter").exists()
