"""The profile as a table for the terminal and as plain values for a JSON file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from embedllm.console import result_table
from embedllm.planning.ceiling import Ceiling
from embedllm.profiling.sections import Part
from embedllm.profiling.steps import StepCost

SCHEMA_VERSION: Final = 1

_NAMES: Final = {
    # Both are made on a thread of their own.
    Part.DATA: "waiting for data",
    Part.TOKENIZATION: "waiting for token ids",
    Part.PREFIX: "prompt prefix",
    Part.TRUNK: "trunk, forward",
    Part.POOLING: "packing and pooling",
    Part.RECOMPUTATION: "  forward computed again",
    Part.OPTIMIZER: "clipping and optimizer",
}
_NOTHING: Final = "-"
_PREFIXES: Final = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True)
class Profile:
    """Everything that was measured.

    Attributes:
        what: `train` or `encode`.
        cost: What a step costs.
        ceiling: The machine's rate of matrix products.
        num_texts: Texts of a step.
        num_real_tokens: Tokens of all texts, each counted with its whole prompt.
        num_trunk_tokens: Tokens that went through the trunk: padding is in, what was shared is
            counted once, what was computed again is not.
        num_weights: Weights that every token is multiplied with.
        useful_factor: Operations for each of them and each real token.
    """

    what: str
    cost: StepCost
    ceiling: Ceiling
    num_texts: int
    num_real_tokens: int
    num_trunk_tokens: int
    num_weights: int
    useful_factor: int

    @property
    def useful_flops(self) -> int:
        """What the plain model needs for the real tokens, without sharing or recomputation."""
        return self.useful_factor * self.num_weights * self.num_real_tokens

    @property
    def executed_fraction(self) -> float:
        """Rate of what was computed, as a share of the ceiling."""
        return self._fraction(self.cost.flops)

    @property
    def useful_fraction(self) -> float:
        """Rate of what was needed, as a share of the ceiling; above 1 when sharing saves much."""
        return self._fraction(self.useful_flops)

    def _fraction(self, flops: int) -> float:
        return flops / self.cost.seconds / self.ceiling.best.flops_per_second


def to_plain(profile: Profile) -> dict[str, Any]:
    """Returns the profile as plain values; seconds, bytes and operations, all per step."""
    cost, ceiling = profile.cost, profile.ceiling
    return {
        "schema_version": SCHEMA_VERSION,
        "what": profile.what,
        "step": {
            "seconds": cost.seconds,
            "timed_steps": list(cost.step_seconds),
            "processor_seconds": cost.processor_seconds,
            "peak_bytes": cost.peak_bytes,
            "num_texts": profile.num_texts,
            "real_tokens": profile.num_real_tokens,
            "trunk_tokens": profile.num_trunk_tokens,
            "real_tokens_per_second": profile.num_real_tokens / cost.seconds,
            "trunk_tokens_per_second": profile.num_trunk_tokens / cost.seconds,
        },
        "parts": [
            {
                "part": str(part.part),
                "seconds": part.seconds,
                "share": part.seconds / cost.seconds,
                "peak_bytes": part.peak_bytes,
                "flops": part.flops,
            }
            for part in cost.parts
        ],
        "flops": {
            "useful": profile.useful_flops,
            "useful_factor": profile.useful_factor,
            "matmul_weights": profile.num_weights,
            "executed": cost.flops,
            "useful_per_second": profile.useful_flops / cost.seconds,
            "executed_per_second": cost.flops / cost.seconds,
        },
        "ceiling": {
            "flops_per_second": ceiling.best.flops_per_second,
            "dtype": ceiling.dtype,
            "products": [asdict(product) for product in ceiling.products],
        },
        "fraction_of_ceiling": {
            "executed": profile.executed_fraction,
            "useful": profile.useful_fraction,
        },
    }


def print_profile(console: Console, profile: Profile) -> None:
    """Prints the parts, then what they add up to."""
    console.print(format_parts(profile))
    console.print(format_totals(profile))


def format_parts(profile: Profile) -> Table:
    """Returns one row for each part, and one for the step."""
    table = result_table()
    table.add_column("part", no_wrap=True)
    for heading in ("seconds", "share", "peak memory", "FLOP", "of ceiling"):
        table.add_column(heading, justify="right", no_wrap=True)
    cost = profile.cost
    for part in cost.parts:
        name = _NAMES.get(part.part, str(part.part))
        if part.part is Part.RECOMPUTATION and not part.seconds:
            continue
        table.add_row(name, *_cells(profile, part.seconds, part.peak_bytes, part.flops))
    table.add_section()
    table.add_row("step", *_cells(profile, cost.seconds, cost.peak_bytes, cost.flops), style="bold")
    return table


def _cells(profile: Profile, seconds: float, peak_bytes: int | None, flops: int) -> list[str]:
    rate = flops / seconds / profile.ceiling.best.flops_per_second if flops else None
    return [
        f"{seconds:.4f}" if seconds else _NOTHING,
        f"{seconds / profile.cost.seconds:.1%}",
        _NOTHING if peak_bytes is None else decimal(peak_bytes),
        to_unit(flops, "") if flops else _NOTHING,
        _NOTHING if rate is None else f"{rate:.2f}",
    ]


def format_totals(profile: Profile) -> Table:
    """Returns tokens, operations, rates and the ceiling, one a row."""
    cost, best = profile.cost, profile.ceiling.best
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    first, last = min(cost.step_seconds), max(cost.step_seconds)
    steps = "step" if len(cost.step_seconds) == 1 else "steps"
    rows = {
        "timed": (
            f"{len(cost.step_seconds)} {steps}, {first:.4f} to {last:.4f} s; "
            f"{cost.processor_seconds:.4f} s of processor time"
        ),
        "tokens": (
            f"{profile.num_real_tokens:,} in {profile.num_texts:,} texts; "
            f"{profile.num_trunk_tokens:,} through the trunk"
        ),
        "tokens/s": (
            f"{profile.num_real_tokens / cost.seconds:,.0f}; "
            f"{profile.num_trunk_tokens / cost.seconds:,.0f} through the trunk"
        ),
        "useful FLOP": (
            f"{to_unit(profile.useful_flops, '')} ({profile.useful_factor} x "
            f"{profile.num_weights:,} weights x {profile.num_real_tokens:,} tokens, no attention)"
        ),
        "executed FLOP": f"{to_unit(cost.flops, '')} (counted by torch, with attention)",
        "ceiling": (
            f"{to_unit(best.flops_per_second, 'FLOP/s')} ({profile.ceiling.dtype}, {best.name}, "
            f"best of {len(profile.ceiling.products)})"
        ),
        "executed / ceiling": (
            f"{profile.executed_fraction:.2f} "
            f"({to_unit(cost.flops / cost.seconds, 'FLOP/s')}, how busy the machine is)"
        ),
        "useful / ceiling": (
            f"{profile.useful_fraction:.2f} "
            f"({to_unit(profile.useful_flops / cost.seconds, 'FLOP/s')}, how much gets done)"
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def to_unit(value: float, unit: str) -> str:
    """Returns three digits with the prefix of the unit: `97.1 GFLOP/s`, `1.20 T`."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value /= 1000
        power += 1
    digits = max(0, 2 - (value >= 9.995) - (value >= 99.95))
    return f"{value:.{digits}f} {_PREFIXES[power]}{unit}".rstrip()
