"""The flags are frozen: a new one is a decision, and is written down here."""

import inspect
import re
from importlib import import_module

import pytest

from seresnet.cli import VERBS, run

FLAGS = {
    "predict": (
        "--model --labels --topk --format --out --spreadsheet --sheet --save --sort-into --link --threshold"
        " --batch-size --device --engine --precision --calibration --max-megapixels --workers --offline"
    ),
    "eval": (
        "--model --labels --split --compare --report --format --batch-size --device --engine --precision --calibration"
        " --workers --max-megapixels --offline --exist-ok"
    ),
    "calibrate": "--out --model --split --format --batch-size --device --workers --offline --exist-ok",
    "train": (
        "--recipe --config --model --out --size --epochs --patience --batch-size --lr --set --seed --device --precision"
        " --max-megapixels --workers --exclude --resume --exist-ok --offline"
    ),
    "explain": "--out --model --label --device --offline",
    "excitations": "--out --model --ablate --fold --save --split --device --workers --offline --exist-ok",
    "check": "--out --model --device --workers --max-megapixels --offline --exist-ok",
    "embed": "--out --model --normalize --batch-size --device --engine --precision --workers --offline",
    "search": "--topk --sheet --model --device --offline",
    "serve": (
        "--model --host --port --max-batch --max-wait-ms --max-queue --timeout-s --max-body-mb --max-megapixels"
        " --max-connections --read-timeout-s --drain-s --api-key-file --cors --log-format --device --engine --precision"
        " --workers --offline"
    ),
    "pack": "--out --size --shard-size --max-megapixels --workers --exist-ok --offline",
    "quantize": "--model --data --out --images --min-accuracy --workers --offline --exist-ok",
    "benchmark": ("--model --against --batch-size --rounds --engine --precision --device --out --offline --exist-ok"),
    "models": "--pretrained --check-sources --format",
    "card": "",
    "doctor": "--clear-cache",
}


def test_every_verb_is_decided_on():
    assert list(VERBS) == list(FLAGS)


def rows_of_help(verb: str, capsys, monkeypatch) -> dict[str, str]:
    """Names and description of each parameter, as ``seresnet VERB --help`` shows them to people."""
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken
    assert run([verb, "--help"]) == 0
    rows = re.findall(r"^│ [* ]*(\S.*?) {2,}(\S.*?) *│$", capsys.readouterr().out, flags=re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("verb", FLAGS)
def test_a_verb_has_the_flags_that_were_decided_on(verb, capsys, monkeypatch):
    names = " ".join(rows_of_help(verb, capsys, monkeypatch))
    assert {name for name in names.split() if name.startswith("-")} == set(FLAGS[verb].split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_has_a_line_of_help(verb, capsys, monkeypatch):
    rows = rows_of_help(verb, capsys, monkeypatch)
    assert rows or verb == "doctor"
    for name, text in rows.items():
        assert re.search(r"[a-z]{2}.*\.( \[|$)", text), f"{name}: {text!r} is no sentence"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_returns_its_exit_code(verb):
    module, _, name = VERBS[verb][0].partition(":")
    assert inspect.signature(getattr(import_module(module), name)).return_annotation == "int"
