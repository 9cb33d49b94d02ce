"""A page on which a model can be looked at."""
