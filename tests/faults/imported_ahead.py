"""What a training imports; loaded once by the process whose forks the trainings are."""

import importlib
from typing import Final

NAMES: Final = (
    "embedllm.training.command",
    "embedllm.training.runner",
    "embedllm.training.preflight",
    "embedllm.entry",
    "peft",
    "pytest",
    "tiny_runs",
    "transformers.models.opt.modeling_opt",
    "torch.distributed.tensor",
)
for name in NAMES:
    importlib.import_module(name)
