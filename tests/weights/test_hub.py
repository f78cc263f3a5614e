"""Downloads, from a server on this machine that speaks the Hub's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

import seresnet
from seresnet.errors import WeightsError
from seresnet.weights import hub as hub_module
from seresnet.weights.hub import fetch, fetch_weights
from seresnet.weights.labels import imagenet_1k
from tests.weights.conftest import closed_port, point_to
from tests.weights.hub_server import COMMIT, OTHER_COMMIT
from tests.weights.nets import equal, small

REPO = "user/model"
NAME = f"hf-hub:{REPO}"


@pytest.fixture
def stocked(hub, tmp_path):
    """A Hub that has one repository."""
    seresnet.save(small(), tmp_path / "saved")
    for file in ("config.json", "model.safetensors"):
        hub.files[REPO, file] = (tmp_path / "saved" / file).read_bytes()
    return hub


def refusal(name: str, **arguments: object) -> str:
    with pytest.raises(WeightsError) as raised:
        seresnet.create_model(name, pretrained=True, **arguments)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    return message


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(monkeypatch, f"http://127.0.0.1:{closed_port()}")


def test_a_repository(stocked) -> None:
    model = seresnet.create_model(NAME, pretrained=True)
    assert equal(model, small()) and model.labels == small().labels and model.preprocess == small().preprocess
    assert len([path for path in stocked.asked("GET") if path.endswith("model.safetensors")]) == 1


def test_large_files_are_redirected_to_storage(stocked) -> None:
    stocked.large.add("model.safetensors")
    assert equal(seresnet.create_model(NAME, pretrained=True), small())
    assert f"/storage/{REPO}/model.safetensors" in stocked.asked("GET")


def test_an_unchanged_repository_is_not_downloaded_again(stocked) -> None:
    seresnet.create_model(NAME, pretrained=True)
    got = len(stocked.asked("GET"))
    assert equal(seresnet.create_model(NAME, pretrained=True), small())
    assert len(stocked.asked("GET")) == got


def test_a_changed_repository_is(stocked, tmp_path) -> None:
    seresnet.create_model(NAME, pretrained=True)
    changed = small()
    changed.fc.bias.data += 1
    seresnet.save(changed, tmp_path / "changed")
    stocked.files[REPO, "model.safetensors"] = (tmp_path / "changed" / "model.safetensors").read_bytes()
    stocked.branches["main"] = OTHER_COMMIT
    assert equal(seresnet.create_model(NAME, pretrained=True), changed)


def test_revisions(stocked) -> None:
    for revision in ("v2", COMMIT):
        assert equal(seresnet.create_model(f"{NAME}@{revision}", pretrained=True), small())
    assert any("/resolve/v2/" in path for path in stocked.asked("GET"))
    before = len(stocked.requests)
    seresnet.create_model(f"{NAME}@{COMMIT}", pretrained=True)
    assert len(stocked.requests) == before  # a commit cannot change
    assert "no revision 'v3'" in refusal(f"{NAME}@v3")


def test_a_broken_download_is_resumed(stocked, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65_536)
    stocked.large.add("model.safetensors")
    seresnet.create_model(NAME)  # config.json
    stocked.break_after = 500_000
    assert equal(seresnet.create_model(NAME, pretrained=True), small())
    ranges = [asked for verb, path, asked in stocked.requests if verb == "GET" and path.startswith("/storage/")]
    assert len(ranges) == 2 and ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 500_000


def test_a_download_that_fails_for_good(hub, stocked, monkeypatch) -> None:
    def broken(*args: object, **kwargs: object) -> str:
        raise OSError("peer closed connection\nwithout sending complete message body")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", broken)
        message = refusal(NAME)
    assert "user/model: the download of config.json failed (peer closed connection without sending" in message
    assert equal(seresnet.create_model(NAME, pretrained=True), small())


def test_pickled_weights_where_there_are_no_others(stocked, tmp_path) -> None:
    import torch

    torch.save(small().state_dict(), tmp_path / "w.bin")
    del stocked.files[REPO, "model.safetensors"]
    stocked.files[REPO, "pytorch_model.bin"] = (tmp_path / "w.bin").read_bytes()
    assert equal(seresnet.create_model(NAME, pretrained=True), small())
    assert equal(seresnet.create_model(NAME, pretrained=True, offline=True), small())
    del stocked.files[REPO, "pytorch_model.bin"]
    stocked.branches["main"] = OTHER_COMMIT
    assert "the Hub has no pytorch_model.bin in it" in refusal(NAME)


def test_no_weights_are_downloaded_unless_asked_for(stocked) -> None:
    assert seresnet.create_model(NAME).cfg == small().cfg
    assert not any(path.endswith("safetensors") for path in stocked.asked("GET"))


# Without a network


def test_offline_asks_nobody(stocked) -> None:
    assert "user/model is not in the cache" in refusal(NAME, offline=True)
    assert "offline mode is on" in refusal(NAME, offline=True)
    assert stocked.requests == []
    seresnet.create_model(NAME, pretrained=True)
    before = len(stocked.requests)
    assert equal(seresnet.create_model(NAME, pretrained=True, offline=True), small())
    assert len(stocked.requests) == before


def test_offline_by_the_environment(stocked, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is on" in refusal(NAME)
    assert stocked.requests == []


def test_unreachable_and_nothing_cached(hub, monkeypatch) -> None:
    unreachable(monkeypatch)
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    message = refusal(NAME)
    assert message.startswith("user/model is not in the cache (")
    assert f"{constants.ENDPOINT} cannot be reached (" in message
    assert f"download config.json and model.safetensors from {constants.ENDPOINT}/user/model" in message
    assert "give that folder as the model" in message
    assert slept == []  # nobody waited to try again


def test_unreachable_and_cached(stocked, monkeypatch) -> None:
    seresnet.create_model(NAME, pretrained=True)
    unreachable(monkeypatch)
    assert equal(seresnet.create_model(NAME, pretrained=True), small())


def test_a_question_that_hangs_is_given_up(hub, monkeypatch) -> None:
    """Name resolution knows no time-out of huggingface_hub's; the answer is awaited for so long and no longer."""
    release = threading.Event()
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *args, **kwargs: release.wait(60))
    try:
        assert "does not answer within 0.05 s (set HF_HUB_ETAG_TIMEOUT for a slow network)" in refusal(NAME)
    finally:
        release.set()


