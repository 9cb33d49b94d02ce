"""Classifiers on frozen vectors, with which the transfer tasks are scored."""
