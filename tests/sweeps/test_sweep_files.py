"""What `conf/sweep` varies, and the search for a learning rate."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sweep_runs import run_sweep, tiny_sweep
from tiny_runs import compose_raw, compose_train, read_json, run_script

from embedllm.multirun import num_trials, study_storage, trials_left

GRIDS = {
    "model-sizes": 8,
    "seeds": 5,
    "prompts": 4,
    "lora-rank": 6,
}
SEARCH = "python train.py sweep=learning-rate experiment=smollm2-nli num_trials=20"
SIZES = "python train.py sweep=model-sizes data.path=nli_for_simcse.csv"


@pytest.mark.parametrize("name", GRIDS)
def test_every_value_of_a_grid_composes_to_a_run_of_its_own(name: str) -> None:
    hydra = compose_raw("train", f"sweep={name}", with_hydra=True).hydra
    [(key, values)] = hydra.sweeper.params.items()
    overrides = [f"{key}={value}" for value in values.split(",")]
    configs = [compose_train(o, "data.path=x.csv", "sweep_name=s") for o in overrides]
    assert len({config.run_name for config in configs}) == GRIDS[name]
    assert hydra.mode.name == "MULTIRUN"


@pytest.mark.slow  # Several trainings.
def test_the_learning_rate_is_searched_by_the_dev_score(tmp_path: Path) -> None:
    done = run_sweep(SEARCH, tmp_path, "num_trials=2")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "learning-rate"
    study = optuna.load_study("learning-rate", study_storage(str(folder)))
    rates = [trial.params["trainer.learning_rate"] for trial in study.trials]
    runs = [read_json(path) for path in folder.glob("*/run.json")]
    assert sorted(run["config"]["trainer"]["learning_rate"] for run in runs) == sorted(rates)
    assert all(1e-5 <= rate <= 2e-3 for rate in rates)
    scores = [read_json(path)["training"] for path in folder.glob("*/adapter/embedllm.json")]
    assert sorted(t.value for t in study.trials) == sorted(s["dev_score"] for s in scores)
    assert trials_left(2, "learning-rate", str(folder)) == 0
    assert trials_left(5, "learning-rate", str(folder)) == 3


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in (1, 3):
        done = run_sweep(SEARCH, tmp_path, f"num_trials={number}")
        assert done.returncode == 0, done.stderr
    study = optuna.load_study("learning-rate", study_storage(str(tmp_path / "learning-rate")))
    assert len({trial.params["trainer.learning_rate"] for trial in study.trials}) == 3
    # A trial that cannot work is told, and tried again, and the others are made.
    done = run_sweep(SEARCH, tmp_path, "num_trials=4", "trainer.max_steps=0")
    assert done.returncode == 2
    assert "trainer.max_steps=0 is out of range" in done.stderr


def test_trials_that_were_lost_come_first(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert (trials_left(4, "s", folder), num_trials("s", folder)) == (4, 0)
    study = optuna.create_study(storage=study_storage(folder), study_name="s", direction="maximize")
    for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING):
        trial = study.ask()
        trial.suggest_float("rate", 0, 1)
        if state != TrialState.RUNNING:
            values = 1.0 if state == TrialState.COMPLETE else None
            study.tell(trial, values, state=state)
    lost = [trial.params["rate"] for trial in study.trials[1:]]
    # Asked as often as one likes, they are in line once.
    assert [trials_left(4, "s", folder) for _ in range(3)] == [3, 3, 3]
    again = [study.ask().suggest_float("rate", 0, 1) for _ in range(2)]
    assert again == lost
    assert num_trials("s", folder) == 5


@pytest.mark.slow
def test_the_sweep_over_prompts(tmp_path: Path) -> None:
    done = run_sweep("python train.py sweep=prompts experiment=smollm2-nli", tmp_path)
    assert done.returncode == 0, done.stderr
    runs = [read_json(path) for path in (tmp_path / "prompts").glob("*/run.json")]
    assert len({run["config"]["prompt"]["template"] for run in runs}) == 4


@pytest.mark.slow
def test_the_sweep_over_model_sizes_in_the_shape_of_opt(tmp_path: Path) -> None:
    """Its eight experiments with their own settings, on two tiny layers without pretraining."""
    arguments = [a for a in tiny_sweep(SIZES, tmp_path) if a != "model=tiny"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64}
    sizes |= {"word_embed_proj_dim": 32}
    shape = [f"++model.architecture.{key}={value}" for key, value in sizes.items()]
    shape += ["model.init=random", "model.tokenizer=bundled", "model.quantization=none"]
    done = run_script(*arguments, *shape, "trainer.precision=32-true")
    assert done.returncode == 0, done.stderr
    names = [read_json(p)["config"]["model"]["name"] for p in tmp_path.glob("*/*/run.json")]
    sizes_of = sorted(name.removeprefix("facebook/opt-") for name in names)
    assert sizes_of == sorted(["125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b"])