def test_how_long_an_answer_is_awaited(hub, monkeypatch) -> None:
    asked = []

    def metadata(url: str, timeout: float) -> None:
        asked.append(timeout)
        raise errors.OfflineModeIsEnabled("no")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 30)
    refusal(NAME)
    assert asked == [1.5, 30.0] and hub_module.ANSWER_SECONDS <= 2


# What the Hub may answer


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_hub_that_is_down(stocked, status: int) -> None:
    stocked.status = status
    assert f"the Hub answers with error {status}: download config.json" in refusal(NAME)
    stocked.status = None
    seresnet.create_model(NAME, pretrained=True)
    stocked.status = status
    assert equal(seresnet.create_model(NAME, pretrained=True), small())


def test_what_the_hub_refuses(stocked) -> None:
    stocked.private.add("user/secret")
    stocked.gated.add("user/gated")
    assert "user/secret: the Hub has no such repository, or it is private (then run `hf auth login`)" in refusal(
        "hf-hub:user/secret"
    )
    assert "no such repository" in refusal("hf-hub:user/missing")
    assert f"user/gated is gated: accept its terms at {stocked.url}/user/gated" in refusal("hf-hub:user/gated")
    assert "'a b' is not the name of a repository; write hf-hub:user/repo" in refusal("hf-hub:a b")
    del stocked.files[REPO, "config.json"]
    assert "the Hub has no config.json in it" in refusal(NAME)
    stocked.status = 403
    assert "the Hub forbids it (403); log in" in refusal(NAME)


def test_what_is_no_hub(stocked) -> None:
    """A captive portal or a wrong HF_ENDPOINT answers 404 or a page to everything."""
    stocked.status = 404
    assert "is not in the cache" in refusal(NAME) and "error 404" in refusal(NAME)


def test_pages_in_place_of_weights(stocked) -> None:
    stocked.files[REPO, "model.safetensors"] = b"<!DOCTYPE html><html>busy</html>"
    assert "a web page, not weights" in refusal(NAME)


# Weights that have a name


def test_named_weights_come_once_and_without_a_question_afterwards(hub, tmp_path, monkeypatch) -> None:
    model = seresnet.create_model("seresnext26d_32x4d")
    seresnet.save(model, tmp_path / "saved")
    hub.files["timm/seresnext26d_32x4d.bt_in1k", "model.safetensors"] = (
        tmp_path / "saved" / "model.safetensors"
    ).read_bytes()
    for name in ("seresnext26d_32x4d", "seresnext26d_32x4d.bt_in1k"):
        loaded = seresnet.create_model(name, pretrained=True)
        assert equal(loaded, model) and loaded.labels == list(imagenet_1k()[1])
        assert loaded.pretrained_cfg["tag"] == "bt_in1k" and loaded.preprocess.interpolation == "bicubic"
    assert len(hub.asked("GET")) == 1
    unreachable(monkeypatch)
    before = len(hub.requests)
    assert equal(seresnet.create_model("seresnext26d_32x4d", pretrained=True, num_classes=1000), model)
    assert len(hub.requests) == before


def test_the_hub_has_only_what_timm_has(hub, tmp_path) -> None:
    """timm has no repository for its legacy networks; a server that answers every name would hide a wrong source."""
    for name in ("legacy_seresnet50.in1k", "seresnet50.a1_in1k"):
        hub.files[f"timm/{name}", "model.safetensors"] = b"x"
    with pytest.raises(WeightsError, match="no such repository"):
        fetch_weights("timm/legacy_seresnet50.in1k")
    assert fetch_weights("timm/seresnet50.a1_in1k").read_bytes() == b"x"


def test_the_environment_of_a_fresh_process(stocked, tmp_path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, as a user sets them."""
    code = f"import seresnet; print(len(seresnet.create_model({NAME!r}, pretrained=True).labels))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    clean |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(**environment: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=clean | environment, capture_output=True, check=False, text=True).stdout

    assert run(HF_ENDPOINT=stocked.url) == "10\n"
    before = len(stocked.requests)
    assert run(HF_HUB_OFFLINE="1", HF_ENDPOINT=stocked.url) == "10\n"
    assert len(stocked.requests) == before


def test_weights_by_the_repository(stocked) -> None:
    assert fetch_weights(REPO).name == "model.safetensors"
    assert fetch(REPO, "config.json", newest=True).read_bytes() == stocked.files[REPO, "config.json"]
