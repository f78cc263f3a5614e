"""Runs that are killed, cut short by a signal or stopped by a full disk end like one that was not, to the last bit."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_few_deaths_of_each_kind():
    """The long ones, and more of them, are the script's own default."""
    command = [sys.executable, "benchmarks/resume_trust.py", "--kills", "2", "--writes", "2", "--disks", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 failures" in done.stdout
