"""Starting several processes: by the configuration, by torchrun, in a sweep; and when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch.distributed.launcher.api as elastic
from documents import documented
from processes import free_port, rank_variables
from tiny_runs import REPOSITORY, read_json, run_script, script_environment
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from embedllm.errors import PeerError
from embedllm.invocation import Invocation
from embedllm.launch import launch

PAGE = "README.md"
_TINY = ("debug=tiny", "trainer.max_steps=2", "evaluation.dev_every_n_steps=2")


def _runs(output_dir: Path) -> list[Path]:
    return sorted(path.parent for path in output_dir.rglob("run.json"))


def test_the_configuration_asks_for_two(tmp_path: Path) -> None:
    _, *words = documented("python train.py strategy=ddp trainer.devices=2 run_name=two", page=PAGE)
    # The option is that of the process which starts the two.
    done = run_script("-X", "importtime", *words, *_TINY, f"paths.output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "torch.distributed.elastic" in loaded
    assert not loaded & {"pytorch_lightning", "transformers", "peft"}
    [run] = _runs(tmp_path)
    assert run.name == "two"
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert done.stdout.count("adapter:") == 1
    assert done.stderr.count("prompt in use") == 1
    # Rank 1 wrote no files of its own.
    assert [path.name for path in run.glob("*.log")] == ["train.log"]
    assert "15 negatives per anchor" in done.stderr


def test_torchrun_as_the_readme_says(tmp_path: Path) -> None:
    _, *words = documented(
        "torchrun --nproc-per-node 2 train.py strategy=deepspeed_zero3", page=PAGE
    )
    # Without a run_name: all ranks have to find the same one.
    done = run_script(
        *("-m", "torch.distributed.run", "--standalone", *words, *_TINY),
        f"paths.output_dir={tmp_path}",
        f"paths.results_dir={tmp_path}/store",
    )
    assert done.returncode == 0, done.stderr
    [run] = _runs(tmp_path)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_a_sweep_of_runs_with_two_processes_each(tmp_path: Path) -> None:
    done = run_script(
        *("train.py", "--multirun", *_TINY, "strategy=ddp", "trainer.devices=2"),
        # The processes of the first run fail, which stops no other.
        *("data.source=path,sample", "data.path=nowhere.csv", "evaluation=none"),
        *(f"paths.output_dir={tmp_path}", "sweep_name=two"),
    )
    assert done.returncode == 2, done.stderr
    [run] = [run for run in _runs(tmp_path) if (run / "adapter").is_dir()]
    assert run.parent == tmp_path / "two"
    assert read_json(run / "run.json")["config"]["data"]["source"] == "sample"
    *_, head, failed = done.stderr.strip().splitlines()
    assert head == "error: 1 run of the sweep failed; the same command tries again"
    assert "nowhere.csv" in failed


@pytest.mark.slow  # What ranks score together, test_scores_together.py shows of each strategy.
@pytest.mark.parametrize("strategy", ["fsdp2", "deepspeed_zero3"])
def test_evaluation_with_two_processes(strategy: str, tmp_path: Path) -> None:
    scores = []
    for name, extra in (("one", ()), ("two", ("devices=2", f"strategy={strategy}"))):
        done = run_script(
            # Kept vectors would spare the second run the encoder.
            *("evaluate.py", "model=tiny", f"run_name={name}", "evaluation.cache_vectors=false"),
            *(*extra, f"paths.output_dir={tmp_path}"),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("results:") == 1
        scores.append(read_json(tmp_path / name / "results.json")["averages"])
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_what_a_user_can_mend_is_said_once(tmp_path: Path) -> None:
    done = run_script(
        *("train.py", *_TINY, "strategy=ddp", "trainer.devices=2"),
        *("data.source=path", "data.path=nowhere.csv", f"paths.output_dir={tmp_path}"),
    )
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "nowhere.csv" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("code", "expected"), [(-9, 3), (-15, 3), (1, 1), (2, 2), (4, 4)])
def test_the_first_process_that_fails_decides_the_exit_code(
    code: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=code, error_file="none")

    def fail(*_: object) -> None:
        raise ChildFailedError("train.py", {1: failure})

    monkeypatch.setattr(elastic, "elastic_launch", lambda *_: fail)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises((PeerError, SystemExit)) as caught:
        launch("train", Invocation([], tmp_path), run_name="run", num_processes=2)
    if isinstance(caught.value, PeerError):
        assert f"rank 1 was ended by signal {-code}" in str(caught.value)
        assert caught.value.exit_code == expected
    else:
        assert caught.value.code == expected


def test_machines_need_a_launcher(tmp_path: Path) -> None:
    done = run_script(
        "train.py", *_TINY, "strategy=ddp", "trainer.num_nodes=2", f"paths.output_dir={tmp_path}"
    )
    assert done.returncode == 2
    assert "trainer.num_nodes=2 needs torchrun or srun" in done.stderr


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_others(victim: int, tmp_path: Path) -> None:
    port = free_port()
    endless = ("debug=tiny", "strategy=ddp", "evaluation=none", "run_name=run")
    endless += ("trainer.max_steps=100000", "trainer.max_epochs=100000")
    # Started by hand, so that nobody but the ranks themselves notices.
    processes = [
        subprocess.Popen(
            [sys.executable, "train.py", *endless, f"paths.output_dir={tmp_path}"],
            cwd=REPOSITORY,
            env=script_environment(**rank_variables(rank, 2, port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        start = time.monotonic()
        while not list((tmp_path / "run").glob("checkpoints/*.ckpt")):
            assert time.monotonic() < start + 200
            assert all(process.poll() is None for process in processes), processes[0].communicate()
            time.sleep(0.1)
        os.kill(processes[victim].pid, signal.SIGKILL)
        died = time.monotonic()
        output, _ = processes[1 - victim].communicate(timeout=60)
        assert time.monotonic() < died + 60
        assert processes[1 - victim].returncode == 3, output
        assert "another process of this run ended or did not answer" in output
        assert "Traceback" not in output
    finally:
        for process in processes:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()
