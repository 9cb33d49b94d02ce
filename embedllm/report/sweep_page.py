"""The page of a sweep: its runs, the spread over seeds, the scaling curve, what failed and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from embedllm.config import ReportConfig
from embedllm.errors import ResultError
from embedllm.files import write_atomically
from embedllm.log import get_logger
from embedllm.program import on_page
from embedllm.progress import format_seconds
from embedllm.report.markdown import MISSING, code, escape, table
from embedllm.report.published import load_published
from embedllm.report.scaling_curve import Curve, build_curves, draw_curves
from embedllm.report.sweep_runs import SEED, Spread, Sweep, SweepRow, read_sweep

_PAGE: Final = "report.md"
_PICTURE: Final = "scaling.svg"
_MAX_REASON_CHARACTERS: Final = 300

_log = get_logger(__name__)


def report_sweep(config: ReportConfig) -> str:
    """Writes the page of `config.sweep_folder` into the sweep's folder and returns it.

    Raises:
        ResultError: There is no such sweep, or it has no runs.
    """
    sweep = read_sweep(_find(config))
    curves = build_curves(sweep, load_published(), Path(config.paths.cache_dir))
    has_picture = bool(curves) and draw_curves(curves, sweep.folder / _PICTURE)
    page = build_sweep_page(sweep, curves, has_picture=has_picture)
    write_atomically(sweep.folder / _PAGE, page.encode())
    _log.info("%s", sweep.folder / _PAGE)
    return page


def build_sweep_page(sweep: Sweep, curves: Sequence[Curve], *, has_picture: bool) -> str:
    """Returns the page as Markdown; the same folder gives the same text at any time."""
    blocks = [
        *_introduction(sweep),
        *_run_table(sweep),
        *_seed_table(sweep),
        *_curve_table(curves, has_picture=has_picture),
        *_failures(sweep),
        *_unfinished(sweep),
    ]
    return "\n\n".join(blocks) + "\n"


def _find(config: ReportConfig) -> Path:
    assert config.sweep_folder is not None
    named = Path(config.paths.output_dir) / config.sweep_folder
    for folder in (named, Path(config.sweep_folder)):
        if folder.is_dir():
            return folder
    raise ResultError(
        f"there is no sweep {named}; sweep= is a folder, or the name of one in paths.output_dir"
    )


def _introduction(sweep: Sweep) -> Iterator[str]:
    yield f"# Sweep {escape(sweep.name)}"
    counts = {
        "done": len(sweep.of_status("done")),
        "running": len(sweep.of_status("running")),
        "failed": len(sweep.of_status("failed")),
        "stopped": len(sweep.of_status("stopped")),
    }
    parts = [f"{number} {status}" for status, number in counts.items() if number]
    number = "1 run" if len(sweep.rows) == 1 else f"{len(sweep.rows)} runs"
    varied = ", ".join(code(key) for key in sweep.keys) or "nothing"
    yield f"{number}: {', '.join(parts)}. Varied: {varied}."
    command = shlex.join(["python", "-m", "embedllm", "report", f"sweep={sweep.name}"])
    yield f"```bash\n{on_page(command)}\n```"


def _run_table(sweep: Sweep) -> Iterator[str]:
    header = [*map(escape, sweep.keys), "run", "dev", "before", "after", "gain", "time"]
    rows = []
    for row in sweep.of_status("done"):
        gain = None if row.before is None or row.after is None else row.after - row.before
        seconds = row.state.seconds
        cells = [*map(escape, row.values.values()), escape(row.state.folder.name)]
        cells += [_number(row.state.dev_score), _number(row.before), _number(row.after)]
        cells += [MISSING if gain is None else f"{gain:+.2f}"]
        rows.append([*cells, MISSING if seconds is None else format_seconds(seconds)])
    if rows:
        yield "## Runs"
        yield (
            "The score of the best adapter on the dev task, then averages of the scores before "
            "and after training. The time is that of the start that finished the run."
        )
        yield table(header, rows, num_texts=len(sweep.keys) + 1)


def _seed_table(sweep: Sweep) -> Iterator[str]:
    settings = sweep.settings
    if SEED not in sweep.keys or max(map(len, settings.values()), default=0) < 2:
        return
    keys = [key for key in sweep.keys if key != SEED]
    rows = []
    for values, members in settings.items():
        spreads = [
            Spread.of([row.state.dev_score for row in members]),
            Spread.of([row.before for row in members]),
            Spread.of([row.after for row in members]),
        ]
        rows.append([*map(escape, values), str(len(members)), *map(_spread, spreads)])
    yield "## Mean over seeds"
    yield "Mean \u00b1 standard deviation (n - 1)."
    header = [*map(escape, keys), "seeds", "dev", "before", "after"]
    yield table(header, rows, num_texts=len(keys))


def _curve_table(curves: Sequence[Curve], *, has_picture: bool) -> Iterator[str]:
    if not curves:
        return
    yield "## Score against parameters"
    if has_picture:
        yield f"![Score against parameters]({_PICTURE})"
    if not any(curve.is_published for curve in curves):
        yield (
            "The published curve is over the paper's seven STS tasks (evaluation=sts), so it is "
            "not beside these scores."
        )
    rows = [
        [escape(curve.label), f"{point.parameters / 1e6:,.1f}", _number(point.score)]
        for curve in curves
        for point in curve.points
    ]
    yield table(["curve", "parameters (millions)", "average"], rows)


def _failures(sweep: Sweep) -> Iterator[str]:
    rows = sweep.of_status("failed")
    if not rows:
        return
    yield "## Failed"
    lines = []
    for row in rows:
        assert row.state.failure is not None
        reason = row.state.failure.message[:_MAX_REASON_CHARACTERS]
        lines.append([*_describe(row), escape(reason)])
    yield table([*map(escape, sweep.keys), "run", "why"], lines, num_texts=len(sweep.keys) + 2)


def _unfinished(sweep: Sweep) -> Iterator[str]:
    rows = sweep.of_status("running", "stopped")
    if not rows:
        return
    yield "## Not finished"
    yield "The sweep's command goes on from the last checkpoint of each."
    words = {"running": "running", "stopped": "stopped without a message"}
    lines = [[*_describe(row), words[row.state.status], _last_step(row)] for row in rows]
    header = [*map(escape, sweep.keys), "run", "state", "last checkpoint"]
    yield table(header, lines, num_texts=len(sweep.keys) + 3)


def _describe(row: SweepRow) -> list[str]:
    return [*map(escape, row.values.values()), escape(row.state.folder.name)]


def _last_step(row: SweepRow) -> str:
    names = sorted(path.stem for path in (row.state.folder / "checkpoints").glob("step-*.ckpt"))
    return escape(names[-1]) if names else "none"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    deviation = "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"
    return f"{spread.mean:.2f}{deviation}"
