"""What `python -m embedllm profile` does: run a step several times and say where it goes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from embedllm.config import ProfileConfig
from embedllm.console import print_line
from embedllm.data.examples import load_training_data
from embedllm.errors import ConfigError
from embedllm.files import write_json
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries
from embedllm.models.adapters import check_adapter_config
from embedllm.models.backbone import load_model_config, resolve_device
from embedllm.models.loading import load_encoder
from embedllm.models.packing import default_pack_tokens
from embedllm.planning.ceiling import measure_ceiling
from embedllm.planning.work import count_matmul_weights, useful_factor, widest_layer
from embedllm.profiling.draw import draw_examples
from embedllm.profiling.encode_step import run_encode_steps
from embedllm.profiling.report import Profile, print_profile, to_plain
from embedllm.profiling.sections import ENCODE_PARTS, TRAIN_PARTS, Sections
from embedllm.profiling.steps import measure_steps
from embedllm.profiling.train_step import run_train_steps
from embedllm.prompts.template import build_more_prompts, build_prompt
from embedllm.versions import git_revision, hardware, library_versions

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)

_COMMAND: Final = "python -m embedllm profile"
# What decides a training step alone. Encoding is of the base model in its own type.
_TRAIN_ONLY: Final = ("adapter", "loss", "trainer")
_FOR_BOTH: Final = ("trainer.accelerator", "trainer.share_prefix")


def run_profile(config: ProfileConfig, invocation: Invocation) -> None:
    """Measures, prints the tables and writes what `profile` asks for.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    quiet_libraries()
    git_revision()
    options = config.profile
    files = {"profile.trace": options.trace, "profile.output": options.output}
    paths = {key: Path(name).expanduser() if name else None for key, name in files.items()}
    for key, path in paths.items():
        if path is not None and path.is_dir():
            raise ConfigError(f"{key}={path} is a folder; it must be a file")
    if options.what == "encode":
        _warn_without_effect(invocation)
    profile = measure_profile(config, trace=paths["profile.trace"])
    if (output := paths["profile.output"]) is not None:
        record = {
            **to_plain(profile),
            "config": asdict(config),
            "command": [*_COMMAND.split(), *invocation.overrides],
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware(),
            "versions": library_versions(),
            "git_revision": git_revision(),
        }
        write_json(output, record)
    written = {key.removeprefix("profile."): str(path) for key, path in paths.items() if path}

    def draw(console: Console) -> None:
        print_profile(console, profile)
        for key, path in written.items():
            print_line(console, f"{key}: {path}")

    invocation.show({**to_plain(profile), **written}, draw)


def measure_profile(config: ProfileConfig, *, trace: Path | None = None) -> Profile:
    """Returns what a step of this configuration costs on this machine.

    Args:
        config: The checked configuration.
        trace: Where a Chrome trace goes, None for none.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    is_training = config.profile.what == "train"
    if is_training:
        check_adapter_config(config.adapter)
    build_prompt(config.prompt, training=is_training)
    build_more_prompts(config.prompt)
    device = resolve_device(config.trainer.accelerator)
    data = load_training_data(config.data, seed=config.seed)
    cache_dir = Path(config.paths.cache_dir)
    load_model_config(config.model, cache_dir)
    encoder = load_encoder(
        config.model,
        config.prompt,
        cache_dir,
        device=device,
        tokens_per_batch=config.data.tokens_per_pack,
        share_prefix=config.trainer.share_prefix,
    )
    _log.info("prompt in use: %s", encoder.describe())
    trunk = encoder.embedder.trunk
    # Before an adapter changes the trunk, and before steps leave their memory behind.
    num_weights = count_matmul_weights(trunk)
    num_tokens = config.data.tokens_per_pack or default_pack_tokens(device, training=is_training)
    dtype = compute_dtype(config, device, next(trunk.parameters()).dtype)
    ceiling = measure_ceiling(device, dtype, model_shape=(num_tokens, *widest_layer(trunk)))
    sections = Sections()
    torch.manual_seed(config.seed)
    if is_training:
        run_steps = partial(run_train_steps, config.to_train_config(), data, encoder, sections)
    else:
        examples = draw_examples(data, config.data.global_batch_size, seed=config.seed)
        texts = [text for e in examples for text in (e.anchor, e.positive, *e.negatives)]
        run_steps = partial(run_encode_steps, encoder, list(dict.fromkeys(texts)), sections)
    cost = measure_steps(
        run_steps,
        TRAIN_PARTS if is_training else ENCODE_PARTS,
        device=device,
        num_steps=config.profile.num_steps,
        trace=trace,
    )
    return Profile(
        what=config.profile.what,
        cost=cost,
        ceiling=ceiling,
        num_texts=sections.tokens["texts"],
        num_real_tokens=sections.tokens["real"],
        num_trunk_tokens=sections.tokens["trunk"],
        num_weights=num_weights,
        useful_factor=useful_factor(
            is_training=is_training, trains_all=config.adapter.method == "full"
        ),
    )


def compute_dtype(config: ProfileConfig, device: torch.device, weights: torch.dtype) -> torch.dtype:
    """Returns the type in which the step multiplies matrices.

    Args:
        config: The checked configuration.
        device: Where the step runs.
        weights: Type of the base model's weights.
    """
    precision = config.trainer.precision
    if config.profile.what == "encode" or precision == "32-true":
        return weights
    # On a CPU Lightning takes bfloat16 for 16-mixed too.
    is_float16 = precision == "16-mixed" and device.type == "cuda"
    return torch.float16 if is_float16 else torch.bfloat16


def _warn_without_effect(invocation: Invocation) -> None:
    keys = [override.lstrip("+~").partition("=")[0] for override in invocation.overrides]
    unused = [k for k in keys if k.partition(".")[0] in _TRAIN_ONLY and k not in _FOR_BOTH]
    if unused:
        _log.warning("profile.what=encode: no effect of %s", ", ".join(unused))
