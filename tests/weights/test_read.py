"""What is no weights file, or not the right one, is refused in one line that says what to do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file

import seresnet
from seresnet.errors import WeightsError
from seresnet.weights.read import check_sha256, read_checkpoint
from tests.weights.nets import equal, small

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 112611220\n"
HTML = b"\n  <!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>401</body></html>\n"
XML = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path, **arguments: object) -> str:
    with pytest.raises(WeightsError) as raised:
        seresnet.create_model(path, pretrained=True, **arguments)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600 and path.name in message
    return message


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    """The same network in each kind of file."""
    state = small().state_dict()
    old, new = io.BytesIO(), io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    torch.save(state, new)
    return {"a.safetensors": safetensors_bytes(state), "b.pth": new.getvalue(), "c.pth": old.getvalue()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; download it again"),
        (HTML, "a web page, not weights"),
        (XML, "a web page, not weights"),
        (LFS, "Git LFS pointer, not the weights themselves: run `git lfs pull`"),
        (b'{"error": "Entry not found"}', "a JSON file, not weights"),
        (b"\x1f\x8b\x08" + b"\0" * 40, "a compressed archive, not weights: unpack it first"),
        (b"\0" * 4096, "not a weights file; give a .safetensors or .pth file"),
        (b"weights", "not a weights file"),
        (b"\x80\x02", "truncated or damaged"),
    ],
    ids=["empty", "html", "xml", "lfs", "json", "gzip", "zeros", "text", "stub"],
)
def test_no_weights_whatever_the_name(tmp_path, suffix: str, content: bytes, reason: str) -> None:
    path = tmp_path / f"seresnet20{suffix}"
    path.write_bytes(content)
    assert reason in refusal(path)


@pytest.mark.parametrize("kind", ["a.safetensors", "b.pth", "c.pth"])
def test_truncated(tmp_path, whole, kind: str) -> None:
    path = tmp_path / kind
    size = len(whole[kind])
    for length in (9, 100, size // 3, size // 2, size - 4096, size - 1):
        path.write_bytes(whole[kind][:length])
        message = refusal(path)
        assert "truncated" in message or "damaged" in message, (length, message)
    path.write_bytes(whole[kind])
    assert equal(seresnet.create_model(path, pretrained=True), small())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack("<Q", 10**15) + b"{" + b" " * 100, "truncated"),
        (header(b"{" + b" " * 17_000_000), "beyond any network here; refused"),
        (header(b"{" * 100_000), "its header is damaged"),
        (header(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "its header is damaged"),
        (header({"fc.weight": tensor([10**6, 10**6], 0, 4 * 10**12)}), "beyond any network here; refused"),
        (header({"fc.weight": tensor([500, 500], 0, 10**6)}, b"\0" * 1000), "truncated: "),
        (header({"fc.weight": tensor([5, 5], 0, 99)}, b"\0" * 99), "damaged"),
        (header({"fc.weight": tensor([2**62, 2**62], 0, 4)}, b"\0" * 4), "damaged"),
        (header({"fc.weight": {"dtype": "F32", "shape": [1]}}), "its header is damaged"),
        (header({"fc.weight": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "damaged"),
        (header({"fc.weight": tensor([1], 0, 4)}, b"\0" * 4000), "damaged"),
        (header({"__metadata__": {"a": "b"}}), "holds no state dict"),
        (header({}), "holds no state dict"),
    ],
)
def test_headers_that_lie(tmp_path, content: bytes, reason: str) -> None:
    path = tmp_path / "seresnet20.safetensors"
    path.write_bytes(content)
    assert reason in refusal(path)


@pytest.mark.filterwarnings("ignore")  # TorchScript is on its way out
def test_archives_that_are_no_checkpoints(tmp_path, whole) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive, but not of torch.save" in refusal(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript program" in refusal(path)
    with zipfile.ZipFile(io.BytesIO(whole["b.pth"])) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert "a compressed archive" in refusal(path)


def test_archive_that_declares_more_than_it_holds(tmp_path, whole) -> None:
    """Every member of this one is the same half a megabyte, so that it would unpack to a thousand times its size."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\0" * 500_000)
        info = archive.infolist()[0]
        for number in range(1000):
            twin = zipfile.ZipInfo(info.filename)
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, name, getattr(info, name))
            twin.filename = f"archive/data/{number}"
            archive.filelist.append(twin)
        archive._didModify = True
    assert path.stat().st_size < 2_000_000
    assert "declares more than the file holds" in refusal(path)


