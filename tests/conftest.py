"""Fixtures of all tests: real data, the bundled tokenizer, tiny models and encoders of them."""

from __future__ import annotations

import gc
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each worker and for what it starts, read when torch is loaded.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from encoder_builder import PROMPT_TEMPLATE, EncoderBuilder
from hypothesis import settings
from tiny_models import TINY_ARCHITECTURES, ModelFactory, tiny_model_factory
from tiny_runs import REPOSITORY, RunHere, restored_logging

from embedllm.config import ModelConfig, PromptConfig
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Machines are shared: that an example was slow says nothing about the code.
settings.register_profile("embedllm", deadline=None)
settings.load_profile("embedllm")


def pytest_collection_finish() -> None:
    """Exempts what is imported by now from garbage collection, which every training asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and sums depend on how many there are."""
    torch.set_num_threads(1)


@pytest.fixture
def entry_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that no launcher has started; what an entry point does to it is undone."""
    for name in ("HYDRA_FULL_ERROR", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    slurm = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    for name in (*launchers, *slurm, "EMBEDLLM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    with restored_logging():
        yield


@pytest.fixture
def run_here(
    entry_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunHere:
    """Runs a script of the repository in this process, which saves its start."""

    def run(script: str, *arguments: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def data_dir() -> Path:
    """The folder with the real data."""
    folder = os.environ.get("EMBEDLLM_DATA_DIR")
    if not folder:
        pytest.skip("EMBEDLLM_DATA_DIR is not set: no real data to read")
    return Path(folder)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_bundled_tokenizer()


@pytest.fixture
def tiny_opt() -> ModelFactory:
    """OPT with the norm before each block, as all sizes but one have it."""
    return tiny_model_factory("opt")


@pytest.fixture
def tiny_opt_post_norm() -> ModelFactory:
    """OPT in the shape of the 350M model: norm after each block, projected output."""
    return tiny_model_factory("opt_post_norm")


@pytest.fixture
def tiny_llama() -> ModelFactory:
    """Rotary positions and grouped-query attention."""
    return tiny_model_factory("llama")


@pytest.fixture(params=TINY_ARCHITECTURES)
def tiny_family(request: pytest.FixtureRequest) -> ModelFactory:
    """Every family in turn: a test that takes this fixture runs once for each."""
    return tiny_model_factory(request.param)


@pytest.fixture
def build_encoder(tmp_path: Path) -> EncoderBuilder:
    def build(
        model: ModelConfig,
        prompt_template: str = PROMPT_TEMPLATE,
        *,
        tokens_per_batch: int = 4096,
        **prompt_options: Any,
    ) -> SentenceEncoder:
        return load_encoder(
            model,
            PromptConfig(template=prompt_template, **prompt_options),
            tmp_path / "cache",
            device=torch.device("cpu"),
            tokens_per_batch=tokens_per_batch,
        )

    return build
