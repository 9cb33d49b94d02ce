"""embedllm turns decoder LLMs into sentence embedders: prompt, contrastive LoRA, evaluation."""

__version__ = "0.1.0"