@pytest.mark.filterwarnings("ignore")  # so are quantized tensors
def test_tensors_that_are_no_plain_numbers(tmp_path) -> None:
    path = tmp_path / "seresnet20.pth"
    for odd in (
        torch.eye(4).to_sparse(),
        torch.zeros(4, 4, dtype=torch.complex64),
        torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.qint8),
        torch.zeros(4, 4, device="meta"),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ):
        torch.save({**small().state_dict(), "fc.weight": odd}, path)
        assert "fc.weight is not a plain tensor" in refusal(path)
    torch.save({**small().state_dict(), "fc.weight": torch.zeros(10, 64, dtype=torch.int8)}, path)
    assert "fc.weight holds torch.int8" in refusal(path)
    torch.save({**small().state_dict(), "fc.bias": np.float64(3.0)}, path)
    assert "compared with seresnet20: 1 missing (fc.bias)" in refusal(path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_huge_views_of_little_data_are_refused(tmp_path, as_zip: bool) -> None:
    """Four bytes that pose as four terabytes, and one storage under a thousand names."""
    path = tmp_path / "seresnet20.pth"
    state = small().state_dict()
    expanded = {"fc.weight": torch.zeros(1).expand(20_000_000, 64), "fc.bias": torch.zeros(1).expand(20_000_000)}
    torch.save({**state, **expanded}, path, _use_new_zipfile_serialization=as_zip)
    assert "fc.weight has more elements than the file holds for it" in refusal(path)
    shared = torch.zeros(100_000)
    torch.save({f"layer1.0.{i}": shared for i in range(1000)}, path, _use_new_zipfile_serialization=as_zip)
    assert "its tensors have more elements than the file holds; refused" in refusal(path)


def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path) -> None:
    state = small().state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({key: value for key, value in state.items() if "layer2.0.conv1" not in key}, path)
    assert "1 missing (layer2.0.conv1.weight)" in refusal(path, arch="seresnet20")
    assert "compared with seresnet20: 1 missing (layer2.0.conv1.weight)" in refusal(path)
    save_file({**state, "layer1.0.bias": torch.zeros(3)}, path)
    assert "1 unknown (layer1.0.bias)" in refusal(path, arch="seresnet20")
    save_file({**state, "layer3.2.bn2.bias": torch.zeros(63)}, path)
    assert "layer3.2.bn2.bias is 63 instead of 64" in refusal(path, arch="seresnet20")
    assert "36 unknown (layer1.0.se.fc1.bias, layer1.0.se.fc1.weight, " in refusal(path, arch="resnet20")
    message = refusal(path, arch="legacy_seresnet50")
    assert "missing (" in message and "conv1.weight is 16x3x3x3 instead of 64x3x7x7" in message
    save_file({key: value for key, value in state.items() if not key.startswith("fc.")}, path)
    assert "has no classifier (fc.weight); pass num_classes=0" in refusal(path, arch="seresnet20")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path, value: float) -> None:
    for key in ("layer1.0.conv1.weight", "bn1.running_var"):
        state = small().state_dict()
        state[key].view(-1)[-1] = value
        save_file(state, path := tmp_path / "seresnet20.safetensors")
        assert f"{key} holds NaN or infinity" in refusal(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_negative_variances(tmp_path, dtype: torch.dtype) -> None:
    """A square root of them is NaN in one engine and a number in another."""
    state = {key: value.to(dtype) for key, value in small().state_dict().items()}
    state["layer3.2.bn2.running_var"][5] = -1e-3
    save_file(state, path := tmp_path / "seresnet20.safetensors")
    assert "layer3.2.bn2.running_var holds negative variances; use another checkpoint" in refusal(path)


def test_numbers_that_float32_cannot_hold(tmp_path) -> None:
    state = {key: value.double() for key, value in small().state_dict().items()}
    state["fc.bias"][0] = 1e300
    save_file(state, path := tmp_path / "seresnet20.safetensors")
    assert "fc.bias holds NaN or infinity" in refusal(path)


def test_sha256(tmp_path, whole) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(whole["b.pth"])
    digest = hashlib.sha256(whole["b.pth"]).hexdigest()
    check_sha256(path, digest)
    check_sha256(path, digest[:8])
    read_checkpoint(path, digest[:8])
    with pytest.raises(WeightsError, match=f"its SHA-256 begins with {digest[:8]}, not 01234567: .*download it again"):
        read_checkpoint(path, "01234567")


@pytest.mark.parametrize(
    "name", ["se_resnet50-ce0d4300.pth", "legacy_seresnet50-ce0d4300.pth", "x-ce0d430012345678.pt"]
)
def test_released_files_have_to_be_the_released_ones(tmp_path, whole, name: str) -> None:
    (tmp_path / name).write_bytes(whole["b.pth"])
    message = refusal(tmp_path / name)
    assert f"SHA-256 begins with {hashlib.sha256(whole['b.pth']).hexdigest()[:8]}, not ce0d4300" in message


def test_a_date_in_a_name_is_no_checksum(tmp_path, whole) -> None:
    for name in ("seresnet20-20240101.pth", "run-deadbeef.pth"):
        (tmp_path / name).write_bytes(whole["b.pth"])
        assert equal(seresnet.create_model(tmp_path / name, pretrained=True), small())


def test_paths_that_hold_no_file(tmp_path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "has no config.json; give a model directory" in refusal(tmp_path / "folder.pth")
    with pytest.raises(WeightsError, match="is a folder; give the weights file in it"):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in refusal(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="embedded null byte"):
        seresnet.create_model("a\0b.pth", pretrained=True)


PEAKS = """
import sys
import seresnet

def status(name):
    with open("/proc/self/status") as lines:
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

for path in sys.argv[1:]:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark begins anew
    before = status("VmRSS")
    seresnet.create_model(path, pretrained=True, arch="legacy_seresnet18")
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by Linux's /proc")
def test_memory_is_bounded_by_twice_the_file(tmp_path) -> None:
    """The mapped file and the network's own copy: no third one."""
    state = seresnet.create_model("legacy_seresnet18").state_dict()
    paths = [tmp_path / name for name in ("warm-up.safetensors", "w.safetensors", "new.pth", "old.pth")]
    save_file(state, paths[0])
    save_file(state, paths[1])
    torch.save(state, paths[2])
    torch.save(state, paths[3], _use_new_zipfile_serialization=False)
    command = [sys.executable, "-c", PEAKS, *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    _, *peaks = map(int, printed.split())  # the first one also brings in modules
    size = paths[1].stat().st_size
    assert len(peaks) == 3 and max(peaks) < 2.3 * size, [peak / size for peak in peaks]


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path) -> None:
    path = tmp_path / "seresnet20.pth"
    torch.save(small(), path)
    assert "save its state_dict() alone" in refusal(path) and "nothing was run" in refusal(path)
    model = seresnet.create_model("seresnet20")
    model.itself = [model]  # as hooks and schedulers refer to a model
    torch.save(model, path)
    assert "state_dict()" in refusal(path)
