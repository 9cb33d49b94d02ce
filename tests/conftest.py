"""Fixtures of all tests: real data, the bundled tokenizer, tiny models and encoders of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch
from hypothesis import settings
from tiny_models import TINY_ARCHITECTURES, ModelFactory, tiny_model_factory

from embedllm.config import ModelConfig, PromptConfig
from embedllm.models.encoder import SentenceEncoder
from embedllm.models.loading import load_encoder
from embedllm.prompts.bundled_tokenizer import build_bundled_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TEMPLATE = 'This sentence : "{sentence}" means in one word:"'


class EncoderBuilder(Protocol):
    """What the fixture `build_encoder` gives."""

    def __call__(
        self,
        model: ModelConfig,
        prompt_template: str = PROMPT_TEMPLATE,
        *,
        tokens_per_batch: int = 4096,
        **prompt_options: Any,
    ) -> SentenceEncoder:
        """Returns the encoder of a config on CPU; keywords are keys of `PromptConfig`."""
        ...


# Machines are shared: that an example was slow says nothing about the code.
settings.register_profile("embedllm", deadline=None)
settings.load_profile("embedllm")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and sums depend on how many there are."""
    torch.set_num_threads(1)


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
