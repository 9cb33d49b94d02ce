"""Embeddings to a scalar: one loss per file, no model, no trainer."""
