"""Long runs: 500 steps with kills at random moments, and 2,000 steps without growing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from fault_tally import Tally
from killable_runs import Moment, Starter
from tiny_runs import have_equal_weights, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LONG = (
    "data.max_examples=256",
    "trainer.max_epochs=100",
    "trainer.log_every_n_steps=50",
    "evaluation.before=false",
    "evaluation.dev_every_n_steps=50",
)
EVERY = 20  # steps between checkpoints
SEED = 20263
MAX_STEPS_AT_ONCE = 90
# A leak of one batch, of its ids and vectors, a step would be ten times as much.
MAX_GROWTH_MIB = 8.0
MAX_NEW_OBJECTS = 2_000


def test_500_steps_with_kills(starter: Starter, tally: Tally, tmp_path: Path) -> None:
    overrides = (*LONG, "trainer.max_steps=500", f"trainer.checkpoint_every_n_steps={EVERY}")
    whole = starter.finish(tmp_path / "whole", *overrides)
    draw = random.Random(SEED)
    deaths = []
    while True:
        moment = Moment("step", draw.randint(2, MAX_STEPS_AT_ONCE), draw.uniform(0, 0.02))
        death = starter.kill(tmp_path / "killed", moment, *overrides)
        if death is None:
            break
        deaths.append(death)
        assert death.steps_lost <= EVERY
    run = tmp_path / "killed" / "output" / "run"
    assert len(deaths) >= 8
    assert have_equal_weights(run / "adapter", whole / "adapter")
    lost = [death.steps_lost for death in deaths]
    tally.add(f"kill -9 in a run of 500 steps (checkpoints every {EVERY})", steps_lost=lost)


# Runs in a process of its own, where nothing else makes memory.
_WATCHED = """
import gc, json, os, sys, psutil
sys.path.insert(0, "tests")
import pytorch_lightning as pl
from pathlib import Path
from tiny_runs import extra_callback, train_tiny
class Watch(pl.Callback):
    def __init__(self): self.rows = []
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 100 == 0:
            gc.collect()
            size = psutil.Process().memory_info().rss / 2**20
            self.rows.append((trainer.global_step, size, len(gc.get_objects())))
watch = Watch()
with extra_callback(watch):
    train_tiny(Path(sys.argv[1]), *sys.argv[2:])
print(json.dumps(watch.rows))
"""


def test_memory_does_not_grow_over_2000_steps(tally: Tally, tmp_path: Path) -> None:
    overrides = (*LONG, "trainer.max_steps=2000", "trainer.checkpoint_every_n_steps=100")
    done = run_script("-c", _WATCHED, str(tmp_path), *overrides, timeout=1500)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [step for step, _, _ in rows] == list(range(100, 2001, 100))
    # The first steps fill pools and caches.
    (_, size, objects), (_, last_size, last_objects) = rows[4], rows[-1]
    tally.note(
        "memory",
        {
            "after_500_steps_mib": round(size, 1),
            "after_2000_steps_mib": round(last_size, 1),
            "objects_after_500_steps": objects,
            "objects_after_2000_steps": last_objects,
        },
    )
    assert last_size - size < MAX_GROWTH_MIB, rows
    assert last_objects - objects < MAX_NEW_OBJECTS, rows
