"""Tools that work on timm's networks, on ours: each check in a process of its own, with a table of what was compared.

    pip install --target site --no-deps peft captum lightning pytorch-lightning lightning-utilities transformers \\
        tokenizers fastai fastcore "fastprogress<1.1" fastdownload fasttransform plum-dispatch beartype requests \\
        segmentation-models-pytorch
    PYTHONPATH=site python benchmarks/ecosystem.py [names] [--timm-scripts DIR] [--record FILE.md]

``--timm-scripts`` is a folder with train.py, validate.py and inference.py of timm's repository. Checks whose packages
are missing are listed as not run. All run on the CPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import traceback
import warnings
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from seresnet.common.machine import described_processor

CHECKS = {
    "lora": "peft",
    "captum": "captum",
    "lightning": "lightning",
    "trainer": "transformers",
    "fastai": "fastai",
    "smp": "segmentation-models-pytorch",
    "accelerate": "accelerate",
    "ddp": "torch",
    "sync_batch_norm": "torch",
    "compile": "torch",
    "timm_parts": "timm",
    "timm_train": "timm",
    "timm_validate": "timm",
    "timm_inference": "timm",
}


def run(name: str, seconds: int) -> dict[str, str]:
    """Run a check in a process of its own; return its row."""
    package = CHECKS[name]
    try:
        row = {"check": name, "package": package, "version": metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {"check": name, "package": package, "version": "-", "compared": "-", "result": "not run: not installed"}
    command = [sys.executable, __file__, "--run", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {**row, "compared": "-", "result": f"**failed**: more than {seconds} seconds"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(done.stderr[-3000:], file=sys.stderr)
        return {**row, "compared": "-", "result": f"**failed**: {last[:200]}"}
    return {**row, **json.loads(lines[-1])}


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a Markdown table."""
    keys = ("check", "package", "version", "compared", "result")
    lines = [f"| {' | '.join(keys)} |", "| " + " | ".join("---" for _ in keys) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row[key] for key in keys) + " |" for row in rows)])


def heading() -> str:
    """Return the record's title, and what it was measured on."""
    today = datetime.datetime.now(datetime.UTC).date()
    versions = f"Python {sys.version.split()[0]}, torch {metadata.version('torch')}, timm {metadata.version('timm')}"
    return (
        f"# Tools of the ecosystem, {today}\n\n`python benchmarks/ecosystem.py` on {described_processor()}; "
        f"{versions}; no GPU. Each check is a function in `benchmarks/ecosystem_*.py`, runs in a process of its own, "
        "and fails on an assertion; the numbers are what it measured.\n\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CHECKS, []], help="checks to run; all by default")
    parser.add_argument("--timm-scripts", type=Path, help="folder of timm's train.py, validate.py and inference.py")
    parser.add_argument("--record", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for each check")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run_here(options.run)
    if options.timm_scripts:
        os.environ["TIMM_SCRIPTS"] = str(options.timm_scripts.absolute())
    rows = []
    for name in options.names or CHECKS:
        rows.append(run(name, options.timeout))
        print(" | ".join(rows[-1].values()), flush=True)
    if options.record:
        options.record.write_text(heading() + table(rows) + "\n")
    return int(any("failed" in row["result"] for row in rows))


def run_here(name: str) -> int:
    """Run a check in this process; print what it compared and its result as JSON."""
    warnings.filterwarnings("ignore")
    import ecosystem_checks
    import ecosystem_timm
    import ecosystem_torch

    check = next(getattr(m, name) for m in (ecosystem_checks, ecosystem_torch, ecosystem_timm) if hasattr(m, name))
    try:
        compared, result = check()
    except ecosystem_timm.NotRun as reason:
        compared, result = "-", f"not run: {reason}"
    except Exception:
        traceback.print_exc()
        return 1
    print(json.dumps({"compared": compared, "result": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
