"""``seresnet doctor``: finds what is missing or damaged, and says how to fix it."""

import sys
import tomllib
from pathlib import Path

import pytest

import seresnet
from seresnet.cli import doctor
from seresnet.common.extras import EXTRAS
from seresnet.inference.cache import Cache
from seresnet.weights import load as _  # noqa: F401 (all that it needs is there to be patched)
from seresnet.weights.index import Entry
from tests.cli.terminal import here
from tests.networks import seresnet20

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {requirement.split(">")[0].split("[")[0] for requirement in requirements}


def test_it_knows_what_the_package_requires():
    assert set(doctor.CORE) == names(PROJECT["dependencies"])


def test_all_is_well_here():
    done = here("doctor")
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert "✗" not in text and text.endswith("no problems\n")
    assert all(
        name in text
        for name in (*doctor.CORE, seresnet.__version__, "cpu features", "openvino CPU", "converted models")
    )


def test_a_missing_package_is_a_fault_and_a_missing_extra_is_none(monkeypatch):
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "safetensors" else found(name))
    monkeypatch.setitem(EXTRAS, "a_module_that_nobody_has", "train")
    done = here("doctor")
    text = done.stdout.decode()
    assert done.returncode == 1 and text.endswith("1 problem: see the lines marked ✗\n")
    assert 'run pip install "safetensors"' in text
    assert 'a_module_that_nobody_has: pip install "seresnet[train]"' in text


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A directory that the index takes for a bundled model."""
    directory = seresnet.save(seresnet20(), tmp_path / "seresnet20.test")
    entry = Entry("seresnet20.test", bundled=directory, num_classes=10, preprocess=seresnet20().preprocess.to_timm())
    for name in [name for name in sys.modules if name.startswith("seresnet.weights.")]:
        if hasattr(sys.modules[name], "entries"):
            monkeypatch.setattr(f"{name}.entries", lambda: {entry.name: entry})
    return directory


def test_bundled_weights_are_loaded_and_run(shipped):
    assert list(doctor.bundled()) == [("seresnet20.test", "10 classes, intact", True)]


def test_damaged_bundled_weights_are_found(shipped):
    weights = shipped / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ((name, reason, good),) = doctor.bundled()
    assert (name, good) == ("seresnet20.test", False)
    assert reason.endswith("(reinstall seresnet)")
    assert here("doctor").returncode == 1


def test_the_cache_is_shown_and_emptied(tmp_path, monkeypatch):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path))
    assert doctor.converted() == ("converted models", f"{tmp_path / 'models'} (0, 0.0 MiB of 2.0 GiB)", True)
    Cache().store("k", lambda folder: (folder / "x").write_bytes(bytes(2**20)), {})
    assert doctor.converted()[1] == f"{tmp_path / 'models'} (1, 1.0 MiB of 2.0 GiB)"
    done = here("doctor", "--clear-cache")
    assert (done.returncode, done.stdout.decode()) == (0, f"1 converted model deleted: {tmp_path / 'models'}\n")
    assert Cache().entries() == [] and doctor.converted()[1].endswith("(0, 0.0 MiB of 2.0 GiB)")


def test_a_cache_that_cannot_be_written_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor.converted()[1:] == (
        f"{tmp_path / 'models'} (cannot be written to: set SERESNET_CACHE to another place)",
        False,
    )
