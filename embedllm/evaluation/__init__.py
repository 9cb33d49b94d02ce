"""Evaluation: from an encoder and the files of a task to scores and tables."""
