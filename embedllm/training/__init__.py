"""Everything above, wired into a run: module, callbacks, checkpoints, runner."""
