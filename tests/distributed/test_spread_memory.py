"""No process holds the whole model while ranks load their parts of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from load_memory import BLOCK_MIB, MEASURED, needs_proc
from tiny_runs import REPOSITORY, script_environment

from embedllm.config import ModelConfig, StrategyConfig
from embedllm.models.spreading import spreading_of

DEEP = {**MEASURED, "num_hidden_layers": 2 * MEASURED["num_hidden_layers"]}

SCRIPT = """
import gc, json, os, sys
from pathlib import Path
import torch, accelerate, deepspeed, peft, transformers.models.opt.modeling_opt
from embedllm.config import AdapterConfig, ModelConfig, PromptConfig, StrategyConfig
from embedllm.distributed import joined
from embedllm.models.adapters import new_adapter
from embedllm.models.loading import load_encoder
from embedllm.models.spreading import spreading_of
from embedllm.models.whole import num_weights
options, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
cpu = torch.device("cpu")
lora = AdapterConfig("lora", {"r": 4, "target_modules": "all-linear"})
torch.set_num_threads(1)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
with joined(timeout_seconds=120) as rank:
    for strategy in (StrategyConfig("fsdp2"), StrategyConfig("deepspeed", stage=3)):
        model = ModelConfig(**options)
        spreading = spreading_of(strategy, model, folder, device=cpu, training=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = resident()
        encoder = load_encoder(
            model, PromptConfig(template='"{sentence}"'), folder, device=cpu,
            attachment=new_adapter(lora, seed=0), spreading=spreading,
        )
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        found = {
            "peak": (peak - before) / 2**20,
            "after": (resident() - before) / 2**20,
            "weights": num_weights(encoder.embedder.parameters()),
        }
        (folder / f"{strategy.title}-{rank.rank}.json").write_text(json.dumps(found))
        del encoder
        gc.collect()  # so that the next one does not begin beside it
"""


def test_zero_3_cuts_a_model_for_one_process_too() -> None:
    # Whose share may lie in host memory while the device has no room for the whole.
    options: dict[str, Any] = {"device": torch.device("cpu"), "training": True}
    zero = StrategyConfig("deepspeed", stage=3, offload="cpu")
    found = spreading_of(zero, ModelConfig(name="x"), Path(), **options)
    assert found is not None
    assert not found.may_read_early
    assert spreading_of(StrategyConfig("fsdp2"), ModelConfig(name="x"), Path(), **options) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spread")
    script = path / "load.py"
    script.write_text(SCRIPT, encoding="utf-8")
    options = {"name": "x", "init": "random", "architecture": DEEP, "tokenizer": "bundled"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), json.dumps({**options, "dtype": "float32"}), str(path)],
        cwd=REPOSITORY,
        # Memory that is freed goes back at once, so that what is measured is what is held.
        env=script_environment(PYTHONPATH=str(REPOSITORY), MALLOC_MMAP_THRESHOLD_="65536"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


@needs_proc
@pytest.mark.parametrize("strategy", ["fsdp2", "deepspeed_zero3"])
@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_holds_the_whole_model(strategy: str, rank: int, folder: Path) -> None:
    found = json.loads((folder / f"{strategy}-{rank}.json").read_text(encoding="utf-8"))
    whole = found["weights"] * 4 / 2**20
    assert whole > 15 * BLOCK_MIB
    # What the libraries set up when they begin is in it too: less than two blocks.
    assert whole / 2 < found["after"] < whole / 2 + 2 * BLOCK_MIB
    # A block that is filled beside its copy while it is cut; a whole model would be 8 above half.
    assert found["peak"] < whole / 2 + 3 * BLOCK_MIB
