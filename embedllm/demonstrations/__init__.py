"""Demonstrations: sets of them, how new ones are made, and the search for the best one."""
