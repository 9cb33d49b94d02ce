"""A plan as tables for people and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from embedllm.console import result_table
from embedllm.planning.answers import Plan
from embedllm.planning.fake_model import Inventory
from embedllm.planning.hardware import GIB, Hardware
from embedllm.planning.models import ModelAnswer
from embedllm.planning.planner import Candidate
from embedllm.planning.workload import Workload

SCHEMA_VERSION: Final = 1
_PARTS: Final = ("weights", "gradients", "optimizer", "activations", "buffers", "floor")
_HEADINGS: Final = ("weights", "grads", "optim", "activ", "buffers", "floor")


def print_plan(console: Console, plan: Plan) -> None:
    """Prints what was planned for, every strategy at its best, and what is recommended."""
    console.print(_facts(_about(plan)))
    console.print(_ways_table(plan))
    if plan.recommended is None:
        nearest = plan.nearest
        console.print(
            f"nothing fits {plan.world_size} x {plan.hardware.name}; the nearest is {nearest.way}: "
            f"{_gib(nearest.memory.total)} of {_gib(plan.hardware.usable)} GiB "
            f"({nearest.problem})",
            soft_wrap=True,
            markup=False,
        )
        return
    console.print(_facts(_about_recommended(plan, plan.recommended)))
    console.print(plan.command, soft_wrap=True, markup=False, highlight=False)


def print_models(
    console: Console, answers: Sequence[ModelAnswer], hardware: Hardware, *, world_size: int
) -> None:
    """Prints one row for each model: whether it can be trained, and how."""
    table = _table(f"OPT on {world_size} x {hardware.name} ({_gib(hardware.usable)} GiB usable)")
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "trained", "GiB a device", "step s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("how", overflow="fold")
    for answer in answers:
        candidate = answer.candidate
        how = str(candidate.way) if candidate.fits else f"no: {candidate.problem}, {candidate.way}"
        table.add_row(
            answer.option,
            f"{answer.inventory.base:,}",
            f"{answer.inventory.trainable.number:,}",
            _gib(candidate.memory.total),
            _seconds(candidate),
            how,
        )
    console.print(table)


def plan_to_plain(plan: Plan) -> dict[str, Any]:
    """Returns the whole plan as plain values: bytes, seconds, operations."""
    recommended = plan.recommended
    return {
        "schema_version": SCHEMA_VERSION,
        "model": plan.model,
        "dtype": plan.dtype,
        "parameters": _inventory_to_plain(plan.inventory),
        "hardware": hardware_to_plain(plan.hardware),
        "world_size": plan.world_size,
        "workload": _workload_to_plain(plan.workload),
        "candidates": [_candidate_to_plain(candidate) for candidate in plan.candidates],
        "recommended": None if recommended is None else _candidate_to_plain(recommended),
        "nearest": _candidate_to_plain(plan.nearest),
        "largest_pack_tokens": plan.largest_pack,
        "largest_contrastive_batch": plan.largest_batch,
        "train_command": plan.command or None,
    }


def models_to_plain(answers: Sequence[ModelAnswer]) -> list[dict[str, Any]]:
    """Returns the answers for all models as plain values."""
    return [
        {
            "model": answer.option,
            "parameters": _inventory_to_plain(answer.inventory),
            **_candidate_to_plain(answer.candidate),
        }
        for answer in answers
    ]


def hardware_to_plain(hardware: Hardware) -> dict[str, Any]:
    """Returns the hardware as plain values, with what may be filled."""
    return {**asdict(hardware), "usable": hardware.usable}


def _about(plan: Plan) -> dict[str, str]:
    inventory, workload, hardware = plan.inventory, plan.workload, plan.hardware
    assumed = "assumed" if workload.is_assumed else "read from the data"
    return {
        "model": (
            f"{plan.model}: {inventory.base:,} parameters in {plan.dtype}, "
            f"{inventory.embeddings.number:,} of them embeddings, "
            f"{inventory.num_layers} layers of {inventory.hidden_size}"
        ),
        "trained": f"{inventory.trainable.number:,}",
        "hardware": (
            f"{plan.world_size} x {hardware.name}: {_gib(hardware.memory)} GiB each, "
            f"{_gib(hardware.usable)} to be filled"
        ),
        "a process": (
            f"{workload.num_texts:,} texts of {workload.text_tokens:,} tokens; "
            f"{workload.trunk_tokens:,} go through the trunk in {len(workload.packs)} pack(s) "
            f"of up to {workload.pack_tokens:,} ({assumed})"
        ),
    }


def _about_recommended(plan: Plan, candidate: Candidate) -> dict[str, str]:
    flops, time = candidate.flops, candidate.time
    rows = {
        "recommended": str(candidate.way),
        "memory": ", ".join(f"{part} {_gib(getattr(candidate.memory, part))}" for part in _PARTS)
        + f"; {_gib(candidate.memory.total)} GiB in all",
        "host memory": f"{_gib(candidate.host_memory)} GiB for a machine",
        "checkpoint": f"{_gib(candidate.checkpoint)} GiB, without the frozen base",
        "FLOP of a step": f"{flops.useful:.3g} useful, {flops.executed:.3g} executed",
        "largest pack": f"data.tokens_per_pack={plan.largest_pack:,}",
        "largest batch": f"{plan.largest_batch:,} examples in one contrastive batch",
    }
    if time is not None:
        rows["step"] = (
            f"{time.total:.3g} s: {time.compute:.3g} s at {plan.hardware.flops_ratio:.0%} of the "
            f"hardware's rate, {time.communication:.3g} s of communication"
        )
    return rows


def _ways_table(plan: Plan) -> Table:
    """Returns a row for each strategy and quantisation, in the first checkpointing that fits."""
    table = _table("GiB of one device, at the peak of a step")
    for heading in ("strategy", "quant", "recompute"):
        table.add_column(heading, no_wrap=True)
    table.add_column("pack", justify="right", no_wrap=True)
    for heading in (*_HEADINGS, "total", "fits", "step s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in _best_of_each(plan.candidates):
        memory = candidate.memory
        table.add_row(
            candidate.way.strategy.title,
            candidate.way.quantization,
            candidate.way.checkpointing,
            f"{candidate.workload.pack_tokens:,}",
            *(_gib(getattr(memory, part)) for part in _PARTS),
            _gib(memory.total),
            "yes" if candidate.fits else "no",
            _seconds(candidate),
            style="bold" if candidate is plan.recommended else None,
        )
    return table


def _best_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns for each strategy and quantisation the first that fits, or the smallest."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        way = candidate.way
        groups.setdefault((way.strategy.title, way.quantization), []).append(candidate)
    return [
        next((c for c in group if c.fits), min(group, key=lambda c: c.memory.total))
        for group in groups.values()
    ]


def _candidate_to_plain(candidate: Candidate) -> dict[str, Any]:
    way, time = candidate.way, candidate.time
    return {
        "strategy": way.strategy.title,
        "quantization": way.quantization,
        "activation_checkpointing": way.checkpointing,
        "pack_tokens": candidate.workload.pack_tokens,
        "fits": candidate.fits,
        "problem": candidate.problem or None,
        "memory": {**asdict(candidate.memory), "total": candidate.memory.total},
        "host_memory": candidate.host_memory,
        "checkpoint": candidate.checkpoint,
        "flops": asdict(candidate.flops),
        "traffic": candidate.traffic,
        "seconds": None if time is None else {**asdict(time), "total": time.total},
    }


def _inventory_to_plain(inventory: Inventory) -> dict[str, Any]:
    return {**asdict(inventory), "total": inventory.total, "base": inventory.base}


def _workload_to_plain(workload: Workload) -> dict[str, Any]:
    return {**asdict(workload), "trunk_tokens": workload.trunk_tokens}


def _table(title: str) -> Table:
    return result_table(title)


def _facts(rows: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _gib(number: int) -> str:
    return f"{number / GIB:,.2f}" if number < 100 * GIB else f"{number / GIB:,.0f}"


def _seconds(candidate: Candidate) -> str:
    return "-" if candidate.time is None else f"{candidate.time.total:.3g}"
