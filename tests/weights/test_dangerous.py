"""Pickles that would run code run nothing, whichever way they come in."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import seresnet
from seresnet.errors import WeightsError
from seresnet.weights.read import read_checkpoint
from tests.weights.dangerous import calls, write_all
from tests.weights.nets import equal, small


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def files(tmp_path, marker) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    paths = write_all(folder, marker)
    assert len(paths) > 20 and not marker.exists()  # writing them runs nothing
    return paths


def refused(load, path: Path, marker: Path) -> str:
    with pytest.raises(WeightsError) as raised:
        load()
    message = str(raised.value)
    assert not marker.exists(), f"{path.name} ran"
    assert "\n" not in message and len(message) < 500
    return message


def test_python_itself_would_run_them(tmp_path, marker) -> None:
    """Otherwise the tests below would prove nothing."""
    for name, evil in calls(marker).items():
        data = pickle.dumps(evil)
        pickle.loads(data)
        assert marker.exists(), name
        marker.unlink()
    torch.save(calls(marker)["exec"], tmp_path / "file.pth")
    torch.load(tmp_path / "file.pth", weights_only=False)
    assert marker.exists()


def test_files(files, marker) -> None:
    for path in files:
        message = refused(lambda path=path: read_checkpoint(path), path, marker)
        if path.name == "os.system-zip.pth":
            assert "posix.system" in message and "nothing was run" in message
        refused(lambda path=path: seresnet.create_model(path, pretrained=True), path, marker)
        refused(lambda path=path: seresnet.create_model(path, pretrained=True, arch="seresnet20"), path, marker)
        refused(lambda path=path: seresnet.create_model(path), path, marker)


def test_files_by_way_of_the_classifier(files, marker) -> None:
    for path in files:
        refused(lambda path=path: seresnet.load(str(path), device="cpu"), path, marker)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.pth"])
def test_directories(files, marker, tmp_path, file: str) -> None:
    directory = tmp_path / "model"
    seresnet.save(small(), directory)
    (directory / "model.safetensors").unlink()
    for path in files:
        shutil.copy(path, directory / file)
        refused(lambda: seresnet.create_model(directory, pretrained=True), path, marker)
        refused(lambda: seresnet.create_model(directory / file, pretrained=True), path, marker)


def test_repositories(files, marker, tmp_path, hub) -> None:
    directory = tmp_path / "model"
    seresnet.save(small(), directory)
    for number, path in enumerate(files):
        repo = f"user/model{number}"
        hub.files[repo, "config.json"] = (directory / "config.json").read_bytes()
        hub.files[repo, ("pytorch_model.bin", "model.safetensors")[number % 2]] = path.read_bytes()
        message = refused(lambda repo=repo: seresnet.create_model(f"hf-hub:{repo}", pretrained=True), path, marker)
        assert "the Hub" not in message  # it came through, and was refused when it was read


def test_named_weights(files, marker, hub) -> None:
    for path in files:
        hub.files["timm/legacy_seresnet18.in1k", "pytorch_model.bin"] = path.read_bytes()
        refused(lambda: seresnet.create_model("legacy_seresnet18", pretrained=True), path, marker)
        break


def test_configurations_run_nothing(marker, tmp_path) -> None:
    directory = tmp_path / "model"
    seresnet.save(small(), directory)
    config = json.loads((directory / "config.json").read_text())
    for evil in ("!!python/object/apply:os.system ['touch x']", f"__import__('os').system('touch {marker}')"):
        for change in ({"architecture": evil}, {"model_args": {evil: 1}}, {"num_classes": evil}, {"global_pool": evil}):
            (directory / "config.json").write_text(json.dumps(config | change))
            refused(lambda: seresnet.create_model(directory, pretrained=True), directory, marker)


def test_what_is_harmless_still_loads(tmp_path) -> None:
    """The refusals above are not for lack of trying: the same containers with plain values load."""
    model = small()
    checkpoint = {
        "state_dict": model.state_dict(),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99), tag=None),
        "arch": "seresnet20",
        "epoch": 7,
    }
    for is_zip in (True, False):
        path = tmp_path / f"{is_zip}.pth.tar"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)
        assert equal(seresnet.create_model(path, pretrained=True), model)
