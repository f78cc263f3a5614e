"""Run timm's own tests/test_models.py with `seresnet.create_model` in place of timm's, for every shared name.

The file is in timm's source distribution, not in its wheel:

    pip download --no-deps --no-binary timm timm==1.0.31 && tar xzf timm-1.0.31.tar.gz
    python benchmarks/timm_tests.py timm-1.0.31/tests/test_models.py [pytest arguments]

It needs a GPU, the network and pretrained weights for nothing: the two tests that download weights are left out.
"""

from __future__ import annotations

import sys
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
    """A pytest plugin: keeps the tests of shared names, and gives the file our ``create_model``."""

    def __init__(self) -> None:
        timm.create_model = seresnet.create_model  # before the file imports it

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what concerns a network of this package and needs no download."""
        kept = [item for item in items if self.concerns(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    @staticmethod
    def concerns(item: Any) -> bool:
        """Return whether a test is of a name that both packages have."""
        name = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
        shared = bool(name) and str(name).partition(".")[0] in VARIANTS
        return shared and not any(fnmatch(item.name, f"{test}*") for test in DOWNLOADS)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    options = [
        "-p",
        "no:cacheprovider",
        "-q",
        "-W",
        "ignore",
        "-c",
        "/dev/null",
        "--noconftest",
        "--import-mode=importlib",
        *sys.argv[1:],
    ]
    sys.exit(pytest.main(options, plugins=[Ours()]))
