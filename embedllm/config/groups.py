"""The config groups: one dataclass for each folder of `conf/` that holds options.

Hydra merges `conf/` and the command line into these dataclasses, so an unknown key or a wrong
type fails while composing. Ranges and combinations are checked in `__post_init__`, before any
file is read or any weight is loaded. Keys equal field names: `TrainerConfig.max_steps` is
`trainer.max_steps`. Classes are not frozen because OmegaConf would make their keys read-only
and refuse command-line overrides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from embedllm.config.checks import at_least, one_of
from embedllm.errors import ConfigError

DTYPES = ("auto", "float32", "bfloat16", "float16")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
ON_NAN = ("stop", "skip")
POOLINGS = ("last", "mean", "weighted_mean")
CLEAN_UPS = ("paper", "none")
POOL_OVER = ("prompt", "sentence")
PROTOCOLS = ("paper", "mteb")
PROBES = ("logistic", "senteval")
LR_SCHEDULES = ("linear", "cosine", "constant_with_warmup")
ACTIVATION_CHECKPOINTING = ("none", "packs", "layers", "all")
DROPOUT_BY = ("auto", "token", "pack")
ACCELERATORS = ("auto", "cpu", "gpu")
QUANTIZATIONS = ("none", "nf4", "int8")
STRATEGIES = ("single", "ddp", "deepspeed", "fsdp2", "auto")
OFFLOADS = ("none", "cpu", "nvme")


@dataclass
class ModelConfig:
    """The backbone and how one vector is read from it."""

    name: str = MISSING
    """Hugging Face name or local folder of a causal language model."""
    revision: str | None = None
    """Branch, tag or commit on the hub; default the main branch."""
    init: str = "pretrained"
    """`pretrained`, or `random` to build the architecture below with random weights, no hub."""
    init_seed: int = 0
    """Seed of `init=random`."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Arguments of the transformers config class (with `model_type`), for `init=random`."""
    gguf_package: str | None = None
    """Python package that carries the model as a GGUF file; converted once into the cache."""
    tokenizer: str | None = None
    """Tokenizer name or folder, default `name`; `bundled` is a small BPE made from sample text."""
    dtype: str = "auto"
    """Type of the weights; `auto` is bfloat16 on CUDA devices that have it, float32 elsewhere."""
    quantization: str = "none"
    """`nf4` (4 bits, double quantisation) or `int8` for the frozen base, by bitsandbytes. Norms,
    embeddings and adapter keep their type, and products are computed in `dtype`."""
    pooling: str = "last"
    """`last` real token (PromptEOL), `mean` over real tokens, or `weighted_mean` (later = more)."""
    layer: int = -1
    """Index into the hidden-state tuple: -1 is the model's output, k the output of layer k."""
    token_prepending_layers: int = 0
    """Token Prepending: so many layers after the first start with the sentence's state so far in
    the `{prepended}` slot of the template; 0 turns it off."""
    normalize: bool = False
    """Divide vectors by their length; the paper does not (paper_method 1, step 4)."""
    trust_remote_code: bool = False
    """Let the model's repository run its own Python code. Off unless asked for."""

    def __post_init__(self) -> None:
        one_of("model.init", self.init, ("pretrained", "random"))
        at_least("model.init_seed", self.init_seed, 0)
        one_of("model.dtype", self.dtype, DTYPES)
        one_of("model.quantization", self.quantization, QUANTIZATIONS)
        one_of("model.pooling", self.pooling, POOLINGS)
        at_least("model.token_prepending_layers", self.token_prepending_layers, 0)
        if self.layer == 0:
            raise ConfigError(
                "model.layer=0 is the embedding table, which knows no context; "
                "use -1 (output), 1 (first layer) and so on"
            )
        if self.init == "random" and "model_type" not in self.architecture:
            raise ConfigError(
                "model.init=random needs model.architecture with a model_type; the files "
                "conf/model/opt-*.yaml, llama-*.yaml and tiny.yaml have one"
            )


