"""How much memory loading a model takes, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TINY_ARCHITECTURES

MIB = 2**20
# OPT's shape. Its 8 blocks of 12.6 million weights are 385 MiB in float32.
MEASURED = {
    **TINY_ARCHITECTURES["opt"],
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 8,
    "ffn_dim": 4096,
    "word_embed_proj_dim": 1024,
}
BLOCK_MIB = 12.6e6 * 4 / MIB
WHOLE_MIB = 8 * BLOCK_MIB
SCRIPT = """
import json, os, resource, sys
from pathlib import Path
import torch, accelerate, transformers.models.opt.modeling_opt
from embedllm.config import ModelConfig
from embedllm.models.backbone import load_trunk
options, is_cut = json.loads(sys.argv[1]), sys.argv[2] == "cut"
if options.get("quantization", "none") != "none":
    import bitsandbytes
torch.set_num_threads(1)
def halve(module):
    for p in module.parameters():
        if not hasattr(p, "is_cut"):
            p.data = p.data.flatten()[: p.numel() // 2].clone()
            p.is_cut = True
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = resident()
trunk = load_trunk(ModelConfig(**options), Path(sys.argv[3]), device=torch.device("cpu"),
                   shard=halve if is_cut else None)
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"peak": (peak - before) / 2**20, "after": (resident() - before) / 2**20}))
"""


def measure(options: dict[str, Any], tmp_path: Path, *, cut: bool = False) -> dict[str, float]:
    """Returns MiB of memory that loading took at most, and afterwards, in a process of its own."""
    # Memory that is freed goes back at once, so that what is measured is what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    arguments = [json.dumps(options), "cut" if cut else "whole", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux' account of memory"
)
