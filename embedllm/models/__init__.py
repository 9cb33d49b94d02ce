"""Token ids to embeddings: backbone, adapters, pooling, encoder."""