@dataclass
class AdapterConfig:
    """What is trained: a peft adapter, every weight, or nothing."""

    method: str = "lora"
    """`none`, `full` (all weights), or a peft method in lower case: lora, ia3, vera, loha, ..."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of peft's config class for the method, under peft's own names."""


@dataclass
class DemonstrationConfig:
    """One example put in front of the query (paper_method 2)."""

    sentence: str = MISSING
    """The example sentence, verbatim."""
    word: str = MISSING
    """The word that the model is shown as its meaning."""
    source: str | None = None
    """Where the sentence comes from; for readers, without effect."""


@dataclass
class PromptConfig:
    """Text around the sentence. The same for training, evaluation, encoding and export."""

    template: str = MISSING
    """Literal text with `{sentence}` where the sentence goes; `{{` and `}}` are braces."""
    more_templates: list[str] = field(default_factory=list)
    """Further templates; the vector of a sentence is the mean over all of them (MetaEOL)."""
    demonstrations: list[DemonstrationConfig] = field(default_factory=list)
    """Examples in front of the query, in this order."""
    demonstration_end: str = '".'
    """What follows a demonstration's word (paper_method 1.1: a quote, a full stop, no space)."""
    pool_over: str = "prompt"
    """Tokens that pooling sees: the whole `prompt`, or the last copy of the `sentence` in it."""
    clean_up: str = "paper"
    """Sentence clean-up in evaluation and use: `paper` (paper_method 1.2) or `none`."""
    training_clean_up: str | None = None
    """Clean-up in training; default the same. The reference trains with `none`."""
    max_sentence_tokens: int | None = 32
    """Training cuts the sentence, never the template, to this many tokens; null for no cut."""
    evaluation_max_sentence_tokens: int | None = None
    """The same cut in evaluation and use; the paper has none."""

    def __post_init__(self) -> None:
        one_of("prompt.pool_over", self.pool_over, POOL_OVER)
        one_of("prompt.clean_up", self.clean_up, CLEAN_UPS)
        if self.training_clean_up is not None:
            one_of("prompt.training_clean_up", self.training_clean_up, CLEAN_UPS)
        at_least("prompt.max_sentence_tokens", self.max_sentence_tokens, 1)
        at_least("prompt.evaluation_max_sentence_tokens", self.evaluation_max_sentence_tokens, 1)


@dataclass
class ColumnsConfig:
    """Column names of the training file; null means: recognise SimCSE's and all-nli's."""

    anchor: str | None = None
    """Column of the anchor (premise, query)."""
    positive: str | None = None
    """Column of the positive (entailed sentence)."""
    negatives: list[str] | None = None
    """Columns of the hard negatives; an empty list trains on pairs."""


@dataclass
class DataConfig:
    """The training examples and how they are batched."""

    source: str = "path"
    """`sample` (synthetic triplets of this package) or `path`."""
    path: str | None = None
    """CSV, TSV, JSONL or Parquet file, or the name of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset, for example `triplet` of sentence-transformers/all-nli."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Which column is what."""
    on_bad_row: str = "fail"
    """`fail`, or `skip` to leave out rows with missing or empty fields and report them."""
    max_examples: int | None = None
    """Use only the first so many examples of the seeded shuffle; null for all."""
    global_batch_size: int = 16
    """Examples per optimizer step; divided by the accumulation steps it is the contrastive batch,
    from which the in-batch negatives come."""
    drop_last: bool = False
    """Leave out the last, smaller batch of an epoch."""
    tokens_per_pack: int | None = None
    """Padded tokens per forward pass within a step, where rows of similar length share one;
    default by device (1,024 on a CPU, 16,384 on a GPU)."""

    def __post_init__(self) -> None:
        one_of("data.source", self.source, ("sample", "path"))
        one_of("data.on_bad_row", self.on_bad_row, ("fail", "skip"))
        at_least("data.global_batch_size", self.global_batch_size, 2)
        at_least("data.max_examples", self.max_examples, 2)
        at_least("data.tokens_per_pack", self.tokens_per_pack, 1)
        if self.source == "path" and not self.path:
            raise ConfigError(
                "data.path is not set: give data.path=FILE_OR_HUB_NAME (data=nli also finds "
                "nli/nli_triplets.csv under EMBEDLLM_DATA_DIR), or use data=sample"
            )


