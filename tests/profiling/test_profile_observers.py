"""What each observer measures, on operations whose cost is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from embedllm.models.linear import use_onednn_linear
from embedllm.profiling.memory import memory_gauge
from embedllm.profiling.observers import Clock, Operations, PeakMemory, Trace
from embedllm.profiling.sections import Part, Sections

CPU = torch.device("cpu")
MIB = 2**20


class FakeGauge:
    """Memory that a test sets."""

    def __init__(self) -> None:
        self.in_use = self._peak = 0
        self.num_releases = 0

    def use(self, num_bytes: int) -> None:
        self.in_use = num_bytes
        self._peak = max(self._peak, num_bytes)

    def release(self) -> None:
        self.num_releases += 1

    def restart(self) -> None:
        self._peak = self.in_use

    def peak(self) -> int:
        return self._peak


def test_a_part_gets_the_peak_that_was_reached_in_it() -> None:
    gauge = FakeGauge()
    gauge.use(100)
    gauge.use(40)
    memory, sections = PeakMemory(gauge), Sections()
    sections.begin(memory)
    for high, low in ((90, 60), (70, 50)):
        with sections.part(Part.TRUNK):
            gauge.use(high)
            gauge.use(low)
    with sections.part(Part.LOSS):
        pass
    gauge.use(10)
    sections.end()
    # 40 were in use before; the 100 of an earlier moment belong to no part.
    assert memory.peak_bytes == {Part.TRUNK: 50, Part.LOSS: 10, Part.OTHER: 20}
    assert gauge.num_releases == 1


def test_resident_memory_shows_what_a_part_held() -> None:
    gauge = memory_gauge(CPU)
    if gauge is None:
        pytest.skip("this system cannot set the peak of resident memory back")
    memory, sections = PeakMemory(gauge), Sections()
    sections.begin(memory)
    with sections.part(Part.TRUNK):
        torch.ones(64 * MIB, dtype=torch.uint8)
    with sections.part(Part.LOSS):
        torch.ones(8 * MIB, dtype=torch.uint8)
    sections.end()
    # The system counts pages per core and adds them up now and then.
    assert 56 * MIB < memory.peak_bytes[Part.TRUNK] < 80 * MIB
    assert MIB < memory.peak_bytes[Part.LOSS] < 24 * MIB


def test_seconds_are_all_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.0, 13.0, 17.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    processor = iter([3.0, 7.0])
    monkeypatch.setattr("time.process_time", lambda: next(processor))
    clock, sections = Clock(CPU), Sections()
    sections.begin(clock)
    with sections.part(Part.TRUNK):
        pass
    sections.end()
    assert clock.seconds == {Part.OTHER: 5.0, Part.TRUNK: 2.0}
    assert clock.processor_seconds == 4.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(5, 32, 64), (595, 64, 64), (950, 64, 128), (33, 576, 1536)])
def test_operations_of_a_linear_layer(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, inner, columns = sizes
    states = torch.randn(1, rows, inner, dtype=dtype, requires_grad=True)
    layer = nn.Linear(inner, columns, dtype=dtype)
    # In float32 large products go through another kernel.
    use_onednn_linear(layer)
    operations, sections = Operations(), Sections()
    sections.begin(operations)
    with sections.part(Part.TRUNK):
        vectors = layer(states)
    with sections.part(Part.BACKWARD):
        vectors.sum().backward()
    sections.end()
    forward = 2 * rows * inner * columns
    assert operations.flops == {Part.OTHER: 0, Part.TRUNK: forward, Part.BACKWARD: 2 * forward}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_operations_of_attention(dropout: float) -> None:
    query, key, value = (torch.randn(3, 4, length, 8) for length in (20, 30, 30))
    operations, sections = Operations(), Sections()
    sections.begin(operations)
    F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    sections.end()
    # Scores, then their product with the values.
    assert operations.flops == {Part.OTHER: 2 * (2 * 3 * 4 * 20 * 30 * 8)}


def test_recomputed_operations_are_charged_to_recomputation() -> None:
    states = torch.randn(6, 16, requires_grad=True)
    weight = torch.randn(16, 16, requires_grad=True)
    operations, sections = Operations(), Sections()

    def forward(x: torch.Tensor) -> torch.Tensor:
        return (x @ weight).relu() @ weight

    sections.begin(operations)
    vectors = checkpoint(
        forward,
        states,
        use_reentrant=False,
        context_fn=lambda: (sections.part(Part.TRUNK), sections.part(Part.RECOMPUTATION)),
    )
    with sections.part(Part.BACKWARD):
        vectors.sum().backward()
    sections.end()
    product = 2 * 6 * 16 * 16
    assert operations.flops[Part.TRUNK] == 2 * product
    assert operations.flops[Part.BACKWARD] == 4 * product
    # The last product is not needed again, and torch may stop before it.
    assert operations.flops[Part.RECOMPUTATION] in (product, 2 * product)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_the_trace_has_the_parts(name: str, tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "new" / name
    sections = Sections()
    sections.begin(Trace(path))
    with sections.part(Part.TRUNK):
        torch.ones(4, 4) @ torch.ones(4, 4)
    sections.end()
    content = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    names = {event.get("name") for event in json.loads(content)["traceEvents"]}
    assert {"embedllm: trunk", "aten::mm"} <= names
    assert list(path.parent.iterdir()) == [path]
