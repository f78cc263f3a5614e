"""Every Python snippet and every command of README and docs that needs no network runs as it is written.

They run in the state that ``make demo`` leaves, which is made here with its own functions and fewer digits. Training
commands get flags behind them that make them short; the rest of a command stays as it stands in the document.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import seresnet
from seresnet.weights import index
from seresnet.weights.convert import to_legacy
from tests.cli.terminal import here
from tests.timm_import import timm  # noqa: F401, so that a document can import it

ROOT = Path(__file__).parents[1]
SERVING = ROOT / "docs" / "serving.md"  # tests/serving/test_docs.py starts a server for its commands
DOCUMENTS = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {SERVING})]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What starts a command that is not run here, and why.
NOT_RUN = {
    "seresnet serve": "runs until it is ended; tests/serving/test_serve_command.py starts it",
    "make ": "installs the environment",
    "pip install": "asks a package index",
    "torchrun": "tests/training/test_ranks.py starts several ranks",
    "seresnet train hf:": "downloads a data set; tests/data/test_hub.py has them on disk",
}
SHORT = ("--epochs", "1", "--batch-size", "8")
SMALL = ("--set", "size=32", "--set", "train_size=32")  # for networks of ImageNet from scratch


@dataclass(frozen=True)
class Example:
    """One command of a document, or one snippet, and what the document shows as its output."""

    document: str
    line: int
    code: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(language: str) -> list[Example]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 2
                found.append(Example(path.relative_to(ROOT).as_posix(), line, match[2]))
    return found


def commands() -> list[Example]:
    found = []
    for block in blocks("console"):
        for part in re.split(r"^(?=\$ )", block.code, flags=re.MULTILINE):
            if part.startswith("$ "):
                command, _, output = part.removeprefix("$ ").partition("\n")
                found.append(Example(block.document, block.line, command, output))
    return found


def is_run(example: Example) -> bool:
    return not example.code.startswith(tuple(NOT_RUN))


def demo_script() -> ModuleType:
    spec = spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The folder in which ``make demo`` ran, with 8 + 3 digits of each class and a short training run."""
    folder, script = tmp_path_factory.mktemp("docs"), demo_script()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        script.write_photographs(script.OUT / "photographs")
        script.write_digits(script.OUT / "digits")
        for split, kept in (("train", 8), ("test", 3)):
            for digit in (script.OUT / "digits" / split).iterdir():
                for image in sorted(digit.iterdir())[kept:]:
                    image.unlink()
        script.write_list(script.OUT / "digits", script.OUT / "digits.csv")
        for document in ("README.md", "CHANGELOG.md"):
            shutil.copy(ROOT / document, folder)
        run("train", "demo/digits", "--recipe", "finetune", "--set", "hflip=0", "--out", "demo/run", *SHORT)
        run("eval", "demo/digits/test", "--model", "demo/run/last", "--report", "demo/report")
    return folder


def run(*arguments: str, code: int = 0) -> str:
    done = here(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


def test_there_are_commands_and_snippets_and_no_other_kinds() -> None:
    assert len([example for example in commands() if is_run(example)]) > 15
    assert len(blocks("python")) > 3
    for path in DOCUMENTS:
        fences = re.findall(r"^```(\w*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        assert set(fences) <= {"console", "python", "bash", "math", "text"}, path


def test_what_is_not_run_is_in_the_documents() -> None:
    for start in NOT_RUN:
        assert any(example.code.startswith(start) for example in commands()), start


@pytest.mark.parametrize("document", sorted({example.document for example in commands()}))
def test_commands_run_as_written(document: str, demo: Path, tmp_path: Path, monkeypatch) -> None:
    """In the order of the document, because a command may use what another one has left."""
    shutil.copytree(demo, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # no weights that this machine may have
    monkeypatch.setattr("seresnet.quantization.quantize.SLOT_SECONDS", 0.01)
    for example in commands():
        if example.document != document or not is_run(example):
            continue
        words = shlex.split(example.code, comments=True)
        if words[0] != "seresnet":
            run_other(words)
            continue
        code = 2 if "seresnet: error:" in example.output else 1 if "cannot read" in example.output else 0
        text = run(*shortened(words[1:]), code=code)
        for error in re.findall(r"^seresnet: .*?[:;(]", example.output, re.MULTILINE):
            assert error in text, (str(example), text)


def shortened(words: list[str]) -> list[str]:
    if words[0] != "train":
        return words
    for flag in ("--epochs", "--batch-size"):
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    return [*words, *SHORT, *(SMALL if "imagenet" in " ".join(words) else ())]


def run_other(words: list[str]) -> None:
    """Run a command that prepares another: Python's own ``python -m zipfile``, or ``head`` and ``cat`` of a file."""
    if words[:3] == ["python", "-m", "zipfile"]:
        import zipfile

        zipfile.main(words[3:])
    else:
        assert words[0] in ("head", "cat") and Path(words[-1]).is_file(), words


@pytest.fixture
def published(tmp_path, monkeypatch) -> None:
    """Random weights in the places and under the names of the published ones that the snippets load."""
    cache = tmp_path / "cache" / "weights"
    monkeypatch.setenv("SERESNET_CACHE", str(cache.parent))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    modern = cache / "timm" / "seresnet50.ra2_in1k" / "model.safetensors"
    modern.parent.mkdir(parents=True)
    save_file(seresnet.create_model("seresnet50").state_dict(), modern)
    legacy = cache / "se_resnet50-ce0d4300.pth"
    torch.save(to_legacy(seresnet.create_model("legacy_seresnet50").state_dict()), legacy)
    Path(legacy.name).symlink_to(legacy)
    name = "legacy_seresnet50.in1k"
    unchecked = replace(index.entries()[name], sha256_head=None)
    monkeypatch.setitem(index.entries(), name, unchecked)


@pytest.mark.parametrize("example", blocks("python"), ids=str)
def test_a_snippet_runs_as_written(example: Example, demo: Path, tmp_path: Path, monkeypatch, request) -> None:
    shutil.copytree(demo, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    if "pretrained=True" in example.code:
        request.getfixturevalue("published")
    if ">>>" in example.code:
        test = doctest.DocTestParser().get_doctest(example.code, {}, str(example), example.document, example.line)
        assert doctest.DocTestRunner().run(test).failed == 0
        return
    module = ModuleType("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)
    exec(compile(example.code, str(example), "exec"), vars(module))
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == "snippet" and callable(value):
            value()  # a recipe that the document defines
