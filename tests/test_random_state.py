"""Seeds: the numbers of `torch.manual_seed`, and nothing else of it."""

from __future__ import annotations

import pytest
import torch

from embedllm.random_state import kept_state, set_seed

CPU = torch.device("cpu")


def test_the_numbers_are_those_of_the_library() -> None:
    with kept_state(CPU):
        torch.manual_seed(2**64 - 1)
        expected = torch.rand(4)
        set_seed(2**64 - 1, CPU)
        assert torch.equal(torch.rand(4), expected)


def test_behind_the_block_numbers_go_on() -> None:
    with kept_state(CPU):
        set_seed(1, CPU)
        expected = torch.rand(6)
        set_seed(1, CPU)
        first = torch.rand(3)
        with kept_state(CPU):
            set_seed(2, CPU)
            assert not torch.equal(torch.rand(3), expected[3:])
        assert torch.equal(torch.cat([first, torch.rand(3)]), expected)


def test_devices_that_are_not_asked_for_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "xpu", "mtia"):
        monkeypatch.setattr(getattr(torch, name), "manual_seed_all", None)
    with kept_state(CPU):
        set_seed(3, CPU)
        with pytest.raises(TypeError):
            torch.manual_seed(3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_seeded_and_set_back() -> None:
    gpu = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(gpu)
    with kept_state(gpu):
        set_seed(4, gpu)
        first = torch.rand(3, device=gpu)
        set_seed(4, gpu)
        assert torch.equal(torch.rand(3, device=gpu), first)
    assert torch.equal(torch.cuda.get_rng_state(gpu), before)
