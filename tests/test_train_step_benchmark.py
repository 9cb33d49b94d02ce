"""`benchmarks/train_step.py` on a tiny model: everybody trains the same, and who does not fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import documented
from tiny_runs import read_json, run_script, script_environment

COMMAND = "EMBEDLLM_DATA_DIR=/data python benchmarks/train_step.py"
CONTESTANTS = {"embedllm", "sentence-transformers", "sentence-transformers cached", "plain loop"}
TINY = ("--model", "tiny", "--triplets", "4", "--repeats", "1", "--threads", "1")
ENVIRONMENT = script_environment(EMBEDLLM_DATA_DIR=None)

# The plain loop with another temperature than all others.
WITH_ANOTHER_LOSS = """
import copy, sys
sys.path.insert(0, "benchmarks")
import train_step

def build(setting):
    setting = copy.copy(setting)
    setting.config = copy.deepcopy(setting.config)
    setting.config.loss.temperature *= 1.1
    return train_step.build_plain_loop(setting)

train_step.WAYS["plain loop"] = {"": build}
sys.exit(train_step.main())
"""


def test_all_contestants_train_the_same(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    output = tmp_path / "record.json"
    _, python, script = documented(COMMAND, page="docs/speed.md")
    assert python == "python"
    done = run_script(script, *TINY, "--output", str(output), environment=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    record = read_json(output)
    assert record["is_equal"] is True
    assert record["left_out"] == []
    assert set(record["median_seconds"]) == set(record["peak_memory_bytes"]) == CONTESTANTS
    assert set(record["differences"]) == CONTESTANTS - {"embedllm"}
    # Not the same computation, and the same gradients.
    assert all(0 < d["all gradients"] < 1e-5 for d in record["differences"].values())
    assert all(row in done.stdout for row in CONTESTANTS)


@pytest.mark.slow  # Trains with all contestants.
def test_another_loss_is_found_out(tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    options = (*TINY, "--contestants", "plain loop", "--output", str(output))
    done = run_script("-c", WITH_ANOTHER_LOSS, *options, environment=ENVIRONMENT)
    assert done.returncode == 1, done.stderr
    assert "losses or gradients differ" in done.stderr
    assert read_json(output)["is_equal"] is False
