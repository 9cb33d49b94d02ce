"""What a search leaves behind: the ranking, its distribution, the chosen prompt, a table."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from embedllm import program
from embedllm.config import DemonstrationConfig, HalvingConfig, PromptConfig, SearchConfig
from embedllm.config.prompt_file import prompt_to_yaml
from embedllm.console import print_line
from embedllm.demonstrations.agreement import CLOSE, Agreement
from embedllm.demonstrations.halving import HalvingResult
from embedllm.errors import CheckpointError, ConfigError
from embedllm.files import write_atomically, write_json
from embedllm.invocation import Invocation
from embedllm.log import get_logger
from embedllm.versions import git_revision, hardware, library_versions

if TYPE_CHECKING:
    from rich.console import Console

_log = get_logger(__name__)

_MARK: Final = "# Written by `python -m embedllm search`."
_NUM_SHOWN: Final = 10
# Overrides that say where things are rather than what is done.
_PLACES: Final = ("paths.", "evaluation.data_dir", "run_name", "save_as", "hydra")


@dataclass(frozen=True)
class SearchOutcome:
    """Everything that the report needs.

    Attributes:
        config: The search's config.
        candidates: The candidates, in order.
        prompts: The finished prompt of each candidate.
        result: Who won, and the scores of all rounds.
        baseline: Score of the prompt without a candidate on the pairs of each round.
        identity: What decides similarities besides the prompt.
        agreement: A schedule and how often it finds the best; None when that is not known.
        unit_seconds: What computing the units took that the search used, all processes together.
        seconds: What this process took.
    """

    config: SearchConfig
    candidates: Sequence[DemonstrationConfig]
    prompts: Sequence[PromptConfig]
    result: HalvingResult
    baseline: Sequence[float]
    identity: dict[str, Any]
    agreement: tuple[HalvingConfig, Agreement] | None
    unit_seconds: float
    seconds: float

    @property
    def score(self) -> float:
        """The winner's score on all pairs."""
        return self.result.rungs[-1].scores[self.result.winner]

    @property
    def exhaustive_cost(self) -> int:
        """Pairs that scoring every candidate on all pairs takes."""
        return len(self.candidates) * self.result.rungs[-1].num_pairs


def saved_prompt_path(save_as: str | None, invocation: Invocation) -> Path | None:
    """Returns where the chosen prompt goes under `conf/prompt`; None when nowhere.

    Raises:
        ConfigError: The name would overwrite a prompt that no search wrote, or the prompt that
            this search starts from.
    """
    if save_as is None:
        return None
    path = invocation.conf_dir / "prompt" / f"{save_as}.yaml"
    if invocation.choices.get("prompt") == save_as:
        raise ConfigError(
            f"save_as={save_as} would overwrite the prompt that the search starts from; give "
            "another name (and another run_name, to keep the first ranking)"
        )
    if path.exists() and _MARK not in path.read_text(encoding="utf-8"):
        raise ConfigError(
            f"save_as={save_as} would overwrite {path}, which no search has written; give "
            "another name"
        )
    return path


def report(outcome: SearchOutcome, invocation: Invocation, saved_path: Path | None) -> None:
    """Writes ranking.csv, summary.json and the prompt, and prints what was found.

    Summary and ranking go to the results store too, under `searches/`.

    Args:
        outcome: What was found.
        invocation: How the command was called.
        saved_path: Where the prompt goes besides the run's folder; None for nowhere.
    """
    folder = invocation.folder
    ranking = format_ranking(outcome).encode()
    write_atomically(folder / "ranking.csv", ranking)
    summary = build_summary(outcome, invocation)
    write_json(folder / "summary.json", summary)
    prompt = format_prompt(outcome, invocation).encode()
    write_atomically(folder / "prompt.yaml", prompt)
    is_saved = saved_path is not None and _save(saved_path, prompt, folder)
    # Where `python -m embedllm report` looks; the same search run again takes its place.
    kept = Path(outcome.config.paths.results_dir) / "searches"
    write_json(kept / f"{folder.name}.json", summary)
    write_atomically(kept / f"{folder.name}.csv", ranking)
    use = f"prompt={outcome.config.save_as}" if is_saved else str(folder / "prompt.yaml")

    def draw(console: Console) -> None:
        console.print(_build_table(outcome, is_fitted=console.is_terminal))
        for line in _sentences(outcome):
            print_line(console, line)
        print_line(console, f"results: {folder / 'ranking.csv'}, {folder / 'summary.json'}")
        print_line(console, f"prompt: {use}")

    invocation.show({**summary, "use": use}, draw)


