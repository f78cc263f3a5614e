"""Run timm's own tests/test_models.py with `seresnet.create_model` in place of timm's, for every shared name.

The file is in timm's source distribution, not in its wheel:

    pip download --no-deps --no-binary timm timm==1.0.31 && tar xzf timm-1.0.31.tar.gz
    python benchmarks/timm_tests.py timm-1.0.31/tests/test_models.py --outcomes outcomes.jsonl [pytest arguments]

Each test's outcome is written to ``--outcomes`` as soon as it is known; a second run with the same file runs what is
missing, and prints the table of all. The tests that download pretrained weights are left out. No GPU is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import seresnet
from seresnet.models.variants import VARIANTS
from tests.timm_import import timm

DOWNLOADS = ("test_model_load_pretrained", "test_model_features_pretrained", "test_model_inference")


class Ours:
    """A pytest plugin: gives the file our ``create_model``, keeps the tests of shared names, writes outcomes."""

    def __init__(self, outcomes: Path) -> None:
        timm.create_model = seresnet.create_model  # before the file imports it
        self.outcomes = outcomes
        self.known = read_outcomes(outcomes)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what concerns a network of this package, needs no download and has not run yet."""
        kept = [item for item in items if self.concerns(item) and item.name not in self.known]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = sorted(kept, key=self.blocks)

    @staticmethod
    def blocks(item: Any) -> int:
        """Return the number of blocks of a test's network: small ones run first, every test of them."""
        return sum(VARIANTS[item.callspec.params["model_name"].partition(".")[0]].layers)

    @staticmethod
    def concerns(item: Any) -> bool:
        """Return whether a test is of a name that both packages have."""
        name = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
        shared = bool(name) and str(name).partition(".")[0] in VARIANTS
        return shared and not any(fnmatch(item.name, f"{test}*") for test in DOWNLOADS)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the outcome of a test that ran, or was skipped or failed before it could."""
        if report.when != "call" and report.outcome == "passed":
            return
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext[-300:]
        line = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "reason": reason}
        with self.outcomes.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_outcomes(path: Path) -> dict[str, dict[str, str]]:
    """Return the outcome of each test by its name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """Return the counts of outcomes for each test function, as a Markdown table."""
    counts = Counter((test.partition("[")[0], line["outcome"]) for test, line in outcomes.items())
    kinds = ("passed", "failed", "skipped")
    rows = [[test, *(counts[test, kind] for kind in kinds)] for test in sorted({test for test, _ in counts})]
    rows.append(["all", *(sum(row[i] for row in rows) for i in (1, 2, 3))])  # type: ignore[misc]
    lines = [f"| test | {' | '.join(kinds)} |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="timm's tests/test_models.py")
    parser.add_argument("--outcomes", type=Path, default=Path("timm-outcomes.jsonl"))
    options, others = parser.parse_known_args()
    arguments = ["-p", "no:cacheprovider", "-q", "-W", "ignore", "-c", "/dev/null", "--noconftest"]
    code = pytest.main([*arguments, "--import-mode=importlib", options.file, *others], plugins=[Ours(options.outcomes)])
    print(table(read_outcomes(options.outcomes)))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


if __name__ == "__main__":
    sys.exit(main())
