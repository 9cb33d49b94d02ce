"""Training data: files and hub datasets in, examples and batches out."""