@dataclass
class LossConfig:
    """Contrastive loss (paper_method 3.2)."""

    temperature: float = 0.05
    """Divides the cosines. The paper prints 0.5, its code has 0.05."""
    hard_negative_weight: float = 0.0
    """Added to the logit of an anchor's own hard negative; 0 leaves it as one candidate."""

    def __post_init__(self) -> None:
        at_least("loss.temperature", self.temperature, 0, strictly=True)


@dataclass
class TrainerConfig:
    """Optimisation, precision and saving."""

    max_epochs: int = 1
    """Passes over the data."""
    max_steps: int | None = None
    """Optimizer steps; ends training before max_epochs does, and sets the schedule's length."""
    learning_rate: float = 5e-4
    """Peak of the schedule (paper_method 3.4)."""
    lr_schedule: str = "linear"
    """Decay after the warm-up."""
    warmup_steps: int = 100
    """Optimizer steps of linear warm-up; at most a tenth of the run is used."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW betas."""
    adam_epsilon: float = 1e-8
    """AdamW epsilon."""
    gradient_clip_norm: float = 1.0
    """Largest norm of all gradients together; 0 turns clipping off."""
    accumulate_grad_batches: int = 1
    """Micro-batches per optimizer step. Each has only its own in-batch negatives."""
    precision: str = "32-true"
    """Lightning precision of training."""
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu."""
    devices: int = 1
    """Processes on each machine, one for each GPU. More than one needs `strategy=ddp` or another
    that spreads the work; torchrun and srun set it by themselves."""
    num_nodes: int = 1
    """Machines. More than one needs torchrun or srun to start the processes."""
    share_prefix: bool = True
    """Compute what texts of a batch begin with alike (the template, demonstrations) once, and its
    gradient too. The same numbers; dropout by `pack` has one draw for a shared part instead of one
    for each text."""
    dropout_by: str = "auto"
    """What dropout draws by: `token`, so that the numbers do not depend on packing, sharing or the
    number of processes; `pack`, from torch's generator, which is faster on GPUs; `auto` is `token`
    on a CPU and `pack` on a GPU."""
    activation_checkpointing: str = "none"
    """States that are computed again in the backward pass instead of kept: `none`; `packs`, whose
    memory does not grow with the batch; `layers`, for models whose single pack is too large; or
    `all`. The same numbers for a third (full training) to a half (LoRA) more time."""
    log_every_n_steps: int = 5
    """Distance of log lines, in optimizer steps."""
    checkpoint_every_n_steps: int = 20
    """Distance of resume points, in optimizer steps."""
    on_nan: str = "stop"
    """What a loss or gradient that is NaN or infinite does: `stop` ends the run; `skip` leaves the
    optimizer step out, on all ranks, and ends the run at the fifth in a row. Either way the batch
    is kept in `nonfinite/` of the run folder and no weight takes the step."""

    def __post_init__(self) -> None:
        one_of("trainer.precision", self.precision, PRECISIONS)
        one_of("trainer.lr_schedule", self.lr_schedule, LR_SCHEDULES)
        one_of("trainer.accelerator", self.accelerator, ACCELERATORS)
        one_of("trainer.dropout_by", self.dropout_by, DROPOUT_BY)
        one_of("trainer.on_nan", self.on_nan, ON_NAN)
        one_of(
            "trainer.activation_checkpointing",
            self.activation_checkpointing,
            ACTIVATION_CHECKPOINTING,
        )
        at_least("trainer.devices", self.devices, 1)
        at_least("trainer.num_nodes", self.num_nodes, 1)
        at_least("trainer.max_epochs", self.max_epochs, 1)
        at_least("trainer.max_steps", self.max_steps, 1)
        at_least("trainer.learning_rate", self.learning_rate, 0, strictly=True)
        at_least("trainer.warmup_steps", self.warmup_steps, 0)
        at_least("trainer.weight_decay", self.weight_decay, 0)
        at_least("trainer.adam_epsilon", self.adam_epsilon, 0, strictly=True)
        at_least("trainer.gradient_clip_norm", self.gradient_clip_norm, 0)
        at_least("trainer.accumulate_grad_batches", self.accumulate_grad_batches, 1)
        at_least("trainer.log_every_n_steps", self.log_every_n_steps, 1)
        at_least("trainer.checkpoint_every_n_steps", self.checkpoint_every_n_steps, 1)
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ConfigError(
                f"trainer.adam_betas={self.adam_betas} is out of range; it must be two numbers "
                "from 0 to below 1"
            )


@dataclass
class StrategyConfig:
    """How the work, and the model, are spread over processes."""

    name: str = "single"
    """`single`: one process; `ddp`: every process holds the model; `deepspeed`: ZeRO; `fsdp2`:
    torch's sharding of the model; `auto`: the fastest that fits, as the planner finds it."""
    stage: int | None = None
    """ZeRO stage: 1 shards the optimizer's state, 2 the gradients too, 3 the weights too."""
    offload: str = "none"
    """`cpu` keeps the optimizer's state (and with stage 3 the weights) in host memory, `nvme` the
    same on a disk (stage 3 alone)."""
    nvme_path: str | None = None
    """Folder on that disk."""
    timeout_seconds: int = 600
    """How long a process waits for the others before it ends with a message."""

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)
        one_of("strategy.offload", self.offload, OFFLOADS)
        at_least("strategy.timeout_seconds", self.timeout_seconds, 1)
        if self.name != "deepspeed":
            if self.stage is not None or self.offload != "none":
                raise ConfigError(
                    f"strategy.stage and strategy.offload belong to DeepSpeed, not to "
                    f"strategy.name={self.name}; use strategy=deepspeed_zero1, deepspeed_zero2, "
                    "deepspeed_zero3, deepspeed_zero2_offload or deepspeed_zero3_offload"
                )
            return
        if self.stage not in (1, 2, 3):
            raise ConfigError(f"strategy.stage={self.stage} is not a ZeRO stage; use 1, 2 or 3")
        if self.offload != "none" and self.stage < 2:
            raise ConfigError("strategy.offload needs strategy.stage=2 or 3")
        if self.offload == "nvme" and (self.stage != 3 or not self.nvme_path):
            raise ConfigError(
                "strategy.offload=nvme needs strategy.stage=3 and strategy.nvme_path=FOLDER"
            )

    @property
    def shards_weights(self) -> bool:
        """Whether a process holds a part of the weights alone."""
        return self.name == "fsdp2" or self.stage == 3

    @property
    def title(self) -> str:
        """Name for people: `deepspeed_zero3_offload`."""
        if self.name != "deepspeed":
            return self.name
        suffix = {"none": "", "cpu": "_offload", "nvme": "_nvme"}[self.offload]
        return f"deepspeed_zero{self.stage}{suffix}"


