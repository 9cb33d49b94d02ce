"""Files of any size to shards of vectors: `python -m embedllm encode`, and reading its output."""

from embedllm.encoding.reader import Shard, read_shards

__all__ = ["Shard", "read_shards"]
