"""Read a weights file without trusting it: nothing in it is run, and what does not fit is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seresnet.errors import WeightsError
from seresnet.weights.convert import unwrap

MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
LARGEST_NETWORK_BYTES = 8 * 2**30  # far beyond any network of the family, with an optimizer's state beside it
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|bin|safetensors)$")


def read_state_dict(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` or ``.pth`` file by their names in the file, wrappers taken off.

    ``sha256`` is what the file's SHA-256 has to begin with; a name such as ``se_resnet50-ce0d4300.pth`` says it too.
    Raises WeightsError for a file that is missing, empty, truncated, no weights file, of another hash, or a pickle
    that would run code.
    """
    head = _head(path)
    named = HASHED_NAME.search(path.name)
    for expected in filter(None, (sha256, named and named.group(1))):
        check_sha256(path, expected)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(path, head)
    raise WeightsError(f"{path}: {_describe(head)}; give a .safetensors or .pth file")


def check_sha256(path: Path, expected: str) -> None:
    """Raise WeightsError unless the file's SHA-256 begins with the hexadecimal digits ``expected``."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path}: its SHA-256 begins with {digest[: len(expected)]}, not {expected}: "
            "the file is damaged or another one; download it again"
        )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder; give the weights file in it")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from None
    if not head:
        raise WeightsError(f"{path}: the file is empty; download it again")
    return head


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**56


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights: the download link led to a page"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights themselves: run `git lfs pull`"
    if text.startswith((b"{", b"[")):
        return "a JSON file, not weights"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive, not weights: unpack it first"
    return "not a weights file"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsError(f"{path}: truncated or damaged (its header is {length} bytes long); download it again")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            declared = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise WeightsError(f"{path}: its header is damaged; download it again") from None
    if declared > LARGEST_NETWORK_BYTES:
        raise WeightsError(f"{path}: declares {declared / 2**30:.0f} GiB, beyond any network here; refused")
    if declared > size:
        raise WeightsError(f"{path}: truncated: {size} of {declared} bytes; download it again")
    try:
        state = unwrap(load_file(path))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged ({_one_line(error)}); download it again") from None
    if state is None:
        raise WeightsError(f"{path}: holds no tensors; give the file with the weights")
    return state


def _read_pickle(path: Path, head: bytes) -> dict[str, Tensor]:
    is_zip = head.startswith(b"PK")
    if is_zip:
        _check_zip(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from None
    except (EOFError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError, IndexError) as error:
        raise WeightsError(f"{path}: truncated or damaged ({_one_line(error)}); download it again") from None
    except (MemoryError, OverflowError, RecursionError):
        raise WeightsError(f"{path}: declares more than memory holds; refused") from None
    state = unwrap(checkpoint)
    if state is None:
        raise WeightsError(f"{path}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return state


def _check_zip(path: Path) -> None:
    """Refuse an archive that is incomplete, or that unpacks to more than it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise WeightsError(f"{path}: truncated or damaged (an incomplete archive); download it again") from None
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise WeightsError(f"{path}: a compressed archive, not what torch.save writes; unpack it first")


def _refusal(path: Path, error: Exception) -> str:
    """Return the line for a pickle that torch would not read; it stops before anything is run."""
    wanted = re.search(
        r"GLOBAL ([\w.]+)|global (?:was )?([\w.]+)|Unsupported (?:global|class|operand)[^\w]*([\w.]+)", str(error)
    )
    found = next((group for group in wanted.groups() if group), None) if wanted else None
    names = f" ({found})" if found and found not in ("was", "not") else ""
    return (
        f"{path}: damaged, or holds Python objects beyond tensors{names} that could run code; nothing was run. "
        "Get it as .safetensors, or save its state_dict() alone"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
