"""Training: settings, trainer, optimizer and schedule, EMA, checkpoints, and the run folder."""
