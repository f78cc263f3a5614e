"""The real command, in a process of its own or, where that shows nothing more, within this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from seresnet.cli import run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def seresnet(*arguments: str | Path, stdin: bytes = b"", encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """Run ``seresnet`` at a terminal of an encoding; return its exit code, stdout and stderr, as bytes."""
    command = [sys.executable, "-m", "seresnet", *map(str, arguments)]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=120)


def python(code: str) -> str:
    """Run a piece of Python in a fresh interpreter, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=120
    ).stdout


def here(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``seresnet`` in this process, and return its exit code and what it printed, as bytes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch("sys.stdin", given):
        code = run([*map(str, arguments)])
        out.flush(), err.flush()
    return subprocess.CompletedProcess([], code, out.buffer.getvalue(), err.buffer.getvalue())
