"""The contestants of `train_step.py`: three ways to train one and the same adapter.

All of them have the same frozen tensors (not copies), the same initial adapter in float32, and do
whole steps: raw text to token ids, loss, backward pass, gradients clipped to norm 1, AdamW. With
bfloat16 weights the forward pass runs under autocast, as each of them does it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedllm.config import TrainConfig
from embedllm.data.loader import ContrastiveLoader
from embedllm.data.schema import Example
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapters import attach_adapter
from embedllm.models.encoder import SentenceEncoder
from embedllm.prompts.template import build_prompt
from embedllm.prompts.tokenize import tokenize
from embedllm.training.module import ContrastiveModule

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# A new LoRA is the identity, and half of its gradients are zero. This is far enough from it to
# compare all of them, and near enough to leave the model what it is.
_INITIAL_STD = 1e-2
_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")

Step = Callable[[], float]


@dataclass(frozen=True)
class Contestant:
    """One way to train.

    Attributes:
        model: Frozen tensors and the adapter, in training mode.
        build_step: From examples to a call that trains one step on all of them, from their texts
            to moved weights, and returns the loss.
        plateau: Number of examples from which on memory does not grow; None without one.
    """

    model: nn.Module
    build_step: Callable[[Sequence[Example]], Step]
    plateau: int | None = None

    @property
    def adapter(self) -> list[nn.Parameter]:
        """What is trained, in an order that is the same for all contestants."""
        return [p for p in self.model.parameters() if p.requires_grad]


class Setting:
    """What the contestants share.

    Args:
        config: Model, adapter, prompt, loss and optimisation.
        encoder: The base model; it gets the adapter.
        folder: A copy of the whole language model, without a chat template.
        device: Where the weights are.
    """

    def __init__(
        self, config: TrainConfig, encoder: SentenceEncoder, folder: Path, device: torch.device
    ) -> None:
        self.config, self.encoder, self.folder, self.device = config, encoder, folder, device
        self.dtype: torch.dtype = getattr(torch, config.model.dtype)
        self.prompt = build_prompt(config.prompt, training=True)
        # Shares the tensors; taken before the adapter changes their names.
        self.base_weights = encoder.embedder.trunk.state_dict()
        self.trunk: Any = attach_adapter(
            encoder.embedder.trunk, config.adapter, seed=config.seed
        ).train()
        encoder.embedder.trunk = self.trunk
        generator = torch.Generator().manual_seed(config.seed)
        self.initial_adapter = [
            (p.detach().cpu() + _INITIAL_STD * torch.randn(p.shape, generator=generator))
            for p in self.trunk.parameters()
            if p.requires_grad
        ]

    def tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids of finished prompts, as a training run does."""
        encoder = self.encoder
        return tokenize(
            sentences,
            tokenizer=encoder.tokenizer,
            prompt=self.prompt,
            max_length=encoder.max_length,
        )

    def columns(self, examples: Sequence[Example]) -> dict[str, list[str]]:
        """Returns the finished prompts as plain text, cut sentences included.

        Raises:
            ValueError: The texts do not give the ids of `tokenize` again.
        """
        columns = {
            "anchor": [e.anchor for e in examples],
            "positive": [e.positive for e in examples],
            "negative": [e.negatives[0] for e in examples],
        }
        tokenizer: Any = self.encoder.tokenizer
        for name, sentences in columns.items():
            ids = self.tokenize(sentences)
            columns[name] = tokenizer.batch_decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            if tokenizer(columns[name])["input_ids"] != ids:
                raise ValueError(f"the {name} prompts have other ids when given as plain text")
        return columns

    def copy_adapter_config(self) -> Any:
        """Returns peft's configuration of the adapter, for another model."""
        return copy.deepcopy(self.trunk.peft_config["default"])

    def autocast(self) -> torch.autocast:
        """Returns the context of a forward pass with bfloat16 weights; float32: no effect."""
        is_on = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_on)


