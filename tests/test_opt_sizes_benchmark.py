"""`benchmarks/opt_sizes.py` with a tiny model: figures beside the plan, or the reason for none."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import documented
from tiny_runs import read_json, run_script

COMMAND = "python benchmarks/opt_sizes.py --output benchmarks/results/speed/opt-sizes.json"
TINY = ("--batch", "8", "--steps", "3")
# Measuring them takes longer than the rest.
RATES = ("hardware.bf16_tflops=0.1", "hardware.fp32_tflops=0.1")


@pytest.mark.slow  # Every size loads the libraries in a process of its own.
def test_a_size_that_trains_and_two_that_do_not(tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    python, script, *_ = documented(COMMAND, page="docs/scale.md")
    assert python == "python"
    models = ("--models", "tiny", "nonsense", "opt-66b")
    overrides = ("--overrides", *RATES, "hardware.memory_gib=4", "model.quantization=none")
    done = run_script(script, *models, *TINY, "--output", str(output), *overrides)
    assert done.returncode == 1, done.stderr
    tiny, nonsense, large = read_json(output)["rows"]
    assert (tiny["way"], len(tiny["step_seconds"])) == ("strategy=single", 3)
    assert tiny["tokens_per_second"] > 0
    assert 0 < tiny["of_ceiling"] < 1
    assert tiny["planned_parts"]["weights"] == 4 * (tiny["parameters"] + tiny["trained"])
    assert 0 < tiny["planned_bytes"] < tiny["peak_bytes"]
    assert "model/nonsense" in nonsense["reason"]
    assert "does not fit" in large["reason"]
    assert all(f"| {name} |" in done.stdout for name in ("tiny", "nonsense", "opt-66b"))
