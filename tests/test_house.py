"""The house: imports point down only, the networks need torch alone, and timm and torchvision are for tests."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import seresnet

# From top to bottom; a part may import its own floor and those below. Every part of the package stands in one.
FLOORS = (
    ("cli",),
    ("serve",),
    ("recipes",),
    ("train",),
    (
        "predict",
        "evaluate",
        "evaluation",
        "single_label",
        "multi_label",
        "quantize",
        "quantize_images",
        "metrics",
        "report",
        "report_pictures",
        "benchmark",
        "benchmark_report",
        "embed",
        "explain",
        "reparameterize",
    ),
    ("runtime",),
    ("weights",),
    ("data",),
    ("preprocess",),
    ("models",),
    ("errors", "files", "machine", "timing"),
)
ROOF = ("", "__main__")  # the package itself and its entry point, which import lazily, may name anything
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
FOR_TESTS = {"timm", "torchvision"}
PACKAGE = Path(seresnet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Return the absolute names of all that a module imports, anywhere in it, also by name in a string."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *base.split(".")]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "seresnet":
            found.add(f"seresnet.{node.attr}")  # import seresnet; seresnet.load(...)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"seresnet(\.\w+)+(:\w+)?", node.value):  # "seresnet.runtime.torch_engine:TorchEngine"
                found.add(node.value.partition(":")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.endswith(("import_module", "__import__")):
                found.add(str(node.args[0].value))
    return found


def part_of(name: str) -> str:
    """Return the part of the package that a module belongs to: ``seresnet.models.resnet`` -> ``models``."""
    return name.partition(".")[2].partition(".")[0]


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return what is wrong with a module's imports, one line each."""
    found = []
    here = part_of(module)
    for name in sorted(imports(source, module, is_package)):
        top = name.partition(".")[0]
        if top in FOR_TESTS:
            found.append(f"{module} imports {name}: timm and torchvision are for tests and benchmarks")
        if here == "models" and top not in {"torch", "seresnet"} and top not in sys.stdlib_module_names:
            found.append(f"{module} imports {name}: the networks need torch alone")
        if top != "seresnet" or name == "seresnet" or here in ROOF:
            continue
        there = part_of(name)
        there = part_of(seresnet._HOMES.get(there, name))  # the module behind a public name: seresnet.load
        if there not in FLOOR_OF:
            if not there.startswith("__"):  # seresnet.__version__
                found.append(f"{module} imports {name}: give it a floor in {Path(__file__).name}")
        elif FLOOR_OF[there] < FLOOR_OF[here]:
            found.append(f"{module} imports {name}: an arrow that points up the house")
    return found


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py") == []


def test_every_part_stands_on_a_floor() -> None:
    parts = {part_of(module_name(path)) for path in FILES}
    assert parts - set(FLOOR_OF) - set(ROOF) == set()
    assert len(FLOOR_OF) == sum(map(len, FLOORS))  # none stands on two
    assert {"cli", "train", "predict", "evaluate", "runtime", "weights", "data", "models"} <= parts


UPWARD = [
    ("seresnet.data.images", "from seresnet.predict import load"),
    ("seresnet.data.images", "import seresnet.predict"),
    ("seresnet.data.images", "from seresnet import predict"),
    ("seresnet.data.images", "from seresnet import load"),
    ("seresnet.data.images", "import seresnet\nclf = seresnet.load('x')"),
    ("seresnet.data.images", "from .. import predict"),
    ("seresnet.data.images", "from ..predict import load"),
    ("seresnet.data.images", "def late():\n    from seresnet.cli import run"),
    ("seresnet.data.images", "if TYPE_CHECKING:\n    from seresnet.train.run import train"),
    ("seresnet.data.images", "ENGINE = 'seresnet.runtime.torch_engine:TorchEngine'"),
    ("seresnet.data.images", "from importlib import import_module\nimport_module('seresnet.weights.load')"),
    ("seresnet.models.resnet", "from seresnet.preprocess import Preprocess"),
    ("seresnet.train.loop", "from seresnet.recipes import recipe"),
    ("seresnet.predict", "from seresnet.train.config import TrainConfig"),
    ("seresnet.errors", "from seresnet.models import resnet"),
]


@pytest.mark.parametrize(("module", "source"), UPWARD)
def test_an_arrow_that_points_up_is_found(module: str, source: str) -> None:
    assert [line for line in faults(source, module) if "points up the house" in line]


def test_relative_imports_are_resolved_as_python_does() -> None:
    assert imports("from ..predict import load", "seresnet.data.images") == {"seresnet.predict.load"}
    assert imports("from ..predict import load", "seresnet.data", is_package=True) == {"seresnet.predict.load"}
    assert imports("from .predict import load", "seresnet.data", is_package=True) == {"seresnet.data.predict.load"}
    assert imports("from . import images", "seresnet.data.folder") == {"seresnet.data.images"}


@pytest.mark.parametrize(
    "source",
    [
        "import timm",
        "def late():\n    import torchvision.transforms as T",
        "from timm.models import create_model",
        "import importlib\nimportlib.import_module('timm')",
        "__import__('torchvision')",
    ],
)
@pytest.mark.parametrize("module", ["seresnet.cli.predict", "seresnet", "seresnet.__main__"])
def test_timm_and_torchvision_are_found(module: str, source: str) -> None:
    assert [line for line in faults(source, module) if "for tests" in line]


@pytest.mark.parametrize("name", ["numpy", "PIL.Image", "yaml"])
def test_the_networks_may_import_torch_alone(name: str) -> None:
    assert faults(f"import {name}", "seresnet.models.resnet") != []
    assert faults(f"import {name}", "seresnet.data.images") == []
    assert faults("import math\nimport torch.utils.checkpoint", "seresnet.models.resnet") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("seresnet.recipes.cifar10", "from seresnet.train.config import TrainConfig"),
        ("seresnet.evaluate", "from seresnet.predict import load"),
        ("seresnet.weights.hub", "import seresnet\nagent = seresnet.__version__"),
        ("seresnet.cli.eval", "from seresnet import __version__\nfrom seresnet.evaluate import evaluate"),
        ("seresnet.models.variants", "from .resnet import SEResNet\nfrom seresnet.errors import WeightsError"),
        ("seresnet.data.folder", "'''seresnet.predict reads this.'''\nlog = getLogger('seresnet')"),
        ("seresnet", "from seresnet.cli import run"),
    ],
)
def test_downward_and_level_imports_pass(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_a_part_without_a_floor_is_found() -> None:
    assert "give it a floor" in faults("from seresnet.attic import box", "seresnet.cli.predict")[0]
