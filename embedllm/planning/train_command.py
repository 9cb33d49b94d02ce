"""The command that trains in a way, from the command line that asked for the plan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from embedllm import program
from embedllm.planning.ways import Way

# What only a plan has, and what a way decides.
_NOT_TO_TRAIN = ("hardware", "plan", "console", "hydra", "help")
_DECIDED = (
    "strategy",
    "model.quantization",
    "trainer.activation_checkpointing",
    "trainer.devices",
    "trainer.num_nodes",
)


def train_arguments(overrides: Sequence[str], choices: Mapping[str, str]) -> list[str]:
    """Returns what a plan's command line says about the training.

    Args:
        overrides: The command line.
        choices: The chosen option of each group; a GPU chooses a trainer without a word.
    """
    kept = [o for o in overrides if not _belongs(o, (*_NOT_TO_TRAIN, *_DECIDED))]
    trainer = choices.get("trainer", "default")
    if trainer != "default" and not any(o.startswith("trainer=") for o in kept):
        kept.append(f"trainer={trainer}")
    return kept


def fixed_choices(overrides: Sequence[str]) -> set[str]:
    """Returns which of `ways.CHOICES` a command line has made."""
    keys = {
        "quantization": ("model.quantization",),
        "checkpointing": ("trainer.activation_checkpointing",),
    }
    return {name for name, names in keys.items() if any(_belongs(o, names) for o in overrides)}


def train_command(
    way: Way,
    arguments: Sequence[str],
    *,
    devices: int,
    num_nodes: int,
    tokens_per_pack: int | None = None,
) -> str:
    """Returns a command for the shell.

    Args:
        way: How to train.
        arguments: What else to say, as `train_arguments` returns it.
        devices: Processes on a machine.
        num_nodes: Machines, on each of which srun starts the processes.
        tokens_per_pack: `data.tokens_per_pack`; None to leave it as it is.
    """
    launcher = [*(["srun"] if num_nodes > 1 else []), *program.words("train")]
    strategy = way.strategy
    words = [*launcher, *arguments]
    if strategy.offload == "nvme":
        words += ["strategy=deepspeed_zero3_offload", "strategy.offload=nvme"]
        words.append(f"strategy.nvme_path={strategy.nvme_path}")
    else:
        words.append(f"strategy={strategy.title}")
    words += str(way).split()[1:]
    if tokens_per_pack is not None:
        words.append(f"data.tokens_per_pack={tokens_per_pack}")
    if devices > 1:
        words.append(f"trainer.devices={devices}")
    if num_nodes > 1:
        words.append(f"trainer.num_nodes={num_nodes}")
    return shlex.join(words)


def _belongs(override: str, keys: Sequence[str]) -> bool:
    """Whether an override sets one of these keys, or something inside it."""
    key = override.lstrip("+~").partition("=")[0]
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in keys)
