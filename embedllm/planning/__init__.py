"""Configuration to estimates: parameters, memory, operations, and what fits on which hardware."""
