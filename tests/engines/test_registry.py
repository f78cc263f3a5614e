"""The choice of an engine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seresnet.engines import registry as module
from seresnet.engines.registry import ENGINES, choose_engine, engine_class, has_gpu
from tests.cli.terminal import python


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(module, "has_gpu", lambda: True)
    assert [choose_engine("auto", device) for device in (None, "auto", "cuda:1", "cpu")] == [
        *["torch"] * 3,
        "openvino",
    ]
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    assert [choose_engine("auto", device) for device in (None, "auto", "cuda:1", "cpu")] == [
        *["openvino"] * 2,
        "torch",
        "openvino",
    ]
    assert [choose_engine(name, "cuda") for name in ENGINES] == list(ENGINES)


def test_torch_knows_of_gpus_where_it_is_imported_already(monkeypatch):
    monkeypatch.setattr(module, "_has_gpu_driver", lambda: False)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert has_gpu() is there


def test_torch_is_imported_for_a_gpu_only_where_there_is_a_driver():
    code = """
import sys
from seresnet.engines import registry as engine
engine._has_gpu_driver = lambda: {}
print(engine.has_gpu() in (True, False), "torch" in sys.modules)
"""
    assert python(code.format(False)).split() == ["True", "False"]
    assert python(code.format(True)).split() == ["True", "True"]


def test_a_gpu_that_is_hidden_is_none(monkeypatch):
    monkeypatch.setattr(module.Path, "exists", lambda path: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert module._has_gpu_driver()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not module._has_gpu_driver()


def test_openvino_is_imported_without_its_converter_which_stays_callable():
    code = """
import sys
from seresnet.engines.openvino.package import import_openvino
import_openvino()
print("openvino.tools.ovc" in sys.modules, "urllib.request" in sys.modules)
import openvino
from openvino.tools.ovc import convert_model
try:
    openvino.convert_model(3)
except Exception as error:
    print("Unknown model type" in str(error), openvino.convert_model is convert_model)
"""
    assert python(code).split() == ["False", "False", "True", "True"]


def test_where_openvino_does_not_work_torch_runs_and_says_so():
    code = """
import sys
sys.modules["openvino"] = None
import numpy as np
from seresnet.inference.classifier import load
clf = load("seresnet20.cifar10", device="cpu")
print(clf.engine.name, clf.logits(np.zeros((1, 3, 32, 32), np.float32)).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["torch", "(1,", "10)"], done.stderr
    assert done.stderr.count("\n") == 1 and "using torch instead" in done.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_every_row_of_the_table_has_what_is_said_of_it(name):
    made = engine_class(name)
    assert made.name == name
    assert callable(getattr(made, "save", None)) == (ENGINES[name].file is not None)
