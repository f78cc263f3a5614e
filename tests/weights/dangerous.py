"""Pickles that would run code: each leaves a file behind if it ever does."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pathlib
import pickle
import runpy
import subprocess
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch


class Call:
    """Pickles as a call of ``function``, which the unpickler of Python makes."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def calls(marker: Path) -> dict[str, object]:
    """Return objects that would create ``marker`` while they are unpickled, each in its own way."""
    script = marker.with_suffix(".py")
    script.write_text(f"open({str(marker)!r}, 'w').close()")
    source = script.read_text()
    return {
        "os.system": Call(os.system, f"touch '{marker}'"),
        "subprocess": Call(subprocess.check_call, [sys.executable, str(script)]),
        "exec": Call(exec, source),
        "eval": Call(eval, f"__import__('os').system(\"touch '{marker}'\")"),
        "open": Call(builtins.open, str(marker), "w"),
        "runpy": Call(runpy.run_path, str(script)),
        "pathlib": Call(pathlib.Path.touch, marker),
    }


def evil_state(evil: object) -> dict[str, object]:
    """Return what looks like a checkpoint, with a dangerous value in it."""
    return {"state_dict": OrderedDict({"fc.weight": torch.zeros(2, 2), "fc.bias": evil}), "epoch": 3}


def write_all(folder: Path, marker: Path) -> list[Path]:
    """Write files of every kind that torch or Python unpickles, and return their paths."""
    written = []
    for name, evil in calls(marker).items():
        for container in ("zip", "legacy", "plain"):
            path = folder / f"{name}-{container}.pth"
            if container == "plain":
                path.write_bytes(pickle.dumps(evil_state(evil)))
            else:
                torch.save(evil_state(evil), path, _use_new_zipfile_serialization=container == "zip")
            written.append(path)
    evil = calls(marker)["os.system"]
    for protocol in range(6):
        path = folder / f"protocol-{protocol}.bin"
        path.write_bytes(pickle.dumps(evil, protocol))
        written.append(path)
    options = folder / "options.pth"  # an argparse.Namespace is let through: what is in it is not
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}, "args": argparse.Namespace(lr=evil)}, options)
    disguised = folder / "disguised.safetensors"
    torch.save(evil_state(evil), disguised)
    return [*written, options, disguised, _old_tar(folder / "tar.pth", evil)]


def _old_tar(path: Path, evil: object) -> Path:
    """Write the tar layout of torch before 0.4, whose members are pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(evil)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
