"""Where the file of a named weight comes from: in which order, what is refused, and what is said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import seresnet
from seresnet.errors import DiskFullError, WeightsError
from seresnet.weights.check_sources import check_sources
from seresnet.weights.fetch import local_files, sources, weights_file
from seresnet.weights.index import Entry, entries
from tests.cli.terminal import here
from tests.weights.conftest import closed_port
from tests.weights.file_server import Fault
from tests.weights.nets import equal, small

CONTENT = b"weights" * 10_000
HEAD = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"net-{HEAD}.pth"


@pytest.fixture
def entry(server) -> Entry:
    """A weight with a release file and another host; the server has both under these paths, but no files yet."""
    urls = [f"{server.url}/{place}/{FILE}" for place in ("release", "other")]
    return Entry("legacy_net.in1k", url=urls[0], mirrors=urls[1:], sha256_head=HEAD, file_size_bytes=len(CONTENT))


def asked(server) -> list[str]:
    return [path for _, path, *_ in server.requests]


def own(tmp_path: Path) -> Path:
    return tmp_path / "seresnet" / "weights" / FILE


def refusal(entry: Entry, **arguments: object) -> str:
    with pytest.raises(WeightsError) as raised:
        weights_file(entry, **arguments)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 700
    return message


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The order


def test_the_release_file_is_downloaded_once(server, entry, tmp_path) -> None:
    server.files[f"/release/{FILE}"] = server.files[f"/other/{FILE}"] = CONTENT
    assert weights_file(entry) == weights_file(entry) == own(tmp_path)
    assert own(tmp_path).read_bytes() == CONTENT and asked(server) == [f"/release/{FILE}"]
    assert weights_file(entry, offline=True) == own(tmp_path)


def test_a_file_of_torch_hub_is_used_in_place(server, entry, tmp_path) -> None:
    there = put(tmp_path / "torch" / "hub" / "checkpoints" / FILE)
    assert weights_file(entry) == there and server.requests == []
    assert not own(tmp_path).exists()  # no second copy


def test_the_packages_own_cache_comes_before_torch_hubs(server, entry, tmp_path) -> None:
    put(tmp_path / "torch" / "hub" / "checkpoints" / FILE)
    put(own(tmp_path))
    assert weights_file(entry) == own(tmp_path)


def test_a_mirror_comes_before_the_release(server, entry, tmp_path, monkeypatch) -> None:
    server.files[f"/mirror/{FILE}"] = server.files[f"/release/{FILE}"] = CONTENT
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", f"{server.url}/mirror/")
    assert weights_file(entry) == own(tmp_path) and asked(server) == [f"/mirror/{FILE}"]


@pytest.mark.parametrize("form", ["path", "url"])
def test_a_mirror_may_be_a_directory_and_is_used_in_place(server, entry, tmp_path, monkeypatch, form: str) -> None:
    there = put(tmp_path / "our mirror" / FILE)
    folder = there.parent
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", folder.as_uri() if form == "url" else str(folder))
    assert weights_file(entry, offline=True) == there and server.requests == []


def test_a_mirror_has_repositories_as_folders(server, tmp_path, monkeypatch) -> None:
    entry = Entry("seresnet50.a1_in1k", hub="timm/seresnet50.a1_in1k")
    server.files["/mirror/timm/seresnet50.a1_in1k/model.safetensors"] = CONTENT
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", f"{server.url}/mirror")
    assert weights_file(entry).read_bytes() == CONTENT
    assert weights_file(entry, offline=True).read_bytes() == CONTENT
    put(tmp_path / "dir" / "timm" / "seresnet50.a2_in1k" / "model.safetensors")
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", str(tmp_path / "dir"))
    other = Entry("seresnet50.a2_in1k", hub="timm/seresnet50.a2_in1k")
    assert weights_file(other).parent == tmp_path / "dir" / "timm" / "seresnet50.a2_in1k"


def test_the_hub_comes_before_the_release_file(hub, tmp_path, caplog) -> None:
    entry = Entry(
        "seresnet50.a1_in1k", hub="timm/seresnet50.a1_in1k", url="https://github.com/x/" + FILE, sha256_head=HEAD
    )
    hub.files["timm/seresnet50.a1_in1k", "model.safetensors"] = CONTENT
    assert weights_file(entry).read_bytes() == CONTENT and caplog.text == ""
    assert weights_file(entry, offline=True).read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_no_reason_to_give_up(server, entry, caplog) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    entry = Entry(entry.name, hub="timm/seresnet50.a1_in1k", url=entry.url, sha256_head=HEAD)
    assert weights_file(entry).read_bytes() == CONTENT
    assert "cannot be reached (" in caplog.text and len(caplog.records) == 1


# What is refused


FAULTS = {
    "403": (Fault(status=403), "answers 403 Forbidden"),
    "404": (Fault(status=404), "answers 404 Not Found"),
    "500": (Fault(status=500), "answers 500 Internal Server Error"),
    "page": (Fault(page=True), "answers with a web page, not the file"),
    "cut": (Fault(break_after=0), "the connection was cut ("),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_next_source_is_tried_and_one_line_says_why(server, entry, tmp_path, caplog, kind: str) -> None:
    fault, reason = FAULTS[kind]
    server.files[f"/other/{FILE}"] = server.files[f"/release/{FILE}"] = CONTENT
    server.faults = [fault] * (5 if kind in ("500", "cut") else 1)
    assert weights_file(entry).read_bytes() == CONTENT
    assert asked(server)[-1] == f"/other/{FILE}"
    (line,) = caplog.messages
    assert line.startswith(f"legacy_net.in1k: 127.0.0.1 {reason}") and "\n" not in line


def test_a_wrong_hash_is_not_kept(server, entry, tmp_path, caplog) -> None:
    server.files |= {f"/release/{FILE}": b"other" * 9999, f"/other/{FILE}": CONTENT}
    assert weights_file(entry).read_bytes() == CONTENT
    assert "provides another file: its SHA-256 begins with" in caplog.text
    own(tmp_path).unlink()
    del server.files[f"/other/{FILE}"]
    assert "127.0.0.1 answers 404 Not Found" in refusal(entry)
    assert [p.suffix for p in own(tmp_path).parent.iterdir() if p.suffix != ".sha256"] == [".lock"]


def test_a_damaged_file_that_is_here_is_named_and_not_used(server, entry, tmp_path, caplog) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    foreign = put(tmp_path / "torch" / "hub" / "checkpoints" / FILE, b"damaged")
    put(own(tmp_path), b"damaged too")
    assert weights_file(entry) == own(tmp_path) and own(tmp_path).read_bytes() == CONTENT
    assert foreign.read_bytes() == b"damaged"  # it is not ours
    assert [line.partition(" is damaged or another file (")[0] for line in caplog.messages] == [
        f"legacy_net.in1k: {own(tmp_path)}",
        f"legacy_net.in1k: {foreign}",
    ]


def test_no_source_at_all_is_one_line_with_all_that_is_needed(server, entry, tmp_path, caplog) -> None:
    server.url = f"http://127.0.0.1:{closed_port()}"
    entry = Entry(**{**vars(entry), "url": f"{server.url}/release/{FILE}", "mirrors": [f"{server.url}/other/{FILE}"]})
    start = time.monotonic()
    message = refusal(entry)
    assert time.monotonic() - start < 2 and caplog.messages == []
    assert message.startswith(
        "legacy_net.in1k is not on this machine and cannot be downloaded (127.0.0.1 cannot be reached ("
    )
    assert message.endswith(
        f"download {entry.url} (70,000 bytes, SHA-256 {HEAD}...) on another machine and save it as {own(tmp_path)}"
    )
    put(own(tmp_path))
    assert weights_file(entry) == own(tmp_path)  # the advice is right


def test_silent_networks_take_two_seconds_in_all(server, entry, monkeypatch) -> None:
    """Name resolution that hangs, for a mirror, the release and the other host."""
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", "http://mirror.example")
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: time.sleep(4))
    start = time.monotonic()
    assert refusal(entry).count("cannot be reached within") == 3
    assert time.monotonic() - start < 2
    monkeypatch.setenv("SERESNET_CONNECT_TIMEOUT", "soon")
    assert "SERESNET_CONNECT_TIMEOUT is 'soon'" in refusal(entry)


def test_offline_asks_nobody(server, entry, monkeypatch) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    assert "(offline mode is on)" in refusal(entry, offline=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "(offline mode is on)" in refusal(entry)
    assert server.requests == []


def test_a_mirror_that_is_no_mirror(server, entry, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", "s3://bucket")
    assert refusal(entry) == "SERESNET_WEIGHTS_MIRROR is s3://bucket; give an http(s) address or a directory"
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", str(tmp_path))
    assert f"SERESNET_WEIGHTS_MIRROR ({tmp_path}) has no {FILE}" in refusal(entry)


def test_a_cache_that_cannot_be_written(server, entry, tmp_path, monkeypatch) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    put(tmp_path / "file")
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written to (" in refusal(entry) and "SERESNET_CACHE sets another folder" in refusal(entry)


def test_a_full_disk_ends_the_search(server, entry, tmp_path, monkeypatch) -> None:
    """Another source would need the same space."""
    server.files[f"/release/{FILE}"] = server.files[f"/other/{FILE}"] = CONTENT
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("seresnet.weights.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match="are needed and 1000 bytes are free"):
        weights_file(entry)
    assert asked(server) == [f"/release/{FILE}"]


# Several processes


def test_two_processes_at_once_download_once(server, entry, tmp_path) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    server.faults = [Fault(pause=0.05)]
    code = (
        "from seresnet.weights.fetch import weights_file; from seresnet.weights.index import Entry;"
        f"print(weights_file(Entry('legacy_net.in1k', url={entry.url!r}, sha256_head={HEAD!r})))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, env=environment) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    assert [out.decode().strip() for out, _ in results] == [str(own(tmp_path))] * 2
    assert asked(server) == [f"/release/{FILE}"]


# The real index


def test_the_index_names_real_sources(empty_caches) -> None:
    for entry in entries().values():
        kinds = [source.kind for source in sources(entry)]
        assert entry.bundled or kinds[0] == ("Hub" if entry.hub else "release")
        if entry.arch.startswith("legacy_"):
            assert "Hub" not in kinds
    both = [source.url for source in sources(entries()["legacy_seresnet50.in1k"])]
    assert both == [
        "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/se_resnet50-ce0d4300.pth",
        "http://data.lip6.fr/cadene/pretrainedmodels/se_resnet50-ce0d4300.pth",
    ]


def test_a_model_by_name_from_its_release_file(server, tmp_path, monkeypatch) -> None:
    """create_model and load, from the first request to the logits' names, with a file of our own in timm's place."""
    torch.save(small().state_dict(), tmp_path / "net.pth")
    content = (tmp_path / "net.pth").read_bytes()
    head = hashlib.sha256(content).hexdigest()[:8]
    server.files[f"/v0.1/net-{head}.pth"] = content
    here = Entry(
        "seresnet20.test",
        url=f"{server.url}/v0.1/net-{head}.pth",
        sha256_head=head,
        num_classes=small().num_classes,
        preprocess=small().preprocess.to_timm(),
    )
    for module in ("source", "index"):
        monkeypatch.setattr(f"seresnet.weights.{module}.entries", lambda: {here.name: here})
    assert equal(seresnet.create_model(here.name, pretrained=True), small())
    clf = seresnet.load(here.name, engine="torch", device="cpu", precision="float32")
    assert clf.num_classes == small().num_classes and len(server.requests) == 1


def test_files_that_are_here_are_listed_unread(server, entry, tmp_path) -> None:
    assert list(local_files(entry)) == []
    there = put(tmp_path / "torch" / "hub" / "checkpoints" / FILE)
    assert list(local_files(entry)) == [(there, HEAD)]


# --check-sources


def test_sources_are_checked_by_their_headers(server, hub, entry, tmp_path, monkeypatch) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    hub.files["timm/seresnet50.a1_in1k", "model.safetensors"] = CONTENT
    hub.large.add("model.safetensors")
    monkeypatch.setenv("SERESNET_WEIGHTS_MIRROR", str(tmp_path))
    checks = list(check_sources([entry, Entry("seresnet50.a1_in1k", hub="timm/seresnet50.a1_in1k")]))
    assert [(check.kind, check.problem, check.size, check.sha256_head) for check in checks] == [
        ("mirror", "no such file", None, HEAD),
        ("release", None, len(CONTENT), HEAD),
        ("other host", "answers 404 Not Found", None, HEAD),
        ("mirror", "no such file", None, None),
        ("Hub", None, len(CONTENT), HEAD),
    ]
    assert {verb for verb, *_ in server.requests} == {"HEAD"} and hub.asked("GET") == []


def test_servers_that_refuse_head_are_asked_for_one_byte(server, entry) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    server.head_status = 403
    release, other = check_sources([entry])
    assert (release.problem, release.size) == (None, len(CONTENT)) and other.problem == "answers 404 Not Found"
    assert ("GET", f"/release/{FILE}", "bytes=0-0", None) in server.requests


def test_a_page_is_no_answer(server, entry) -> None:
    server.faults, server.lasting = [Fault(page=True)], True
    assert {check.problem for check in check_sources([entry])} == {"answers with a web page, not the file"}


def test_the_command_prints_a_table_and_tells_by_its_exit_code(server, entry, monkeypatch) -> None:
    server.files[f"/release/{FILE}"] = CONTENT
    monkeypatch.setattr("seresnet.weights.index.entries", lambda: {entry.name: entry})
    done = here("models", "--check-sources", "legacy_*")
    text, err = done.stdout.decode(), done.stderr.decode()
    assert (done.returncode, err) == (1, "1 of 2 sources do not have the file\n")
    assert text.splitlines()[0].split() == ["weights", "source", "answers", "bytes", "SHA-256", "address"]
    assert ["legacy_net.in1k", "release", "yes", "70,000", HEAD, entry.url] in [
        row.split() for row in text.splitlines()
    ]
    assert "no: answers 404 Not Found" in text
    server.files[f"/other/{FILE}"] = CONTENT
    done = here("models", "--check-sources", "--format", "json")
    assert done.returncode == 0 and [row["size"] for row in json.loads(done.stdout)] == [len(CONTENT)] * 2
