"""How the work and the model are spread over processes: Lightning's strategies, made exact.

Whatever the strategy, a checkpoint is one file with the whole trainable weights and the whole state
of the optimizer, so a run can go on with another strategy and another number of processes.
"""
