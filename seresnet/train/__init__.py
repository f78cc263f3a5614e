"""Training: settings, loop, optimizer and schedule, moving average, checkpoints, and the record of a run."""
