"""``seresnet doctor``: versions, extras, hardware, caches, and a check of the bundled weights."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from seresnet.common.extras import EXTRAS
from seresnet.common.machine import processor
from seresnet.common.text import one_line
from seresnet.errors import SeresnetError
from seresnet.version import __version__

CPU_FEATURES = (
    "avx2",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)

CORE = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "huggingface_hub",
    "httpx2",
    "filelock",
    "platformdirs",
    "braceexpand",
    "pyyaml",
    "cyclopts",
    "rich",
    "openvino",
)

Fact = tuple[str, str, bool | None]  # what, its value, whether it is right; None: missing, which is not a problem
MARKS = {True: ("  ✓ ", "green"), None: ("  - ", "dim"), False: ("  ✗ ", "bold red")}


def doctor(
    *,
    clear_cache: Annotated[bool, Parameter(help="Delete cached models and exit.")] = False,
) -> int:
    """Check the installation and show the hardware.

    The exit code is 1 if there is a problem; a missing extra is not one.
    """
    if clear_cache:
        return _clear_cache()
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    faults = 0
    for title, facts in (
        ("versions", versions()),
        ("extras", extras()),
        ("machine", machine()),
        ("weights", weights()),
    ):
        console.print(Text(title, "bold"))
        for what, value, good in facts:
            faults += good is False
            console.print(Text.assemble(MARKS[good], what.ljust(20), " ", value), soft_wrap=True)
    console.print(
        Text(
            "no problems" if not faults else f"{faults} problem{'s' if faults > 1 else ''}: see the lines marked ✗",
            "bold green" if not faults else "bold red",
        )
    )
    return 1 if faults else 0


def versions() -> Iterator[Fact]:
    """Yield the versions of the required packages."""
    yield "seresnet", __version__, True
    yield "python", f"{platform.python_version()} on {platform.platform()}", True
    for name in CORE:
        found = _version(name)
        yield name, found or f'not installed: run pip install "{name}"', found is not None


def extras() -> Iterator[Fact]:
    """Yield each extra: installed, or the command that installs it."""
    for extra in dict.fromkeys(EXTRAS.values()):
        modules = [module for module, owner in EXTRAS.items() if owner == extra]
        missing = [module for module in modules if find_spec(module) is None]
        command = f'pip install "seresnet[{extra}]"'
        yield extra, f"no {', '.join(missing)}: {command}" if missing else "installed", None if missing else True


def machine() -> Iterator[Fact]:
    """Yield processor, memory and accelerators, as torch sees them."""
    import torch

    from seresnet.data.parallel import default_workers

    name, flags = processor()
    yield "cpu", f"{name}, {default_workers()} of {os.cpu_count()} cores usable", True
    yield "cpu features", " ".join(f for f in CPU_FEATURES if f in flags) or "unknown", True
    yield "torch", f"{torch.get_num_threads()} threads, built for {torch.backends.cpu.get_cpu_capability()}", True
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield "memory", _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), True
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}", f"{facts.name}, {_size(facts.total_memory)}", True
    if not torch.cuda.is_available():
        yield "gpu", "none that torch can use", True
    yield from openvino_devices()


def openvino_devices() -> Iterator[Fact]:
    """Yield each device that OpenVINO sees, with the dtypes that it reports, and which one "auto" is."""
    from seresnet.engines.openvino.package import openvino_core
    from seresnet.engines.registry import engine_class

    try:
        core = openvino_core()
        for device in core.available_devices:
            name = core.get_property(device, "FULL_DEVICE_NAME")
            found = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
            formats = " ".join(sorted(f for f in found if f.startswith(("FP", "BF", "INT"))))
            auto = f", auto is {engine_class('openvino').resolve('auto')}" if device == "CPU" else ""
            yield f"openvino {device}", f"{name}: {formats}{auto}", True
    except (ImportError, OSError, RuntimeError) as error:
        yield "openvino", f"does not work ({one_line(error)}): using torch instead", False


def weights() -> Iterator[Fact]:
    """Yield where weights are kept and come from, and each bundled one after loading it and running it once."""
    from huggingface_hub import constants

    from seresnet.weights.fetch import mirror, torch_hub, weights_folder

    try:
        yield _place("release files to", weights_folder(), "SERESNET_CACHE")
        given = mirror()
        if given is not None:
            there = isinstance(given, str) or given.is_dir()
            yield "weights mirror", str(given) if there else f"{given}: no such folder (SERESNET_WEIGHTS_MIRROR)", there
    except SeresnetError as error:
        yield "release files to", str(error), False
    if (torch_hub() / "checkpoints").is_dir():
        yield "torch.hub's files", str(torch_hub() / "checkpoints"), True
    yield _place("Hub repositories to", Path(constants.HF_HUB_CACHE), "HF_HOME")
    source = "offline (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else constants.ENDPOINT
    yield "Hub", source, True
    yield "sources", "run `seresnet models --check-sources` to see whether they answer", None
    yield from bundled()
    yield converted()


def _place(what: str, folder: Path, variable: str) -> Fact:
    """Return a folder for downloads, the space that is free, and whether it can be written to."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    writable = os.access(there, os.W_OK)
    free = f"{_size(shutil.disk_usage(there).free)} free"
    return (
        what,
        f"{folder} ({free if writable else f'cannot be written to: set {variable} to another place'})",
        writable,
    )


def bundled() -> Iterator[Fact]:
    """Yield each model that ships with the package, after loading it and running it once."""
    import numpy as np

    from seresnet.inference.classifier import load
    from seresnet.weights.index import entries

    for entry in entries().values():
        if entry.bundled:
            try:
                clf = load(entry.name, device="cpu", precision="float32", offline=True)
                logits = clf.logits(np.zeros((1, *clf.preprocess.input_size), np.float32))
                good = bool(np.isfinite(logits).all())
                yield entry.name, f"{clf.num_classes} classes, intact" if good else "damaged: reinstall seresnet", good
            except SeresnetError as error:
                yield entry.name, f"{error} (reinstall seresnet)", False


def converted() -> Fact:
    """Return where converted models are kept, how many, and how much room they take."""
    from seresnet.inference.cache import Cache

    cache = Cache()
    if cache.folder is None:
        return "converted models", "no place for them: set SERESNET_CACHE to a folder", None
    sizes = [size for _, _, size in cache.entries()]
    there = next(parent for parent in (cache.folder, *cache.folder.absolute().parents) if parent.is_dir())
    writable = os.access(there, os.W_OK)
    room = f"{len(sizes)}, {_size(sum(sizes))} of {_size(cache.limit)}"
    where = room if writable else "cannot be written to: set SERESNET_CACHE to another place"
    return "converted models", f"{cache.folder} ({where})", writable


def _clear_cache() -> int:
    from seresnet.inference.cache import Cache

    cache = Cache()
    count = cache.clear()
    print(f"{count} converted model{'' if count == 1 else 's'} deleted: {cache.folder}")
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
