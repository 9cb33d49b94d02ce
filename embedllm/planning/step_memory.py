"""What a training step takes beside weights and the optimizer's state: states and gradients.

The engine's own code runs on fake tensors: the embedder on a pack of the real shape, in the type,
with the adapter and the checkpointing of the training. It runs with a few layers and with one more,
and what that one takes is taken for each of the others; what the pack keeps is taken for each of
the other packs. So no family, adapter or way of checkpointing needs a formula.

Along a pass memory changes evenly, layer by layer, so its peaks lie where passes begin and end.
They are kept for these moments separately, because another one may be the highest in a deep model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from embedllm.config import TrainConfig
from embedllm.losses.info_nce import InfoNCE
from embedllm.models.backbone import decoder_layers
from embedllm.models.checkpointing import checkpoint_layers
from embedllm.models.embed_rows import embed_packs
from embedllm.models.embedder import Embedder
from embedllm.models.prefix import Prefix, compute_prefix, supports_prefix
from embedllm.models.token_draws import TokenDraws
from embedllm.models.trials import runs_early
from embedllm.planning.fake_model import FakeModel
from embedllm.planning.live_memory import LiveMemory, Moment
from embedllm.planning.stand_ins import bare_hashes, cuda_kernels, use_stand_ins
from embedllm.planning.workload import Workload

# The gradient of a table of embeddings: zeros but for the rows of the tokens at hand. On a CPU such
# memory is taken page by page when something is written.
_SPARSELY_WRITTEN: Final = {
    "cpu": (torch.ops.aten.embedding_dense_backward.default,),
    "cuda": (),
}
_FORWARD, _TURN = "forward", "turn"
_TOP, _MIDDLE, _BOTTOM = "top", "middle", "bottom"


@dataclass(frozen=True)
class StepMemory:
    """Bytes of what a step makes: states, temporaries and gradients.

    Attributes:
        peak: The most that lives at once when gradients stay until the optimizer has used them.
        peak_without_gradients: The same without every gradient that is complete, or that waits for
            what other packs add to it.
        kept: What lives between the forward and the backward pass.
        waiting: What of that lives while one pack's pass goes on: the other packs' states.
        handover: The most that lives, with the gradients that wait, in the last pack's pass; these
            are no one's until all packs' are added. 0 for one pack.
    """

    peak: int
    peak_without_gradients: int
    kept: int
    waiting: int = 0
    handover: int = 0


@dataclass(frozen=True)
class StepSetting:
    """A step to look at.

    Attributes:
        model: The model; its type and adapter are those of the training.
        config: The training.
        workload: What the process computes.
        kind: Kind of the devices.
        quantization: How the frozen matrices are kept.
        checkpointing: `trainer.activation_checkpointing`.
        reads_early: Whether the last layer runs at the pooled places alone.
    """

    model: FakeModel
    config: TrainConfig
    workload: Workload
    kind: str
    quantization: str = "none"
    checkpointing: str = "none"
    reads_early: bool = False


@dataclass(frozen=True)
class _Run:
    """What a step of one pack showed, in bytes.

    Attributes:
        peaks: The two peaks of every moment.
        kept: What lived between the forward and the backward pass.
    """

    peaks: Mapping[Moment, tuple[int, int]]
    kept: int


class StepEstimator:
    """Estimates steps of one training; what was run once is not run again.

    Args:
        config: The training.
        kind: Kind of the devices.

    Attributes:
        model: The model, in the type and with the adapter of the training.

    Raises:
        ModelError: The model has no architecture and cannot be had.
        ConfigError: The adapter does not fit it.
    """

    def __init__(self, config: TrainConfig, *, kind: str) -> None:
        self.model = FakeModel(
            config.model,
            config.adapter,
            Path(config.paths.cache_dir),
            kind=kind,
            precision=config.trainer.precision,
        )
        self._config = config
        self._kind = kind
        self._runs: dict[Hashable, _Run] = {}
        self._losses: dict[tuple[int, int], int] = {}

    def estimate(
        self, workload: Workload, *, quantization: str = "none", checkpointing: str = "none"
    ) -> StepMemory:
        """Returns what a step on one device takes.

        Args:
            workload: What the process computes.
            quantization: How the frozen matrices are kept.
            checkpointing: `trainer.activation_checkpointing`.
        """
        if quantization != "none" and checkpointing != "none":
            return self._with_quantized_layers(workload, quantization, checkpointing)
        setting = StepSetting(
            self.model,
            self._config,
            workload,
            self._kind,
            quantization,
            checkpointing,
            self._reads_early,
        )
        run, recomputes = self._run(setting), checkpointing in ("packs", "all")
        # The first pass over what all texts begin with is recorded, whatever packs do.
        recorded = "none" if checkpointing == "packs" else "layers"
        of_pack = run if not recomputes else self._run(replace(setting, checkpointing=recorded))
        num_tokens = [pack.tokens for pack in workload.packs]
        prefix = of_pack.kept * workload.prefix_tokens // num_tokens[0]
        others = run.kept * sum(num_tokens[1:]) // num_tokens[0]
        gradients = self.model.inventory.trainable.bytes
        loss = self._loss(workload)
        peaks = [(run.kept + gradients + loss, run.kept + loss)]
        handovers = [0]
        for (number, _), (everything, without) in run.peaks.items():
            if number and recomputes:
                # The gradients of packs before are one sum, which is handed over at the end.
                before = gradients if len(num_tokens) > 1 else 0
                peaks.append((everything + before, without))
                handovers.append(without + before)
                continue
            peaks.append((everything, without))
            if number and len(num_tokens) > 1:
                # The next pack finds the gradients of this one, but not its states.
                handovers.append(without + gradients - run.kept)
                peaks.append((handovers[-1], without))
        return StepMemory(
            peak=max(everything for everything, _ in peaks) + others + prefix,
            peak_without_gradients=max(without for _, without in peaks) + others + prefix,
            kept=run.kept + others + prefix,
            waiting=others + prefix,
            handover=max(handovers) + others + prefix if len(num_tokens) > 1 else 0,
        )

    def _with_quantized_layers(
        self, workload: Workload, quantization: str, checkpointing: str
    ) -> StepMemory:
        """Returns a step from one of plain layers, and from what quantised ones add to a pack.

        Running all ways of checkpointing again would take as long as everything else.
        """
        step = self.estimate(workload, checkpointing=checkpointing)
        one = replace(workload, packs=workload.packs[:1])
        plain, quantized = (self.estimate(one, quantization=q) for q in ("none", quantization))
        more = quantized.peak_without_gradients - plain.peak_without_gradients
        if checkpointing in ("layers", "all"):
            # One layer at a time has its states.
            kept = quantized.kept - plain.kept
            more -= kept - kept // self.model.inventory.num_layers
        return replace(
            step,
            peak=step.peak + more,
            peak_without_gradients=step.peak_without_gradients + more,
            handover=step.handover and step.handover + more,
        )

    @cached_property
    def _reads_early(self) -> bool:
        """Whether the last layer runs at the pooled places alone, found by trying.

        That the vectors are the same too is taken for granted: fake tensors have no numbers.
        """
        trunk = self.model.copy(self.model.runnable_layers[0])
        with self.model.faking():
            embedder = Embedder(trunk, pooling=self._config.model.pooling)
            is_last = embedder.pooling == "last" and embedder._takes_masks()
            return is_last and runs_early(embedder)

    def _loss(self, workload: Workload) -> int:
        """Returns what the loss and its gradient take, the vectors included."""
        shape = workload.num_anchors, workload.num_candidates
        if shape not in self._losses:
            size = self.model.inventory.vector_size
            with self.model.faking(), LiveMemory() as live:
                anchors, candidates = (torch.empty(n, size, requires_grad=True) for n in shape)
                InfoNCE()(anchors, candidates).loss.backward()
            self._losses[shape] = max(peak.everything for peak in live.peaks.values())
        return self._losses[shape]

    def _run(self, setting: StepSetting) -> _Run:
        """Returns the run of all layers."""
        work = setting.workload
        kind = (setting.quantization, setting.checkpointing)
        key = (work.packs[0], work.prefix_tokens, work.num_batches, *kind)
        if key not in self._runs:
            runs = {number: _run(setting, number) for number in self.model.runnable_layers}
            self._runs[key] = _draw_line(runs, self.model.inventory.num_layers)
        return self._runs[key]


def _draw_line(runs: Mapping[int, _Run], num_layers: int) -> _Run:
    """Returns the run of all layers from those of few."""
    if num_layers in runs:
        return runs[num_layers]
    (few, low), (more, high) = sorted(runs.items())

    def extend(a: int, b: int) -> int:
        return b + (num_layers - more) * (b - a) // (more - few)

    peaks = {
        moment: (extend(low.peaks[moment][0], peak[0]), extend(low.peaks[moment][1], peak[1]))
        for moment, peak in high.peaks.items()
        if moment[1] != _MIDDLE
    }
    return _Run(peaks, extend(low.kept, high.kept))


def _run(setting: StepSetting, num_layers: int) -> _Run:
    """Runs the forward and the backward pass of the first pack."""
    trunk = setting.model.copy(num_layers)
    with ExitStack() as stack:
        stack.enter_context(setting.model.faking())
        stack.enter_context(bare_hashes())
        embedder = _build_embedder(setting, trunk, num_layers)
        batch, prefix = setting.workload.packs[0].build(), _build_prefix(setting, trunk)
        live = stack.enter_context(LiveMemory(_SPARSELY_WRITTEN[setting.kind]))
        given = prefix.tensors if prefix is not None else []
        live.ignore(*embedder.parameters(), *embedder.buffers(), *given)
        if setting.kind == "cuda":
            stack.enter_context(cuda_kernels())
        _Moments(live).follow(decoder_layers(embedder.trunk)[2])
        trained = [p for p in embedder.parameters() if p.requires_grad]
        _keep_gradients(trained, live)
        live.enter((0, _FORWARD))
        with _autocast(setting.config.trainer.precision):
            draws = TokenDraws.new(torch.device("cpu")) if _draws_by_token(setting) else None
            recompute = setting.checkpointing in ("packs", "all")
            vectors = embed_packs(embedder, [batch], prefix, recompute=recompute, draws=draws)
        kept = live.live - sum(_bytes(p.grad) for p in trained)
        if setting.workload.num_batches == 1:
            for parameter in trained:
                parameter.grad = None
        live.enter((1, _TURN))
        (vectors * vectors).sum().backward()
        peaks = {m: (p.everything, p.without_kept) for m, p in live.peaks.items()}
        return _Run(peaks, kept)


def _build_embedder(setting: StepSetting, trunk: nn.Module, num_layers: int) -> Embedder:
    use_stand_ins(trunk, kind=setting.kind, quantization=setting.quantization)
    model = setting.config.model
    embedder = Embedder(
        trunk,
        pooling=model.pooling,
        layer=num_layers if setting.model.is_shortened else -1,
        normalize=model.normalize,
    )
    embedder.__dict__["_reads_early"] = setting.reads_early
    if _draws_by_token(setting):
        embedder.draw_by_token()
    if setting.checkpointing in ("layers", "all"):
        checkpoint_layers(trunk)
    return embedder.train()


def _draws_by_token(setting: StepSetting) -> bool:
    by = setting.config.trainer.dropout_by
    return by == "token" or (by == "auto" and setting.kind == "cpu")


def _build_prefix(setting: StepSetting, trunk: nn.Module) -> Prefix | None:
    """Returns keys and values of what all texts begin with, which came from elsewhere."""
    num_tokens = setting.workload.prefix_tokens
    if not num_tokens or not supports_prefix(trunk):
        return None
    with torch.no_grad():
        prefix = compute_prefix(trunk, [0] * num_tokens)
    return Prefix.of(num_tokens, [t.detach().requires_grad_() for t in prefix.tensors])


def _autocast(precision: str) -> AbstractContextManager[Any]:
    if not precision.endswith("-mixed"):
        return nullcontext()
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast("cpu", dtype=dtype)


def _keep_gradients(parameters: Sequence[nn.Parameter], live: LiveMemory) -> None:
    """Gives weights the gradients of a step before, and sets every complete gradient aside."""

    def keep(parameter: Tensor) -> None:
        assert parameter.grad is not None
        live.set_aside(parameter.grad)

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(keep)
        parameter.grad = torch.empty_like(parameter)
        keep(parameter)


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.itemsize


class _Moments:
    """Tells apart the passes through the layers, backwards, and where in them memory peaks."""

    def __init__(self, live: LiveMemory) -> None:
        self._live = live
        # The forward pass is number 0, and the backward pass begins as number 1.
        self._pass = 1
        self._place = -1

    def follow(self, layers: nn.ModuleList) -> None:
        """Follows gradients, and passes that are computed again for them."""
        self._num_layers = len(layers)
        layers[0].register_forward_pre_hook(self._begin)
        for place, layer in enumerate(layers):
            layer.register_forward_hook(lambda *call, place=place: self._hang(call[-1], place))

    def _begin(self, *call: object) -> None:
        # In the backward pass the graph's task has a number.
        if torch._C._current_graph_task_id() != -1:
            self._pass += 1
            self._place = self._num_layers
            self._live.enter((self._pass, _FORWARD))

    def _hang(self, output: Any, place: int) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if states.requires_grad:
            states.register_hook(lambda gradient: self._arrive(place))

    def _arrive(self, place: int) -> None:
        """A gradient came to what a layer returned."""
        if place > self._place:
            self._pass += 1
        self._place = place
        zone = _TOP if place >= self._num_layers - 2 else _BOTTOM if place == 0 else _MIDDLE
        self._live.enter((self._pass, zone))
