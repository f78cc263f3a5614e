"""pyproject.toml names what the package imports, each module in the dependencies or in one extra, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import seresnet
from seresnet.common.extras import EXTRAS

PACKAGE = Path(seresnet.__file__).parent
PYPROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # where a distribution is not called as its module


def imported() -> set[str]:
    """Return the top-level modules that files of the package import, by statement or by name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("require", "import_module"):
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    names = {name.partition(".")[0] for name in found}
    if "torch.utils.tensorboard" in found:
        names.add("tensorboard")  # which torch.utils.tensorboard needs
    return names - set(sys.stdlib_module_names) - {"seresnet"}


def named(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_what_is_imported_is_a_dependency_or_in_an_extra() -> None:
    core = named(PYPROJECT["dependencies"])
    modules = imported()
    assert {DISTRIBUTIONS.get(module, module) for module in modules - set(EXTRAS)} == core
    assert set(EXTRAS) <= modules


@pytest.mark.parametrize("extra", sorted(set(EXTRAS.values())))
def test_an_extra_names_its_modules_and_nothing_else(extra: str) -> None:
    modules = {module.replace("_", "-") for module, owner in EXTRAS.items() if owner == extra}
    assert named(PYPROJECT["optional-dependencies"][extra]) == modules


def test_there_are_no_other_extras() -> None:
    assert set(PYPROJECT["optional-dependencies"]) == {*EXTRAS.values(), "demo", "all", "dev"}
