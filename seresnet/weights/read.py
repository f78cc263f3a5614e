"""Read a checkpoint without trusting it: nothing in it is run, and what is not a checkpoint is refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seresnet.common.text import one_line, short
from seresnet.errors import WeightsError
from seresnet.weights.pickles import PickleError, PickleFacts, check_pickle

MAX_HEADER_BYTES = 16_000_000  # of a safetensors file; the largest network of the family needs 0.2 MB
MAX_PICKLE_BYTES = 64_000_000  # of a checkpoint without its tensors
LARGEST_CHECKPOINT_BYTES = 8 * 2**30  # far beyond any network of the family, with an optimizer's state beside it
SAFETENSORS_TYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # first of the pickles in a file from before torch 1.6


class Placeholder:
    """Stands for an object beside the weights (a NumPy scalar, a path, an option), which is not made."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        """Return one, whatever the object was to be made of."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever the object was to be made of."""

    def __setstate__(self, state: object) -> None:
        """Take whatever the object was to hold."""


# Objects that training scripts put beside the weights. None of them is made: a `Placeholder` takes its place.
BESIDE_WEIGHTS = (
    "argparse.Namespace",
    *(f"numpy{core}.multiarray.{name}" for core in (".core", "._core") for name in ("scalar", "_reconstruct")),
    *(f"numpy{core}.numeric._frombuffer" for core in (".core", "._core")),
    *("numpy.dtype", "numpy.ndarray", "numpy.float64", "numpy.float32", "numpy.int64", "numpy.bool_"),
    *(f"pathlib{at}.{name}" for at in ("", "._local") for name in ("Path", "PosixPath", "WindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"builtins.{name}" for name in ("int", "float", "bool", "str", "list", "dict", "tuple", "slice", "range")),
    *("decimal.Decimal", "uuid.UUID", "types.SimpleNamespace", "torch.torch_version.TorchVersion"),
)


def read_checkpoint(path: Path, sha256: str | None = None) -> Any:
    """Return what a ``.safetensors`` or ``.pth`` file holds: tensors in mappings and lists, plain values beside them.

    The tensors of a ``.safetensors`` file, and of a ``.pth`` file of torch 1.6 or newer, lie in the mapped file: copy
    what you keep. ``sha256`` is what the file's SHA-256 has to begin with. Raises WeightsError for a file that is
    missing, empty, truncated, no checkpoint, of another hash, or a pickle that would run code.
    """
    head = _head(path)
    if sha256:
        check_sha256(path, sha256)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(path, is_zip=head.startswith(b"PK"))
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
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise WeightsError(f"{path} is not a regular file; give a weights file")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be opened ({reason}); check its path and permissions") from None
    if not head:
        raise WeightsError(f"{path}: the file is empty; download it again")
    if size > LARGEST_CHECKPOINT_BYTES:
        raise WeightsError(f"{path}: has {size / 2**30:.0f} GiB, more than any checkpoint of these networks; refused")
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
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            declared = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            unusual = {str(entry["dtype"]) for entry in tensors.values()} - SAFETENSORS_TYPES
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise WeightsError(f"{path}: its header is damaged; download it again") from None
    if declared > LARGEST_CHECKPOINT_BYTES:
        raise WeightsError(f"{path}: declares {declared / 2**30:.0f} GiB, beyond any network here; refused")
    if declared > size:
        raise WeightsError(f"{path}: truncated: {size} of {declared} bytes; download it again")
    if unusual:
        found = short(min(unusual))
        raise WeightsError(f"{path}: damaged, or holds numbers of type {found}; save it as float32 or float16")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: damaged ({one_line(error)}); download it again") from None


def _read_pickle(path: Path, is_zip: bool) -> object:
    try:
        _check_archive(path) if is_zip else _check_stream(path)
        names = [(Placeholder, name) for name in BESIDE_WEIGHTS]
        with torch.serialization.safe_globals(names), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of pickle protocols; what is wrong becomes an error of one line
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except WeightsError:
        raise
    except PickleError as error:
        reason = short(str(error), 200)
        advice = "download it again" if error.damaged else "refused, and nothing in it was run"
        raise WeightsError(f"{path}: {reason}; {advice}") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from None
    except (MemoryError, OverflowError, RecursionError):
        raise WeightsError(f"{path}: declares more than memory holds; refused") from None
    except Exception as error:  # torch's unpickler raises whatever a crafted file leads it to
        raise WeightsError(f"{path}: truncated or damaged ({one_line(error)}); download it again") from None


def _check_archive(path: Path) -> None:
    """Refuse an archive that is incomplete, ambiguous, larger than the file, or a program; then check its pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos, shifted = archive.infolist(), _is_shifted(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        raise WeightsError(f"{path}: truncated or damaged (an incomplete archive); download it again") from None
    names = [info.filename.lower() for info in infos]
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(f"{path}: a TorchScript program, which would run code; give its state_dict() instead")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise WeightsError(f"{path}: a compressed archive, not what torch.save writes; unpack it first")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise WeightsError(f"{path}: declares more than the file holds; refused")
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError(f"{path}: a zip archive, but not of torch.save; give the weights file in it")
    if shifted or len(set(names)) < len(names):
        raise WeightsError(f"{path}: an archive that can be read in two ways; refused")
    reader = torch._C.PyTorchFileReader(str(path))  # as torch.load itself reads it
    if reader.get_record_size("data.pkl") > MAX_PICKLE_BYTES:
        raise WeightsError(f"{path}: has {MAX_PICKLE_BYTES // 10**6} MB and more beside its tensors; refused")
    facts = check_pickle(io.BytesIO(reader.get_record("data.pkl")), path.stat().st_size)
    for key, size in facts.storages.items():
        if reader.get_record_size(f"data/{key}") < size:
            raise PickleError("it declares more than the file holds")


def _is_shifted(archive: zipfile.ZipFile) -> bool:
    """Return whether something stands before the archive's own beginning, or behind its end."""
    first = min((info.header_offset for info in archive.infolist()), default=0)
    return first != 0 or bool(archive.comment)


def _check_stream(path: Path) -> None:
    """Check the five pickles of a file from before torch 1.6: magic number, version, machine, data, keys."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        first = check_pickle(mapped, size)
        if first.number != _MAGIC_NUMBER:
            raise WeightsError(_foreign(path, first))
        for _ in range(4):
            check_pickle(mapped, size)


def _foreign(path: Path, facts: PickleFacts) -> str:
    found = f" ({short(min(facts.names))})" if facts.names else ""
    return (
        f"{path}: a pickle that torch.save did not write{found}; nothing was run. "
        "Get it as .safetensors, or save its state_dict() by torch.save"
    )


def _refusal(path: Path, error: Exception) -> str:
    """Return the line for a pickle that torch would not read; it stops before anything is run."""
    wanted = re.search(r"GLOBAL ([\w.]+)|(?:global|function) ([\w.]+\.[\w.]+)", str(error))
    found = next((group for group in wanted.groups() if group), None) if wanted else None
    names = f" ({short(found)})" if found else ""
    return (
        f"{path}: damaged, or holds Python objects beyond tensors{names} that could run code; nothing was run. "
        "Get it as .safetensors, or save its state_dict() alone"
    )
