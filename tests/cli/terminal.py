"""The real command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def seresnet(*arguments: str | Path, stdin: bytes = b"", **settings: object) -> subprocess.CompletedProcess[bytes]:
    """Run ``seresnet`` and return its exit code, stdout and stderr, as bytes."""
    command = [sys.executable, "-m", "seresnet", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env=ENVIRONMENT, timeout=120, **settings)  # type: ignore[call-overload]


def python(code: str) -> str:
    """Run a piece of Python in a fresh interpreter, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=120
    ).stdout
