"""The house: imports point down only, files and functions are short, and timm and torchvision are for tests."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import seresnet

# One floor per folder, from top to bottom: a folder may import itself and those below it.
FLOORS = (
    "cli",
    "serving",
    "recipes",
    "dataset_checks",
    "training",
    "benchmarking",
    "quantization",
    "evaluation",
    "retrieval",
    "inference",
    "explanation",
    "engines",
    "weights",
    "metrics",
    "data",
    "models",
    "common",
    "errors",
    "version",
)
ROOF = ("", "__main__")  # the package itself and its entry point, which import lazily, may name anything
FLOOR_OF = {part: floor for floor, part in enumerate(FLOORS)}
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
            if re.fullmatch(r"seresnet(\.\w+)+(:\w+)?", node.value):  # "seresnet.engines.torch.engine:TorchEngine"
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


MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 40


def function_lines(source: str, is_cli: bool = False) -> dict[str, int]:
    """Return the number of lines of each function, without its docstring; of a command, without its signature too."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            if docstring:
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
            if is_cli:
                lines -= node.body[0].lineno - node.lineno
            found[node.name] = max(lines, found.get(node.name, 0))
    return found


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    functions = function_lines(source, part_of(module_name(path)) == "cli")
    assert {name: lines for name, lines in functions.items() if lines > MAX_FUNCTION_LINES} == {}


def test_the_lines_of_a_function_are_counted_without_its_docstring() -> None:
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    x = a\n    return x\n'
    assert function_lines(source) == {"f": 5}
    assert function_lines(source, is_cli=True) == {"f": 2}
    assert function_lines("class A:\n    async def g(self):\n        pass\n") == {"g": 2}


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py") == []


def test_every_folder_has_one_floor_and_every_floor_a_folder() -> None:
    parts = {part_of(module_name(path)) for path in FILES} - set(ROOF)
    assert sorted(parts) == sorted(FLOORS)


def test_nothing_at_the_top_level_bears_the_name_of_a_public_function() -> None:
    parts = {part_of(module_name(path)) for path in FILES}
    assert parts & set(seresnet.__all__) == set()


def file_imports() -> dict[str, set[str]]:
    """Return, for each module, the modules of this package that it imports, anywhere in the file."""
    modules = {module_name(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        module = module_name(path)
        names = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        found[module] = (targets & modules) - {module, "seresnet"}
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return one cycle of a directed graph as a path that ends where it begins, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := visit(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for start in sorted(graph) if (found := visit(start, []))), [])


def test_no_files_import_each_other() -> None:
    graph = file_imports()
    graph.pop("seresnet")  # imports lazily
    assert cycle(graph) == []


def test_a_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


UPWARD = [
    ("seresnet.data.decode", "from seresnet.inference.classifier import load"),
    ("seresnet.data.decode", "import seresnet.inference.classifier"),
    ("seresnet.data.decode", "from seresnet import inference"),
    ("seresnet.data.decode", "from seresnet import load"),
    ("seresnet.data.decode", "import seresnet\nclf = seresnet.load('x')"),
    ("seresnet.data.decode", "from .. import inference"),
    ("seresnet.data.decode", "from ..inference import load"),
    ("seresnet.data.decode", "def late():\n    from seresnet.cli import run"),
    ("seresnet.data.decode", "if TYPE_CHECKING:\n    from seresnet.training.train import train"),
    ("seresnet.data.decode", "ENGINE = 'seresnet.engines.torch.engine:TorchEngine'"),
    ("seresnet.data.decode", "from importlib import import_module\nimport_module('seresnet.weights.load')"),
    ("seresnet.models.resnet", "from seresnet.data.preprocess import Preprocess"),
    ("seresnet.training.trainer", "from seresnet.recipes import recipe"),
    ("seresnet.inference.classifier", "from seresnet.training.config import TrainConfig"),
    ("seresnet.errors", "from seresnet.models import resnet"),
]


@pytest.mark.parametrize(("module", "source"), UPWARD)
def test_an_arrow_that_points_up_is_found(module: str, source: str) -> None:
    assert [line for line in faults(source, module) if "points up the house" in line]


def test_relative_imports_are_resolved_as_python_does() -> None:
    assert imports("from ..inference import load", "seresnet.data.decode") == {"seresnet.inference.load"}
    assert imports("from ..inference import load", "seresnet.data", is_package=True) == {"seresnet.inference.load"}
    assert imports("from .inference import load", "seresnet.data", is_package=True) == {"seresnet.data.inference.load"}
    assert imports("from . import decode", "seresnet.data.folder") == {"seresnet.data.decode"}


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
    assert faults(f"import {name}", "seresnet.data.decode") == []
    assert faults("import math\nimport torch.utils.checkpoint", "seresnet.models.resnet") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("seresnet.recipes.cifar10", "from seresnet.training.config import TrainConfig"),
        ("seresnet.evaluation.evaluate", "from seresnet.inference.classifier import load"),
        ("seresnet.weights.hub", "import seresnet\nagent = seresnet.__version__"),
        ("seresnet.cli.eval", "from seresnet import version\nfrom seresnet.evaluation.evaluate import evaluate"),
        ("seresnet.models.variants", "from .resnet import SEResNet\nfrom seresnet.errors import WeightsError"),
        ("seresnet.data.folder", "'''seresnet.inference reads this.'''\nlog = getLogger('seresnet')"),
        ("seresnet", "from seresnet.cli import run"),
    ],
)
def test_downward_and_level_imports_pass(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_a_part_without_a_floor_is_found() -> None:
    assert "give it a floor" in faults("from seresnet.attic import box", "seresnet.cli.predict")[0]
