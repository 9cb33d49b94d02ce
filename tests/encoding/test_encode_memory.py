"""An encoding holds no more of a large file than of a small one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from encode_files import arguments
from tiny_runs import REPOSITORY, script_environment

from embedllm.encoding import read_shards

# A whole process holds what it has freed too; without growth the two moments differ by 1 MB or so.
MAX_GROWTH_MB = 30.0


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) / 1024
    raise AssertionError("the process has ended")


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_million_rows_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with path.open("w") as file:
        file.writelines(f"dog {i % 1009} and cat {i}\n" for i in range(1_000_000))
    output = tmp_path / "out"
    start = time.monotonic()
    process = start_encode_large(path, output)
    resident = {}
    while process.poll() is None:
        num_there = len(list(output.glob("vectors-*")))
        if num_there in (2, 20) and num_there not in resident:
            resident[num_there] = _resident_mb(process.pid)
        time.sleep(0.02)
    seconds = time.monotonic() - start
    assert process.returncode == 0, process.communicate()[0]
    figures = f"{seconds:.0f} s, {1_000_000 / seconds:.0f} rows/s, resident MB: {resident}"
    sys.stderr.write(f"\na million rows: {figures}\n")
    assert resident[20] < resident[2] + MAX_GROWTH_MB, figures
    assert sum(len(shard.ids) for shard in read_shards(output)) == 1_000_000


def start_encode_large(source: Path, output: Path) -> subprocess.Popen[str]:
    overrides = arguments(source, output, "shard_rows=50000")
    return subprocess.Popen(
        [sys.executable, "-m", "embedllm", *overrides],
        cwd=REPOSITORY,
        env=script_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