def reset_adapter(contestant: Contestant, setting: Setting) -> None:
    """Sets the adapter to its initial weights, in float32."""
    for parameter, value in zip(contestant.adapter, setting.initial_adapter, strict=True):
        # With bfloat16 weights peft makes a float32 adapter, but not through `add_adapter`.
        parameter.data = parameter.data.float().copy_(value)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Turns all dropout off, that of the adapter and that of the model, and on again."""
    changed: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        names = ("p",) if isinstance(module, nn.Dropout) else _DROPOUTS
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, float) and value:
                changed.append((module, name, value))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def build_ours(setting: Setting) -> Contestant:
    """Returns what a training run of this project does, without Lightning around it."""
    config = setting.config
    module = ContrastiveModule(
        setting.encoder.embedder,
        InfoNCE(config.loss.temperature, config.loss.hard_negative_weight),
        config.trainer,
        total_steps=1,
        tokens_per_pack=config.data.tokens_per_pack,
    ).to(setting.device)
    module.train()
    contestant = Contestant(setting.trunk, lambda examples: build_step(examples))
    reset_adapter(contestant, setting)
    optimizer = module.configure_optimizers()["optimizer"]

    def build_step(examples: Sequence[Example]) -> Step:
        # An epoch of one batch.
        loader = ContrastiveLoader(
            examples, setting.tokenize, batch_size=len(examples), seed=config.seed
        )

        def step() -> float:
            [batch] = loader
            with setting.autocast():
                loss = module.training_step(batch, 0)
            loss.backward()
            nn.utils.clip_grad_norm_(contestant.adapter, config.trainer.gradient_clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    return contestant


def build_library(
    setting: Setting,
    *,
    mini_batch_size: int | None = None,
    gradient_checkpointing: bool = False,
) -> Contestant:
    """Returns sentence-transformers' trainer with MultipleNegativesRankingLoss.

    `trainer.train()` is a whole run with its set-up, so a turn does what its loop does for a
    step, through the trainer's own parts: data loader and collator, `training_step` (forward pass,
    loss, backward pass), clipping, the optimizer it chooses.

    Args:
        setting: What the contestants share.
        mini_batch_size: That of the cached loss; None for the loss without a cache.
        gradient_checkpointing: Do what the training argument of this name does in `train()`.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = _load_library_model(setting)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    contestant = Contestant(model, lambda examples: build_step(examples), mini_batch_size)
    reset_adapter(contestant, setting)
    config = setting.config

    def build_step(examples: Sequence[Example]) -> Step:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=len(examples),
            learning_rate=config.trainer.learning_rate,
            bf16=setting.dtype != torch.float32,
            use_cpu=setting.device.type == "cpu",
            report_to="none",
            seed=config.seed,
        )
        trainer: Any = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(setting.columns(examples)),
            loss=_library_loss(model, 1 / config.loss.temperature, mini_batch_size),
        )
        # The loop sets it, which is not used here.
        trainer.current_gradient_accumulation_steps = 1
        accelerator = trainer.accelerator
        wrapped, optimizer = accelerator.prepare(model, trainer.create_optimizer())
        # An epoch of one batch.
        loader = trainer.get_train_dataloader()

        def step() -> float:
            [inputs] = loader
            loss: Tensor = trainer.training_step(wrapped, inputs)
            accelerator.clip_grad_norm_(wrapped.parameters(), arguments.max_grad_norm)
            optimizer.step()
            wrapped.zero_grad()
            return loss.item()

        return step

    return contestant


def _load_library_model(setting: Setting) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(setting.folder), model_kwargs={"dtype": setting.dtype})
    transformer.model.load_state_dict(setting.base_weights, assign=True)
    transformer.model.add_adapter(setting.copy_adapter_config())
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling], device=str(setting.device)).train()


def _library_loss(
    model: SentenceTransformer, scale: float, mini_batch_size: int | None
) -> nn.Module:
    from sentence_transformers import losses

    if mini_batch_size is None:
        return losses.MultipleNegativesRankingLoss(model, scale=scale)
    return losses.CachedMultipleNegativesRankingLoss(
        model, scale=scale, mini_batch_size=mini_batch_size
    )


def build_plain_loop(setting: Setting) -> Contestant:
    """Returns the loop of the paper, as its description has it (paper_method 1 and 3).

    One batch of all texts, padded on the left to the longest, through the language model with its
    head; all hidden states, of which the last position of the last is used; gradient
    checkpointing, which its preparation of the model switches on.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(setting.folder, dtype=setting.dtype)
    model.base_model.load_state_dict(setting.base_weights, assign=True)
    model.tie_weights()
    model.to(setting.device).gradient_checkpointing_enable()
    config = setting.config
    # Not `attach_adapter`, which puts faster layers into the model.
    model = get_peft_model(model, setting.copy_adapter_config()).train()
    contestant = Contestant(model, lambda examples: build_step(examples))
    reset_adapter(contestant, setting)
    tokenizer: Any = AutoTokenizer.from_pretrained(setting.folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    optimizer = torch.optim.AdamW(
        contestant.adapter, lr=config.trainer.learning_rate, weight_decay=0.0
    )

    def build_step(examples: Sequence[Example]) -> Step:
        texts = [text for column in setting.columns(examples).values() for text in column]

        def step() -> float:
            batch = tokenizer(texts, padding=True, return_tensors="pt").to(setting.device)
            with setting.autocast():
                states = model(**batch, output_hidden_states=True).hidden_states
            vectors = F.normalize(states[-1][:, -1].float(), dim=-1)
            anchors, candidates = vectors.split([len(examples), 2 * len(examples)])
            logits = anchors @ candidates.T / config.loss.temperature
            loss = F.cross_entropy(logits, torch.arange(len(examples), device=setting.device))
            loss.backward()
            nn.utils.clip_grad_norm_(contestant.adapter, config.trainer.gradient_clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    return contestant