@dataclass
class LoggerConfig:
    """Where metrics go besides the console and the CSV file, which are always written."""

    wandb: bool = False
    """Log to Weights & Biases: online with an API key, offline otherwise."""
    project: str = "embedllm"
    """W&B project."""
    group: str | None = None
    """W&B group, default the sweep."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    save_adapter: bool = False
    """Upload the best adapter too, as an artifact."""
    timeout_seconds: int = 30
    """How long W&B may take to answer before the run goes on offline, and how long a finished run
    waits for it."""

    def __post_init__(self) -> None:
        at_least("logger.timeout_seconds", self.timeout_seconds, 1)


@dataclass
class EvaluationConfig:
    """What is scored, and how."""

    tasks: list[str] = field(default_factory=list)
    """Tasks scored before and after training, and by evaluate.py."""
    dev_task: str | None = None
    """Task scored while training; the best adapter by it is kept."""
    dev_every_n_steps: int = 20
    """Distance of these scores, in optimizer steps; the last step always has one."""
    before: bool = True
    """Score the model before training too."""
    data_dir: str | None = None
    """Folder with `senteval/` or `sts/`; default the environment variable EMBEDLLM_DATA_DIR."""
    layout: str = "auto"
    """`senteval`, `jsonl`, or `auto` (the first of these that exists)."""
    verify: str = "strict"
    """`strict`: counts and checksums must match; `counts`: other texts are scored and marked."""
    protocol: str = "paper"
    """`paper`: one Spearman over all subsets of a year; `mteb`: the mean over the subsets. MTEB's
    own STS12-16 have one subset each, so its scores equal `paper` there."""
    cache_vectors: bool = True
    """Keep vectors on disk (paths.cache_dir), so that no sentence is encoded twice."""
    share_prefix: bool = True
    """Compute what prompts begin with alike once (what all share, and what some do), where the
    model allows it. Vectors stay the same to rounding."""
    tokens_per_batch: int | None = None
    """Padded tokens per forward pass; default by device (4,096 on a CPU, 32,768 on a GPU)."""

    def __post_init__(self) -> None:
        one_of("evaluation.layout", self.layout, ("auto", "senteval", "jsonl"))
        one_of("evaluation.verify", self.verify, ("strict", "counts"))
        if self.protocol == "mean":
            raise ConfigError("evaluation.protocol=mean is now called mteb")
        one_of("evaluation.protocol", self.protocol, PROTOCOLS)
        at_least("evaluation.dev_every_n_steps", self.dev_every_n_steps, 1)
        at_least("evaluation.tokens_per_batch", self.tokens_per_batch, 1)


@dataclass
class ProbeConfig:
    """The classifier of the transfer tasks, on frozen vectors (paper_method 4)."""

    name: str = "logistic"
    """`logistic`: scikit-learn's, deterministic; `senteval`: the reference's, with its noise."""
    num_folds: int = 10
    """Folds of the tasks without a given split, and of the choice of penalty elsewhere."""

    def __post_init__(self) -> None:
        one_of("probe.name", self.name, PROBES)
        at_least("probe.num_folds", self.num_folds, 2)


@dataclass
class HalvingConfig:
    """Successive halving: every candidate on few pairs, the best ones on more."""

    rungs: list[int] = field(default_factory=lambda: [100, 250, 600, 1500])
    """Pairs that a candidate has been scored on at the end of each rung; the last is all."""
    keep: list[int] = field(default_factory=lambda: [90, 30, 10])
    """Candidates that go on from each rung but the last."""
    max_candidates: int | None = None
    """Use only so many candidates, drawn with `seed`; a larger number draws the same and more."""

    def __post_init__(self) -> None:
        at_least("search.max_candidates", self.max_candidates, 1)
        if len(self.keep) != len(self.rungs) - 1:
            raise ConfigError(
                f"search.keep={self.keep} must have one number less than "
                f"search.rungs={self.rungs}: how many candidates go on from each but the last"
            )
        for key, values in (("rungs", self.rungs), ("keep", self.keep[::-1])):
            is_growing = all(a < b for a, b in pairwise(values))
            if not is_growing or min(values, default=1) < 1:
                order = "grow" if key == "rungs" else "shrink"
                raise ConfigError(
                    f"search.{key} must be positive and {order}: {getattr(self, key)}"
                )
        if not self.rungs or self.rungs[0] < 2:
            raise ConfigError(f"search.rungs={self.rungs} must start with at least 2 pairs")


@dataclass
class PathsConfig:
    """Folders."""

    output_dir: str = "outputs"
    """Run folders go here."""
    results_dir: str = "results"
    """The results store: one JSON file for each finished evaluation."""
    cache_dir: str = MISSING
    """Converted models, vectors and token ids; EMBEDLLM_CACHE_DIR, default ~/.cache/embedllm."""
