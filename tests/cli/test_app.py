"""What holds for every verb: help, versions, and one line for every way to fail."""

import json

import pytest

import seresnet
from seresnet.cli import VERBS, error_line, run
from seresnet.common.extras import EXTRAS
from seresnet.common.text import printable
from seresnet.errors import ConfigError
from tests.cli.terminal import python
from tests.cli.terminal import seresnet as command

# What would make `--help` slow: torch, and whatever only a few verbs need.
HEAVY = ["torch", "numpy", "PIL", "openvino", "huggingface_hub", "safetensors", "accelerate", "matplotlib"]


def modules_after(code: str) -> set[str]:
    """Names of the heavy modules that are loaded after a piece of Python."""
    loaded = json.loads(
        python(f"{code}\nimport json, sys; print('\\n' + json.dumps(list(sys.modules)))").splitlines()[-1]
    )
    return set(HEAVY) & set(loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], *([verb, "--help"] for verb in VERBS)])
def test_help_loads_nothing_heavy(arguments):
    assert modules_after(f"from seresnet.cli import run; assert run({arguments!r}) == 0") == set()


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import seresnet; dir(seresnet); seresnet.__version__; seresnet.SeresnetError") == set()


def test_what_a_name_stands_for_is_found_without_torch():
    code = "import seresnet.weights.source as w, seresnet.models.variants; w.resolve('seresnet20.cifar10').path.stat()"
    assert "torch" not in modules_after(code)
    assert "torch" not in modules_after("import seresnet; assert 'seresnet50' in seresnet.list_models()")


def test_every_public_name_is_there():
    for name in seresnet.__all__:
        assert getattr(seresnet, name) is not None
    assert set(seresnet.__all__) <= set(dir(seresnet))
    with pytest.raises(AttributeError, match="has no attribute 'predikt'"):
        _ = seresnet.predikt


@pytest.mark.parametrize("first", ["seresnet.training.train", "seresnet.evaluation.evaluate"])
def test_a_verb_can_be_called_whatever_was_imported_before(first):
    code = f"""
import {first}, seresnet, seresnet.training.config as config
print(callable(seresnet.train), callable(seresnet.evaluate), config.__name__)
"""
    assert python(code).split() == ["True", "True", "seresnet.training.config"]


def test_help_names_every_verb_in_the_order_of_the_table(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{seresnet.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["predikt", "x"], "unknown command 'predikt': did you mean predict? (see seresnet --help)"),
        (["boil"], f"unknown command 'boil': the commands are {', '.join(VERBS)} (see seresnet --help)"),
        (["predict", "x", "--tpk", "3"], "unknown option: --tpk. Did you mean --topk? (see seresnet predict --help)"),
        (["predict", "-", "--topk", "many"], 'invalid value for --topk: unable to convert "many" into int'),
        (["predict", "x", "--format", "xml"], 'invalid value "xml" for --format. Choose from: "table", "json"'),
        (["predict"], "no images: give files, folders or globs, or - for a list of files on stdin"),
        (["card"], "seresnet card --help"),
    ],
)
def test_a_wrong_use_is_one_line_with_a_hint(arguments, line, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("seresnet: error: ") and captured.err.count("\n") == 1
    assert line in captured.err


def raising(monkeypatch, error: BaseException):
    """Make ``seresnet doctor`` raise an error."""

    def doctor() -> int:
        raise error

    monkeypatch.setattr("seresnet.cli.doctor.doctor", doctor)


def test_an_error_of_ours_is_its_message(monkeypatch, capsys):
    raising(monkeypatch, ConfigError("turn it off\nand on"))
    assert run(["doctor"]) == 2
    assert capsys.readouterr().err == "seresnet: error: turn it off\\nand on\n"


def test_an_unexpected_error_says_how_to_see_more(monkeypatch, capsys):
    raising(monkeypatch, ZeroDivisionError("by nothing"))
    assert run(["doctor"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("seresnet: error: ZeroDivisionError: by nothing (") and "--debug" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_lets_the_error_through(arguments, monkeypatch):
    raising(monkeypatch, ConfigError("x"))
    with pytest.raises(ConfigError):
        run(arguments)


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    raising(monkeypatch, KeyboardInterrupt())
    assert run(["doctor"]) == 130
    assert capsys.readouterr().err == "seresnet: error: interrupted\n"


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_a_missing_extra_gives_the_command_that_brings_it(module, extra):
    missing = ModuleNotFoundError(f"No module named '{module}.sub'", name=f"{module}.sub")
    wrapped = ImportError("cannot import the verb")
    wrapped.__cause__ = missing
    for error in (missing, wrapped):
        assert error_line(error) == f'{module} is not installed: run pip install "seresnet[{extra}]"'


def test_a_missing_extra_is_found_when_a_verb_is_used():
    """As on a machine without the extra: importing accelerate fails."""
    code = "import sys; sys.modules['accelerate'] = None; from seresnet.cli import run; sys.exit(run(['train', 'x']))"
    done = command_with(code)
    assert done == (2, 'seresnet: error: accelerate is not installed: run pip install "seresnet[train]"')


def command_with(code: str) -> tuple[int, str]:
    """Exit code and stderr of a piece of Python."""
    import subprocess
    import sys

    from tests.cli.terminal import ENVIRONMENT

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    return done.returncode, done.stderr.strip()


def test_printable_is_one_line_whatever_the_name():
    name = b"a\nb\x1b[31m\xff\xe2\x80\xaec\xc3\xa9\x9b.jpg".decode("utf-8", "surrogateescape")
    assert printable(name) == "a\\nb\\x1b[31m\\xff\\u202ecé\\x9b.jpg"
    assert printable("Café 写真.jpg") == "Café 写真.jpg"


def test_the_process_exits_with_the_code():
    done = command("nonsense")
    assert (done.returncode, done.stdout) == (2, b"")
    assert command("--help", encoding="ascii").returncode == 0  # no frame of a table makes it fail
    assert command("--version").stdout.decode().strip() == seresnet.__version__
