"""Read a weights file without trusting it: nothing in it is run, and what does not fit is refused in one line."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seresnet.errors import WeightsError
from seresnet.weights.convert import recorded_architecture, unwrap

MAX_HEADER_BYTES = 16_000_000  # of a safetensors file; the largest network of the family needs 0.2 MB
LARGEST_NETWORK_BYTES = 8 * 2**30  # far beyond any network of the family, with an optimizer's state beside it


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds: tensors by their names in the file, and the architecture where it says so."""

    state: dict[str, Tensor]
    arch: str | None = None


def read_checkpoint(path: Path, sha256: str | None = None) -> Checkpoint:
    """Return the tensors of a ``.safetensors`` or ``.pth`` file by their names in the file, wrappers taken off.

    The tensors of a ``.safetensors`` file, and of a ``.pth`` file of torch 1.6 or newer, lie in the mapped file: copy
    what you keep. ``sha256`` is what the file's SHA-256 has to begin with. Raises WeightsError for a file that is
    missing, empty, truncated, no weights file, of another hash, or a pickle that would run code.
    """
    head = _head(path)
    if sha256:
        check_sha256(path, sha256)
    if _is_safetensors(head):
        checkpoint: object = _read_safetensors(path)
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        checkpoint = _read_pickle(path, is_zip=head.startswith(b"PK"))
    else:
        raise WeightsError(f"{path}: {_describe(head)}; give a .safetensors or .pth file")
    state = unwrap(checkpoint)
    if not state:
        raise WeightsError(f"{path}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    odd = next((key for key, value in state.items() if not _is_plain(value)), None)
    if odd is not None:
        raise WeightsError(f"{path}: {odd} is no plain tensor of numbers ({state[odd].dtype}); save it dense, as float")
    return Checkpoint(state, recorded_architecture(checkpoint))


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
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise WeightsError(f"{path} is no regular file; give a weights file")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be opened ({reason}); check its path and permissions") from None
    if not head:
        raise WeightsError(f"{path}: the file is empty; download it again")
    return head


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**56


def _describe(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "a web page, not weights: the download link led to a page"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights themselves: run `git lfs pull`"
    if text.startswith((b"{", b"[")):
        return "a JSON file, not weights"
    if head[257:262] == b"ustar":
        return "a tar archive, which torch before 0.4 wrote: load it there, and save its state_dict() anew"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z", b"\x28\xb5\x2f\xfd")):
        return "a compressed archive, not weights: unpack it first"
    return "not a weights file"


def _is_plain(tensor: Tensor) -> bool:
    """Tell dense numbers on the CPU from what else a checkpoint may hold: sparse, quantized, complex, without data."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_nested:
        return False
    return not (tensor.is_quantized or tensor.is_complex()) and tensor.device.type == "cpu"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise WeightsError(f"{path}: truncated: {size} bytes, its header alone has {length}; download it again")
        if length > MAX_HEADER_BYTES:
            raise WeightsError(f"{path}: its header has {length} bytes, beyond any network here; refused")
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
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged ({_one_line(error)}); download it again") from None


def _read_pickle(path: Path, is_zip: bool) -> object:
    if is_zip:
        _check_zip(path)
    try:
        # timm's training script puts its options, an argparse.Namespace, beside the weights: a bag of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what is wrong becomes an error of one line
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from None
    except (MemoryError, OverflowError, RecursionError):
        raise WeightsError(f"{path}: declares more than memory holds; refused") from None
    except Exception as error:  # torch's unpickler raises whatever a made-up file leads it to
        raise WeightsError(f"{path}: truncated or damaged ({_one_line(error)}); download it again") from None


def _check_zip(path: Path) -> None:
    """Refuse an archive that is incomplete, unpacks to more than it holds, or is a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise WeightsError(f"{path}: truncated or damaged (an incomplete archive); download it again") from None
    if any(info.filename.endswith("/constants.pkl") for info in infos):
        raise WeightsError(f"{path}: a TorchScript program, which would run code; give its state_dict() instead")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise WeightsError(f"{path}: a compressed archive, not what torch.save writes; unpack it first")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise WeightsError(f"{path}: declares more than the file holds; refused")
    if not any(info.filename.endswith("data.pkl") for info in infos):
        raise WeightsError(f"{path}: a zip archive, but not of torch.save; give the weights file in it")


def _refusal(path: Path, error: Exception) -> str:
    """Return the line for a pickle that torch would not read; it stops before anything is run."""
    wanted = re.search(r"GLOBAL ([\w.]+)|(?:global|function) ([\w.]+\.[\w.]+)", str(error))
    found = next((group for group in wanted.groups() if group), None) if wanted else None
    names = f" ({found})" if found else ""
    return (
        f"{path}: damaged, or holds Python objects beyond tensors{names} that could run code; nothing was run. "
        "Get it as .safetensors, or save its state_dict() alone"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:119] + "…"
