"""Downloads from a server on this machine that misbehaves: the file is whole and right, or it is not there."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seresnet.errors import DiskFullError, SeresnetError
from seresnet.weights import http_client
from seresnet.weights.download import download
from seresnet.weights.http_client import SourceError
from tests.weights.conftest import closed_port
from tests.weights.file_server import Fault

CONTENT = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(32_000))  # 1 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"


@pytest.fixture
def stocked(server):
    server.files[f"/files/{NAME}"] = CONTENT
    return server


def get(server, folder: Path, head: str | None = DIGEST[:8]) -> Path:
    """Download the file; it is there with its digest beside it, and nothing else."""
    path = folder / "weights" / NAME
    assert download(f"{server.url}/files/{NAME}", path, head) == DIGEST
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == [NAME, f"{NAME}.sha256"]
    assert (
        subprocess.run(["sha256sum", "-c", "--quiet", f"{NAME}.sha256"], cwd=path.parent, check=False).returncode == 0
    )
    return path


def refusal(server, folder: Path, head: str | None = DIGEST[:8], error: type[SeresnetError] = SourceError) -> str:
    """Return why the file is not provided; nothing of it is kept."""
    path = folder / "weights" / NAME
    with pytest.raises(error) as raised:
        download(f"{server.url}/files/{NAME}", path, head, 0.5)
    assert list(path.parent.iterdir()) == []
    message = str(raised.value)
    assert "\n" not in message and len(message) < 300
    return message


def script(server, path: Path) -> str:
    """Return Python code that downloads the file to a path."""
    arguments = f"{server.url + '/files/' + NAME!r}, Path({str(path)!r}), {DIGEST[:8]!r}"
    return f"from pathlib import Path; from seresnet.weights.download import download; download({arguments})"


def ranges(server) -> list[str | None]:
    return [asked for verb, _, asked, _ in server.requests if verb == "GET"]


def test_one_request(stocked, tmp_path) -> None:
    get(stocked, tmp_path)
    assert ranges(stocked) == [None]


def test_redirects(stocked, tmp_path) -> None:
    stocked.faults = [Fault(location="/moved"), Fault(location=f"{stocked.url}/files/{NAME}")]
    get(stocked, tmp_path)
    stocked.faults, stocked.lasting = [Fault(location=f"/files/{NAME}")], True
    assert refusal(stocked, tmp_path / "2") == "redirects without end"


def test_a_connection_that_breaks_three_times_is_resumed(stocked, tmp_path) -> None:
    stocked.faults = [Fault(break_after=300_000)] * 3
    get(stocked, tmp_path)
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in ranges(stocked)[1:]]
    assert ranges(stocked)[0] is None and starts == [300_000, 600_000, 900_000]
    tag = f'"{hashlib.sha1(CONTENT).hexdigest()}"'
    assert [condition for *_, condition in stocked.requests] == [None, tag, tag, tag]


def test_a_break_without_a_validator_is_resumed_because_the_hash_decides(stocked, tmp_path) -> None:
    stocked.etags, stocked.faults = False, [Fault(break_after=300_000)]
    get(stocked, tmp_path)
    assert ranges(stocked) == [None, "bytes=300000-"]


def test_ranges_that_are_ignored(stocked, tmp_path) -> None:
    stocked.faults = [Fault(break_after=700_000), Fault(ranges=False)]
    get(stocked, tmp_path)
    assert len(ranges(stocked)) == 2


def test_a_range_other_than_the_one_asked_for(stocked, tmp_path) -> None:
    stocked.faults = [Fault(break_after=700_000), Fault(shift=5)]
    get(stocked, tmp_path)
    assert ranges(stocked)[2] is None


def test_a_file_that_changes_between_the_pieces(stocked, tmp_path) -> None:
    """With a validator the server sends the new file; without, the hash tells and the download begins anew."""
    for etags in (True, False):
        stocked.requests.clear()
        stocked.files[f"/files/{NAME}"] = b"old" * 300_000
        stocked.etags, stocked.faults = etags, [Fault(break_after=300_000), Fault(status=503)]

        def sleep(seconds: float) -> None:
            stocked.files[f"/files/{NAME}"] = CONTENT

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("seresnet.weights.download.sleep", sleep)
            get(stocked, tmp_path / str(etags))


def test_lengths_that_are_wrong_or_missing(stocked, tmp_path) -> None:
    for i, length in enumerate(("none", len(CONTENT) + 1000)):
        stocked.faults, stocked.lasting = [Fault(length=length)], True
        get(stocked, tmp_path / str(i))
    stocked.faults = [Fault(length=len(CONTENT) - 1000)]
    assert "provides another file: its SHA-256 begins with" in refusal(stocked, tmp_path / "short")


def test_a_break_that_no_length_tells(stocked, tmp_path) -> None:
    stocked.faults = [Fault(length="none", break_after=300_000)] * 2
    get(stocked, tmp_path)
    assert ranges(stocked) == [None, "bytes=300000-", "bytes=600000-"]


def test_slow_bytes(stocked, tmp_path, monkeypatch) -> None:
    """Slow is no failure; a stall is, and is resumed."""
    monkeypatch.setattr(http_client, "READ_SECONDS", 0.3)
    stocked.faults = [Fault(pause=0.05)]
    get(stocked, tmp_path / "slow")
    stocked.faults = [Fault(stall=1.5)]
    get(stocked, tmp_path / "stalled")
    assert ranges(stocked)[-1] is not None


def test_compressed_on_the_way(stocked, tmp_path, monkeypatch) -> None:
    """A server that compresses although it was asked not to."""
    from tests.weights.file_server import Handler

    def end_headers(self) -> None:
        self.send_header("Content-Encoding", "gzip")
        super(Handler, self).end_headers()

    monkeypatch.setattr(Handler, "end_headers", end_headers)
    content = gzip.compress(CONTENT, 1)
    stocked.files[f"/files/{NAME}"] = content
    get(stocked, tmp_path)


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_refusals_are_final(stocked, tmp_path, status: int) -> None:
    stocked.faults, stocked.lasting = [Fault(status=status)], True
    assert refusal(stocked, tmp_path).startswith(f"answers {status}")
    assert len(stocked.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_errors_are_tried_again(stocked, tmp_path, status: int) -> None:
    stocked.faults = [Fault(status=status)] * 2
    get(stocked, tmp_path)
    assert len(stocked.requests) == 3
    stocked.faults, stocked.lasting = [Fault(status=status)], True
    assert refusal(stocked, tmp_path / "2").startswith(f"answers {status}")
    assert len(stocked.requests) == 3 + 5


def test_backoff_grows_and_follows_retry_after(monkeypatch) -> None:
    from seresnet.weights.download import RETRY_SECONDS

    assert list(RETRY_SECONDS) == sorted(RETRY_SECONDS) and 5 < sum(RETRY_SECONDS) < 20


def test_pages_in_place_of_the_file(stocked, tmp_path) -> None:
    """A captive portal or a proxy answers 200 with a page, or sends one as a file."""
    stocked.faults = [Fault(page=True)]
    assert "answers with a web page, not the file" in refusal(stocked, tmp_path)
    stocked.files[f"/files/{NAME}"] = b"\n <HTML>busy</HTML>"
    stocked.faults = [Fault(pause=0.02)]  # two bytes at a time
    assert "answers with a web page, not the file" in refusal(stocked, tmp_path, head=None)
    assert len(stocked.requests) == 2


def test_another_file(stocked, tmp_path) -> None:
    other = b"x" * 100_000
    stocked.files[f"/files/{NAME}"] = other
    head = hashlib.sha256(other).hexdigest()[:8]
    assert refusal(stocked, tmp_path) == f"provides another file: its SHA-256 begins with {head}, not {DIGEST[:8]}"
    assert len(stocked.requests) == 1


def test_a_connection_that_is_always_cut(stocked, tmp_path) -> None:
    stocked.faults, stocked.lasting = [Fault(break_after=0)], True
    assert refusal(stocked, tmp_path).startswith("the connection was cut (")
    assert len(stocked.requests) == 5


def test_nobody_there(tmp_path, stocked) -> None:
    stocked.url = f"http://127.0.0.1:{closed_port()}"
    assert refusal(stocked, tmp_path).startswith("cannot be reached (")
    stocked.url = "http://no-such-host.invalid"
    assert refusal(stocked, tmp_path).startswith("cannot be reached (")
    stocked.url = "ftp://127.0.0.1"
    assert refusal(stocked, tmp_path) == "is not an http(s) address"


def test_a_name_resolution_that_hangs_is_given_up(stocked, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: time.sleep(3))
    start = time.monotonic()
    message = refusal(stocked, tmp_path)
    assert message.startswith("cannot be reached within 0.5 s") and time.monotonic() - start < 2


def test_proxies_and_certificates_by_their_variables(stocked, tmp_path, monkeypatch) -> None:
    """A proxy is asked for the whole address; a CA file that is missing is named."""
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", stocked.url)
    stocked.files["http://weights.example/net.pth"] = CONTENT
    download("http://weights.example/net.pth", tmp_path / "net.pth", DIGEST[:8])
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert "proxy or certificate settings do not work" in refusal(stocked, tmp_path)


def test_without_a_hash_the_length_decides(stocked, tmp_path) -> None:
    get(stocked, tmp_path / "1", head=None)
    stocked.faults = [Fault(break_after=300_000)]
    get(stocked, tmp_path / "2", head=None)
    stocked.faults, stocked.lasting = [Fault(length="none", ranges=False)], True
    assert "incomplete file" in refusal(stocked, tmp_path / "3", head=None)


def test_a_process_that_is_killed_is_resumed_by_the_next(stocked, tmp_path) -> None:
    path = tmp_path / "weights" / NAME
    stocked.faults = [Fault(stall=30)]
    code = script(stocked, path)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    part = path.with_name(f"{NAME}.part")
    while not part.exists() or part.stat().st_size < 300_000:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists() and part.exists()
    get(stocked, tmp_path)
    assert int(ranges(stocked)[-1].removeprefix("bytes=").rstrip("-")) >= 300_000


@pytest.mark.parametrize("left", [b"", b"x" * 1000, b"x" * 2_000_000, CONTENT])
@pytest.mark.parametrize("facts", ["{}", "nonsense", "right", "other url"])
def test_whatever_a_killed_process_left(stocked, tmp_path, left: bytes, facts: str) -> None:
    url = f"{stocked.url}/files/{NAME}"
    tag = hashlib.sha1(CONTENT).hexdigest()
    texts = {
        "right": f'{{"url": "{url}", "validator": "\\"{tag}\\""}}',
        "other url": '{"url": "http://other/", "validator": ""}',
    }
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{NAME}.part").write_bytes(left)
    (tmp_path / "weights" / f"{NAME}.part.json").write_text(texts.get(facts, facts))
    get(stocked, tmp_path)


def test_an_interrupt_keeps_what_is_there_for_the_next_call(stocked, tmp_path, monkeypatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    stocked.faults = [Fault(break_after=300_000)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("seresnet.weights.download.sleep", interrupt)
        get(stocked, tmp_path)
    get(stocked, tmp_path)
    assert ranges(stocked) == [None, "bytes=300000-"]


def test_a_full_disk_while_writing(stocked, tmp_path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        message = refusal(stocked, tmp_path, error=DiskFullError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no space left on the disk" in message and "SERESNET_CACHE" in message


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(stocked, tmp_path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("seresnet.weights.download.shutil.disk_usage", lambda path: usage)
    message = refusal(stocked, tmp_path, error=DiskFullError)
    assert "1,000.0 KiB are needed and 1000 bytes are free" in message


def test_progress_is_told_in_lines_where_stderr_is_no_terminal(stocked, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("seresnet.weights.progress.PLAIN_SECONDS", 0.05)
    stocked.faults = [Fault(pause=0.03, break_after=700_000)]
    get(stocked, tmp_path)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and "\x1b" not in err
    assert lines[0] == f"downloading {NAME} (1,000.0 KiB) from 127.0.0.1"
    assert any("KiB of 1,000.0 KiB, " in line and "/s, " in line and "s left" in line for line in lines)
    assert any("next attempt in" in line for line in lines)
    assert lines[-1].startswith(f"{NAME}: 1,000.0 KiB in ")


def test_progress_is_a_bar_on_a_terminal(stocked, tmp_path) -> None:
    import pty

    code = script(stocked, tmp_path / NAME)
    stocked.faults = [Fault(pause=0.05)]
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    assert "━".encode() in shown and b"MB/s" in shown.replace(b"MiB/s", b"MB/s") and b"\x1b[" in shown
