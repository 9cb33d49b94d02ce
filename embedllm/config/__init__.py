"""The typed configuration: `groups` (the options), `commands` (the roots), `fingerprint`."""

from embedllm.config.commands import EvaluateConfig, LayersConfig, SearchConfig, TrainConfig
from embedllm.config.console import ConsoleConfig
from embedllm.config.demo import DemoConfig
from embedllm.config.demonstrations import (
    DefinitionsConfig,
    DemonstrationsConfig,
    EndpointConfig,
)
from embedllm.config.encode import EncodeConfig
from embedllm.config.export import ExportConfig
from embedllm.config.fingerprint import (
    describe_differences,
    fingerprint,
    flatten,
    is_in_identity,
    training_identity,
    training_identity_of,
)
from embedllm.config.groups import (
    CLEAN_UPS,
    POOL_OVER,
    POOLINGS,
    AdapterConfig,
    ColumnsConfig,
    DataConfig,
    DemonstrationConfig,
    EvaluationConfig,
    HalvingConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    PathsConfig,
    ProbeConfig,
    PromptConfig,
    StrategyConfig,
    TrainerConfig,
)
from embedllm.config.plan import HardwareConfig, PlanConfig, PlanOptionsConfig
from embedllm.config.profile import ProfileConfig, ProfileOptionsConfig
from embedllm.config.report import ReportConfig
from embedllm.config.results import ResultFilterConfig, ResultsConfig

__all__ = [
    "CLEAN_UPS",
    "POOLINGS",
    "POOL_OVER",
    "AdapterConfig",
    "ColumnsConfig",
    "ConsoleConfig",
    "DataConfig",
    "DefinitionsConfig",
    "DemoConfig",
    "DemonstrationConfig",
    "DemonstrationsConfig",
    "EncodeConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "ExportConfig",
    "HalvingConfig",
    "HardwareConfig",
    "LayersConfig",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "PathsConfig",
    "PlanConfig",
    "PlanOptionsConfig",
    "ProbeConfig",
    "ProfileConfig",
    "ProfileOptionsConfig",
    "PromptConfig",
    "ReportConfig",
    "ResultFilterConfig",
    "ResultsConfig",
    "SearchConfig",
    "StrategyConfig",
    "TrainConfig",
    "TrainerConfig",
    "describe_differences",
    "fingerprint",
    "flatten",
    "is_in_identity",
    "training_identity",
    "training_identity_of",
]
