"""What every other folder may use: files, the machine, timing, plots, progress, text."""
