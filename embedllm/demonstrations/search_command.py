"""What `python -m embedllm search` does: score the candidates, rank them, write the prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedllm.config import (
    DemonstrationConfig,
    HalvingConfig,
    PromptConfig,
    SearchConfig,
)
from embedllm.demonstrations.agreement import Agreement, simulate
from embedllm.demonstrations.halving import HalvingResult, run_halving
from embedllm.demonstrations.search_report import SearchOutcome, report, saved_prompt_path
from embedllm.demonstrations.search_work import Need, OrderedPairs, UnitWorker
from embedllm.demonstrations.sets import load_demonstrations
from embedllm.demonstrations.unit_store import UnitStore, prompt_key, store_identity
from embedllm.distributed import use_device_of
from embedllm.errors import ConfigError
from embedllm.evaluation.run import load_configured_tasks
from embedllm.evaluation.tasks import PairTask, fingerprint_task
from embedllm.invocation import Invocation
from embedllm.log import get_logger, quiet_libraries
from embedllm.models.backbone import resolve_device
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.models.quantization import describe_dtype
from embedllm.progress import progress_bar
from embedllm.prompts.template import build_prompt
from embedllm.ranks import current_rank
from embedllm.versions import git_revision

_log = get_logger(__name__)

_NUM_ORDERS = 1000


def run_search(config: SearchConfig, invocation: Invocation) -> None:
    """Searches, or goes on with a search, and reports.

    Any number of processes may run this with the same folder at once; the main one reports.

    Args:
        config: The checked configuration.
        invocation: How the command was called.

    Raises:
        EmbedllmError: Whatever a user can mend, before any weight is loaded where possible.
    """
    start = time.perf_counter()
    quiet_libraries()
    git_revision()
    [task] = load_configured_tasks(config.evaluation, config.evaluation.tasks)
    check_schedule(config.search, task)
    candidates = _load_candidates(config)
    prompts = [append_demonstration(config.prompt, candidate) for candidate in candidates]
    for prompt in prompts:
        build_prompt(prompt)
    saved_path = saved_prompt_path(config.save_as, invocation)
    rank = current_rank()
    use_device_of(rank)
    pairs = OrderedPairs(task, seed=config.seed)
    device = resolve_device()
    dtype = describe_dtype(config.model, device)
    identity = store_identity(
        config.model,
        dtype=dtype,
        task=task.name,
        data={name: dict(value) for name, value in fingerprint_task(task).items()},
        seed=config.seed,
    )
    store = UnitStore(invocation.folder, identity, rank=rank.rank)
    worker = UnitWorker(_encoder_loader(config, prompts), pairs, store, rank)
    result = _search(worker, config, prompts)
    if not rank.is_main:
        return
    outcome = SearchOutcome(
        config=config,
        candidates=candidates,
        prompts=prompts,
        result=result,
        baseline=[worker.score(config.prompt, rung.num_pairs) for rung in result.rungs],
        identity=identity,
        agreement=_compare(worker, config.search, prompts),
        unit_seconds=store.seconds(_reached(prompts, result)),
        seconds=time.perf_counter() - start,
    )
    report(outcome, invocation, saved_path)


def append_demonstration(prompt: PromptConfig, candidate: DemonstrationConfig) -> PromptConfig:
    """Returns the prompt with a candidate behind the demonstrations that it has."""
    return replace(prompt, demonstrations=[*prompt.demonstrations, candidate])


def check_schedule(schedule: HalvingConfig, task: PairTask) -> None:
    """Raises ConfigError unless the last round scores all pairs of the task."""
    if schedule.rungs[-1] == task.num_pairs:
        return
    fitting = fit_schedule(schedule, task.num_pairs)
    raise ConfigError(
        f"search.rungs={schedule.rungs} must end with all pairs, and {task.name} has "
        f"{task.num_pairs}; for example {_describe(fitting)}"
    )


def fit_schedule(schedule: HalvingConfig, num_pairs: int) -> HalvingConfig:
    """Returns the schedule with its last round at `num_pairs` and no round above it."""
    below = [rung for rung in schedule.rungs[:-1] if rung < num_pairs]
    return HalvingConfig(rungs=[*below, num_pairs], keep=schedule.keep[: len(below)])


def _describe(schedule: HalvingConfig) -> str:
    rungs, keep = (",".join(map(str, values)) for values in (schedule.rungs, schedule.keep))
    return f"search.rungs=[{rungs}] search.keep=[{keep}]"


def _load_candidates(config: SearchConfig) -> list[DemonstrationConfig]:
    data_dir = config.evaluation.data_dir
    found = load_demonstrations(config.candidates, data_dir=Path(data_dir) if data_dir else None)
    if not found:
        raise ConfigError(f"candidates={config.candidates} has no demonstrations")
    return draw_candidates(found, config.search.max_candidates, seed=config.seed)


def draw_candidates(
    found: Sequence[DemonstrationConfig], number: int | None, *, seed: int
) -> list[DemonstrationConfig]:
    """Returns so many candidates in their order; a larger number adds to those of a smaller one.

    Drawn, because a file is often ordered by source, as the paper's is.
    """
    drawn = np.random.default_rng(seed).permutation(len(found))[:number]
    return [found[candidate] for candidate in sorted(drawn)]


def _encoder_loader(
    config: SearchConfig, prompts: Sequence[PromptConfig]
) -> Callable[[], SentenceEncoder]:
    """Returns a function that loads the encoder at its first call and checks all prompts with it.

    A search that has all its units, and only ranks them again, loads nothing.
    """

    @cache
    def load() -> SentenceEncoder:
        encoder = load_encoder(
            config.model,
            config.prompt,
            Path(config.paths.cache_dir),
            device=resolve_device(),
            tokens_per_batch=config.evaluation.tokens_per_batch,
        )
        _log.info("prompt without a candidate: %s", encoder.describe())
        for number, prompt in enumerate(prompts, start=1):
            try:
                encoder.with_prompt(build_prompt(prompt)).token_ids([""])
            except ConfigError as error:
                raise ConfigError(f"candidate {number} of {config.candidates}: {error}") from error
        return encoder

    return load


def _search(
    worker: UnitWorker, config: SearchConfig, prompts: Sequence[PromptConfig]
) -> HalvingResult:
    """Returns the outcome of the search; the prompt without a candidate is scored on all pairs."""
    schedule = config.search
    num_pairs = schedule.rungs[-1]

    def score(candidates: Sequence[int], count: int) -> list[float]:
        number = schedule.rungs.index(count) + 1
        label = f"round {number} of {len(schedule.rungs)}"
        _log.info("%s: %d candidates on %d pairs", label, len(candidates), count)
        needs = [Need(prompts[candidate], count) for candidate in candidates]
        if number == 1:
            needs.insert(0, Need(config.prompt, num_pairs))
        worker.compute(needs, label=label)
        scores = [worker.score(prompts[candidate], count) for candidate in candidates]
        best = max(range(len(scores)), key=scores.__getitem__)
        baseline = worker.score(config.prompt, count)
        _log.info(
            "%s: best %.2f (candidate %d), without a candidate %.2f",
            label,
            scores[best],
            candidates[best] + 1,
            baseline,
        )
        return scores

    return run_halving(len(prompts), schedule.rungs, schedule.keep, score=score)


def _reached(prompts: Sequence[PromptConfig], result: HalvingResult) -> dict[str, int]:
    """Returns by prompt key on how many pairs the search scored it."""
    return {
        prompt_key(prompts[candidate]): rung.num_pairs
        for rung in result.rungs
        for candidate in rung.scores
    }


def _compare(
    worker: UnitWorker, schedule: HalvingConfig, prompts: Sequence[PromptConfig]
) -> tuple[HalvingConfig, Agreement] | None:
    """Returns how halving does over many pair orders; None before all is scored on all pairs.

    The schedule is the configured one, or the default one for an exhaustive search.
    """
    num_pairs = len(worker.pairs)
    rows: list[NDArray[np.float64]] = []
    for prompt in prompts:
        row = worker.store.read(prompt_key(prompt), num_pairs)
        if row is None:
            return None
        rows.append(row)
    if len(schedule.rungs) == 1:
        schedule = fit_schedule(HalvingConfig(), num_pairs)
    in_order = np.stack(rows)
    similarities = np.empty_like(in_order)
    similarities[:, worker.pairs.order] = in_order
    gold = np.empty(num_pairs)
    gold[worker.pairs.order] = worker.pairs.gold
    with progress_bar("simulating searches", total=_NUM_ORDERS, unit="orders") as advance:
        agreement = simulate(
            similarities,
            gold.tolist(),
            rungs=schedule.rungs,
            keep=schedule.keep,
            seeds=range(_NUM_ORDERS),
            on_order=lambda: advance(1),
        )
    return schedule, agreement