def format_ranking(outcome: SearchOutcome) -> str:
    """Returns the ranking as CSV: all candidates, the best first."""
    rungs = outcome.result.rungs
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ["rank", "candidate", "sentence", "word", "source", "rung", "pairs", "score"]
    writer.writerow([*columns, *(f"score_{rung.num_pairs}" for rung in rungs)])
    for position, candidate in enumerate(outcome.result.ranking, start=1):
        demonstration = outcome.candidates[candidate]
        reached = [rung for rung in rungs if candidate in rung.scores]
        scores = [f"{rung.scores[candidate]:.4f}" for rung in reached]
        writer.writerow(
            [
                position,
                candidate + 1,
                demonstration.sentence,
                demonstration.word,
                demonstration.source or "",
                len(reached),
                reached[-1].num_pairs,
                scores[-1],
                *scores,
                *[""] * (len(rungs) - len(reached)),
            ]
        )
    return file.getvalue()


def build_summary(outcome: SearchOutcome, invocation: Invocation) -> dict[str, Any]:
    """Returns the record of a search as JSON types."""
    config, result = outcome.config, outcome.result
    winner = outcome.candidates[result.winner]
    return {
        "winner": {
            "candidate": result.winner + 1,
            "sentence": winner.sentence,
            "word": winner.word,
            "source": winner.source,
            "score": round(outcome.score, 4),
        },
        "baseline": round(outcome.baseline[-1], 4),
        "gain": round(outcome.score - outcome.baseline[-1], 4),
        "rungs": [
            {
                "pairs": rung.num_pairs,
                "candidates": len(rung.scores),
                "baseline": round(baseline, 4),
                **describe(list(rung.scores.values()), baseline),
            }
            for rung, baseline in zip(result.rungs, outcome.baseline, strict=True)
        ],
        "cost": {
            "pairs": result.cost,
            "exhaustive_pairs": outcome.exhaustive_cost,
            "ratio": round(result.cost / outcome.exhaustive_cost, 6),
            "baseline_pairs": result.rungs[-1].num_pairs,
        },
        "agreement": _describe_agreement(outcome.agreement),
        "seconds": round(outcome.seconds, 2),
        "unit_seconds": round(outcome.unit_seconds, 2),
        "schedule": {"rungs": list(config.search.rungs), "keep": list(config.search.keep)},
        "num_candidates": len(outcome.candidates),
        "candidates": config.candidates,
        "prompt": asdict(config.prompt),
        "model": asdict(config.model),
        "dtype": outcome.identity["model"]["dtype"],
        "task": outcome.identity["task"],
        "data": outcome.identity["data"],
        "seed": config.seed,
        "command": _command(invocation.overrides),
        "versions": library_versions(),
        "hardware": hardware(),
        "git_revision": git_revision(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe(scores: Sequence[float], baseline: float) -> dict[str, float]:
    """Returns the distribution of scores, and the share of them above the baseline."""
    values = np.array(scores)
    lower, median, upper = np.percentile(values, [25, 50, 75])
    found = {
        "min": values.min(),
        "lower_quartile": lower,
        "median": median,
        "mean": values.mean(),
        "upper_quartile": upper,
        "max": values.max(),
        "std": values.std(),
        "above_baseline": (values > baseline).mean(),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def format_prompt(outcome: SearchOutcome, invocation: Invocation) -> str:
    """Returns the winner's prompt as a file that `prompt=NAME` accepts."""
    config, result = outcome.config, outcome.result
    task = outcome.identity["task"]
    method = "scored on all pairs" if len(result.rungs) == 1 else "by successive halving"
    name = config.save_as or "NAME"
    model = shlex.join(o for o in invocation.overrides if o.startswith("model"))
    used = [o for o in invocation.overrides if not o.lstrip("+~").startswith(_PLACES)]
    lines = [
        f"The demonstration that a search chose for {config.model.name}.",
        f"{task}: {outcome.score:.2f}, without it {outcome.baseline[-1]:.2f}; the best of "
        f"{len(outcome.candidates)}, {method}, {outcome.identity['model']['dtype']}.",
        f"Found with: {_command(used)}",
        f"{program.shown('evaluate')} {model} prompt={name}".replace("  ", " "),
    ]
    # A line feed in a name would end the comment.
    comment = "\n".join(f"# {' '.join(line.split())}" for line in lines)
    return f"{comment}\n{_MARK}\n{prompt_to_yaml(outcome.prompts[result.winner])}"


def _command(overrides: Sequence[str]) -> str:
    return shlex.join([*program.words("search"), *overrides])


def _save(path: Path, content: bytes, folder: Path) -> bool:
    """Writes the prompt under conf/; a folder that cannot be written costs a warning only."""
    try:
        write_atomically(path, content)
    except (CheckpointError, OSError) as error:
        _log.warning(
            "the prompt could not be saved as %s (%s); copy %s there, or into DIR/prompt/ and add "
            "--config-dir DIR to the command that uses it",
            path,
            error.__cause__ or error,
            folder / "prompt.yaml",
        )
        return False
    return True


def _describe_agreement(found: tuple[HalvingConfig, Agreement] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    schedule, agreement = found
    return {
        "rungs": list(schedule.rungs),
        "keep": list(schedule.keep),
        "close_within": CLOSE,
        **agreement.to_dict(),
    }


def _build_table(outcome: SearchOutcome, *, is_fitted: bool) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    result = outcome.result
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=is_fitted)
    for heading in ("rank", "no.", "pairs", "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("word", no_wrap=True)
    # Only this column gives way to a narrow terminal.
    table.add_column("sentence", no_wrap=True, overflow="ellipsis", ratio=1)
    for position, candidate in enumerate(result.ranking[:_NUM_SHOWN], start=1):
        reached = [rung for rung in result.rungs if candidate in rung.scores]
        demonstration = outcome.candidates[candidate]
        table.add_row(
            str(position),
            str(candidate + 1),
            str(reached[-1].num_pairs),
            f"{reached[-1].scores[candidate]:.2f}",
            escape(demonstration.word),
            escape(demonstration.sentence),
        )
    baseline = f"{outcome.baseline[-1]:.2f}"
    table.add_row("-", "-", str(result.rungs[-1].num_pairs), baseline, "-", "no candidate")
    return table


def _sentences(outcome: SearchOutcome) -> list[str]:
    """Returns distribution, cost and agreement in words."""
    first = outcome.result.rungs[0]
    spread = describe(list(first.scores.values()), outcome.baseline[0])
    cost = outcome.result.cost / outcome.exhaustive_cost
    lines = [
        f"all {len(first.scores)} candidates on {first.num_pairs} pairs: {spread['min']:.2f} to "
        f"{spread['max']:.2f}, median {spread['median']:.2f}, mean {spread['mean']:.2f}; "
        f"{spread['above_baseline']:.0%} above the prompt without one "
        f"({outcome.baseline[0]:.2f})",
        f"cost: {outcome.result.cost} pairs, {cost:.1%} of exhaustive search",
    ]
    if outcome.agreement is not None:
        schedule, agreement = outcome.agreement
        lines.append(
            f"halving with rungs {schedule.rungs}, keep {schedule.keep}, over "
            f"{agreement.num_orders} pair orders: the best candidate in "
            f"{agreement.same_winner:.1%}, within {CLOSE} of it in {agreement.close:.1%}, "
            f"{agreement.mean_regret:.3f} below it on average and {agreement.max_regret:.2f} at "
            f"worst, at {agreement.cost_ratio:.1%} of the cost"
        )
    return lines
