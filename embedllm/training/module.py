"""The Lightning module: encode, loss, log."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import get_scheduler

from embedllm.config import TrainerConfig
from embedllm.data.loader import ContrastiveBatch
from embedllm.errors import CheckpointError, ConfigError
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.adapters import trainable_state
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embedder import Embedder
from embedllm.models.packing import default_pack_tokens


class ContrastiveModule(pl.LightningModule):
    """Trains an embedder with a contrastive loss.

    Args:
        embedder: Trunk with what is to be trained.
        loss: The contrastive loss.
        trainer_config: Optimisation settings.
        total_steps: Optimizer steps of the run, which the schedule spans.
        tokens_per_pack: Padded tokens per forward pass; None for the device's default.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: InfoNCE,
        trainer_config: TrainerConfig,
        *,
        total_steps: int,
        tokens_per_pack: int | None,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = loss
        self.config = trainer_config
        self.total_steps = total_steps
        self.tokens_per_pack = tokens_per_pack
        self.mean_loss = MeanMetric()
        self.mean_accuracy = MeanMetric()
        self.num_negatives = 0
        # Checkpoints hold the trainable weights alone; the frozen base is loaded anew.
        self.strict_loading = False
        if trainer_config.activation_checkpointing in ("layers", "all"):
            checkpoint_layers(embedder.trunk)

    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        """Returns the loss of one contrastive batch, with gradient.

        Raises:
            ConfigError: The loss is not finite. Every later step and score would be worthless,
                and not visibly so: a rank correlation of NaNs is a number.
        """
        budget = self.tokens_per_pack or default_pack_tokens(self.device, training=True)
        vectors = self.embedder.embed_rows(
            batch.token_ids,
            max_tokens=budget,
            share_prefix=self.config.share_prefix,
            recompute=self.config.activation_checkpointing in ("packs", "all"),
        )
        anchors, positives, negatives = vectors.split(
            [batch.num_anchors, batch.num_anchors, len(batch.negative_owner)]
        )
        owner = torch.tensor(batch.negative_owner, device=self.device, dtype=torch.long)
        output = self.loss(anchors, positives, negatives if len(owner) else None, owner)
        if not torch.isfinite(output.loss):
            raise ConfigError(
                f"the loss is {output.loss.item()} at step {self.global_step + 1}: training has "
                "diverged. Lower trainer.learning_rate, or use more bits in trainer.precision and "
                "model.dtype; start under another run_name, for the weights are lost"
            )
        self.mean_loss.update(output.loss.detach(), weight=batch.num_anchors)
        self.mean_accuracy.update(output.accuracy, weight=batch.num_anchors)
        self.num_negatives = output.num_negatives
        return output.loss  # type: ignore[no-any-return]

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
        """Keeps only the trainable weights in a checkpoint."""
        checkpoint["state_dict"] = trainable_state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint whose trainable weights are not exactly this module's."""
        expected = {name: tuple(value.shape) for name, value in trainable_state(self).items()}
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        if expected != found:
            raise CheckpointError(
                f"the checkpoint has {len(found)} trainable weights, the model {len(expected)}, "
                "and they differ; it belongs to another adapter configuration"
            )
