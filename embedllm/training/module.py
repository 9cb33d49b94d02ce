"""The Lightning module: encode, loss, log."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import get_scheduler

from embedllm.config import TrainerConfig
from embedllm.data.loader import ContrastiveBatch
from embedllm.distributed import any_rank, gather_vectors
from embedllm.errors import CheckpointError, NonFiniteError
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embed_rows import embed_rows, split_rows
from embedllm.models.embedder import Embedder
from embedllm.models.packing import default_pack_tokens
from embedllm.models.prefix import common_prefix_length
from embedllm.models.recompute import Conditions
from embedllm.models.row_shares import share_rows
from embedllm.models.whole import full_shape, trainable_parameters
from embedllm.training.checkpoints import ALONE, Layout


class ContrastiveModule(pl.LightningModule):
    """Trains an embedder with a contrastive loss.

    Args:
        embedder: Trunk with what is to be trained.
        loss: The contrastive loss.
        trainer_config: Optimisation settings.
        total_steps: Optimizer steps of the run, which the schedule spans.
        tokens_per_pack: Padded tokens per forward pass; None for the device's default.
        layout: How the run is spread over processes, for its checkpoints.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: InfoNCE,
        trainer_config: TrainerConfig,
        *,
        total_steps: int,
        tokens_per_pack: int | None,
        layout: Layout = ALONE,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = loss
        self.config = trainer_config
        self.total_steps = total_steps
        self.tokens_per_pack = tokens_per_pack
        self.layout = layout
        # Looking for NaNs, as metrics do by default, would make a GPU wait.
        self.mean_loss = MeanMetric(nan_strategy="disable")
        self.mean_accuracy = MeanMetric(nan_strategy="disable")
        self.is_finite = torch.tensor(True)
        self.num_negatives = 0
        # Checkpoints hold the trainable weights alone; the frozen base is loaded anew.
        self.strict_loading = False
        device = next(embedder.parameters()).device
        by = trainer_config.dropout_by
        if by == "token" or (by == "auto" and device.type == "cpu"):
            embedder.draw_by_token()
        if trainer_config.activation_checkpointing in ("layers", "all"):
            checkpoint_layers(embedder.trunk)

    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        """Returns the loss of one contrastive batch, with gradient."""
        with self._forward_context():
            if self._has_two_passes:
                return self._step_in_two_passes(batch, batch_idx)
            return self._score(self._embed(batch), batch)

    def _forward_context(self) -> AbstractContextManager[None]:
        """Returns what `trainer.precision` computes in; nothing special without a trainer.

        The trainer has entered it already, but DeepSpeed's engine, which lies between, leaves it.
        """
        trainer = self._trainer
        return nullcontext() if trainer is None else trainer.precision_plugin.forward_context()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clears gradients, which the trainer asks for between the step and its backward pass."""
        if not self._has_two_passes:
            optimizer.zero_grad()

    @property
    def _has_two_passes(self) -> bool:
        return self._recomputes and self.layout.strategy == "fsdp2" and self.embedder.in_step

    @property
    def _recomputes(self) -> bool:
        return self.config.activation_checkpointing in ("packs", "all")

    def _score(self, vectors: Tensor, batch: ContrastiveBatch) -> Tensor:
        """Returns this rank's part of the loss, scaled so that the mean over ranks is the loss.

        Args:
            vectors: [B, D], of all texts of the batch.
            batch: The batch.
        """
        anchors, positives, negatives = vectors.split(
            [batch.num_anchors, batch.num_anchors, len(batch.negative_owner)]
        )
        first, last = self._anchors_to_score(batch.num_anchors)
        owner = torch.tensor(batch.negative_owner, device=self.device, dtype=torch.long)
        # A rank without anchors scores one too, for nothing, to take part in the backward pass.
        output = self.loss(
            anchors[first : max(last, first + 1)],
            positives,
            negatives if len(owner) else None,
            owner,
            first=first,
        )
        num_scored = last - first
        # Asked for here, answered once a step (`FiniteSteps`): a GPU would have to stop for it.
        value = output.loss.detach()
        self.is_finite = torch.isfinite(vectors.detach()).all() & value.isfinite()
        weight = num_scored * self.is_finite
        self.mean_loss.update(value.nan_to_num(0, 0, 0), weight=weight)
        self.mean_accuracy.update(output.accuracy, weight=weight)
        self.num_negatives = output.num_negatives
        # Gradients are averaged over ranks; their mean has to be that of the mean over anchors.
        share = num_scored * self.layout.world_size / batch.num_anchors
        return output.loss * share if share != 1 else output.loss  # type: ignore[no-any-return]

    def _step_in_two_passes(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        """Trains packs one by one where the weights are spread over ranks (gradient caching).

        First all vectors without states, then the loss and its gradient by the vectors, then each
        pack again with states and a backward pass of its own: libraries that gather weights layer
        by layer follow that, but not a pack that is computed again inside a backward pass.

        Returns:
            The last pack's part, whose backward pass is the trainer's; its value is the loss.
        """
        shares = share_rows(batch.token_ids, self.layout.world_size)
        own = shares.rows[self.global_rank] or (0,)
        passes = split_rows(
            self.embedder,
            [batch.token_ids[row] for row in own],
            max_tokens=self._tokens_per_pack,
            share_prefix=self.config.share_prefix,
        )
        conditions = []
        parts = []
        with torch.no_grad():
            for run in passes:
                conditions.append(Conditions.now(list(self.embedder.parameters())[:1]))
                parts.append(run())
        vectors = sum(parts[1:], parts[0]).requires_grad_()
        count = shares.counts[self.global_rank]
        everything = shares.to_batch_order(gather_vectors(vectors[:count], shares.counts))
        loss = self._score(everything, batch)
        [gradient] = torch.autograd.grad(loss, vectors)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.zero_grad()
        strategy: Any = self.trainer.strategy
        for run, condition in zip(passes[:-1], conditions[:-1], strict=True):
            with condition.restored():
                part = (run() * gradient).sum()
            strategy.backward(part / self.trainer.accumulate_grad_batches, None)
        with conditions[-1].restored():
            part = (passes[-1]() * gradient).sum()
        return loss.detach() + part - part.detach()

    def _embed(self, batch: ContrastiveBatch) -> Tensor:
        """Returns the vectors of all texts of the batch, with gradient; each rank computes some."""
        options: dict[str, Any] = {
            "max_tokens": self._tokens_per_pack,
            "share_prefix": self.config.share_prefix,
            "recompute": self._recomputes,
        }
        if self.layout.world_size == 1:
            return embed_rows(self.embedder, batch.token_ids, **options)
        if self.embedder.in_step:
            # All ranks make the same passes, so all have the prefix or none.
            options["num_shared"] = common_prefix_length(batch.token_ids)
        shares = share_rows(batch.token_ids, self.layout.world_size)
        # A rank without rows computes one too, for nothing.
        own = shares.rows[self.global_rank] or (0,)
        vectors = embed_rows(self.embedder, [batch.token_ids[row] for row in own], **options)
        vectors = vectors[: shares.counts[self.global_rank]]
        return shares.to_batch_order(gather_vectors(vectors, shares.counts))

    @property
    def _tokens_per_pack(self) -> int:
        return self.tokens_per_pack or default_pack_tokens(self.device, training=True)

    def _anchors_to_score(self, num_anchors: int) -> tuple[int, int]:
        """Returns which anchors this rank scores against all candidates: [first, last)."""
        world_size = self.layout.world_size
        first, last = ((self.global_rank + i) * num_anchors // world_size for i in range(2))
        return first, last

    def configure_model(self) -> None:
        """Does nothing: weights that are spread over ranks were so while they were loaded."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns AdamW over the trainable weights with warm-up and decay per step."""
        config = self.config
        optimizer = torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(config.adam_betas[0], config.adam_betas[1]),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            # Lightning clips no gradients for a fused optimizer under autocast.
            fused=config.precision.endswith("-true") or config.gradient_clip_norm == 0,
        )
        schedule = get_scheduler(
            config.lr_schedule,
            optimizer,
            num_warmup_steps=min(config.warmup_steps, self.total_steps // 10),
            num_training_steps=self.total_steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: ContrastiveBatch, device: torch.device, dataloader_idx: int
    ) -> ContrastiveBatch:
        """Returns the batch as it is: it holds lists, and packs move when they are made."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only the trainable weights in a checkpoint, and says how the run is spread.

        Raises:
            NonFiniteError: A weight is not finite; the checkpoints before this one stay.
        """
        trainable = {name for name, _ in trainable_parameters(self)}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {n: value for n, value in state.items() if n in trainable}
        checkpoint["layout"] = asdict(self.layout)
        # Not all ranks have the weights, but all come by here.
        if any_rank(not all(value.isfinite().all() for value in checkpoint["state_dict"].values())):
            raise NonFiniteError(
                f"weights are NaN or infinite after step {self.global_step}: training has "
                "diverged, and no checkpoint of it is written. Lower trainer.learning_rate, or use "
                "more bits in trainer.precision and model.dtype, under another run_name"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint whose trainable weights are not exactly this module's."""
        expected = {name: full_shape(value) for name, value in trainable_parameters(self)}
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        if expected != found:
            raise CheckpointError(
                f"the checkpoint has {len(found)} trainable weights, the model {len(expected)}, "
                "and they differ; it belongs to another adapter configuration"
            )
