"""The flags are frozen: a new one is a decision, and is written down here."""

import inspect
from importlib import import_module

import pytest

from seresnet.cli import VERBS, make_app

FLAGS = {
    "predict": "--model --topk --format --out --sheet --batch-size --device --precision --workers --offline",
    "eval": "--model --report --format --batch-size --device --precision --workers --offline --exist-ok",
    "train": (
        "--data --recipe --model --out --epochs --batch-size --lr --set --seed --device --precision --workers"
        " --resume --exist-ok --offline"
    ),
    "models": "--pattern --pretrained --format",
    "card": "--model",
    "doctor": "",
}


def test_every_verb_is_decided_on():
    assert list(VERBS) == list(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_a_verb_has_the_flags_that_were_decided_on(verb):
    found = {
        name
        for argument in make_app()[verb].assemble_argument_collection()
        for name in argument.names
        if name.startswith("-")
    }
    assert found == set(FLAGS[verb].split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_has_a_line_of_help(verb):
    for argument in make_app()[verb].assemble_argument_collection():
        assert argument.parameter.help, argument.name
        assert argument.parameter.help.strip().endswith("."), argument.name


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_no_flag_that_switches_another_one_off(verb):
    assert not [n for a in make_app()[verb].assemble_argument_collection() for n in a.names if n.startswith("--no-")]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_returns_its_exit_code(verb):
    module, _, name = VERBS[verb][0].partition(":")
    assert inspect.signature(getattr(import_module(module), name)).return_annotation == "int"
