"""``seresnet models`` and ``seresnet card``: names and facts, published and measured."""

import json
import re
import socket

import pytest

import seresnet
from tests.cli.terminal import here
from tests.networks import ANIMALS, seresnet20

# Parameters, published FLOPs and accuracies of the five legacy SE-ResNets, as their model index has them.
PUBLISHED = {
    "legacy_seresnet18": ("11,778,592", "2,328,876,024", "71.742", "90.340"),
    "legacy_seresnet34": ("21,958,868", "4,706,201,004", "74.788", "92.134"),
    "legacy_seresnet50": ("28,088,024", "4,974,351,024", "77.650", "93.732"),
    "legacy_seresnet101": ("49,326,872", "9,762,614,000", "78.370", "94.264"),
    "legacy_seresnet152": ("66,821,848", "14,553,578,160", "78.662", "94.370"),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a card and a list need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def listed(*arguments: str) -> list[dict]:
    done = here("models", *arguments, "--format", "json")
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)


def test_every_network_is_listed_with_its_weights():
    rows = listed()
    assert [row["name"] for row in rows] == seresnet.list_models()
    weights = [name for row in rows for name in row["weights"]]
    assert sorted(weights) == sorted(seresnet.list_models(pretrained=True))
    row = next(row for row in rows if row["name"] == "legacy_seresnet101")
    assert (row["blocks"], row["block"], row["excitation"]) == ([3, 4, 23, 3], "bottleneck", True)
    assert [row["name"] for row in rows if not row["excitation"]] == seresnet.list_models("resnet*")


def test_a_part_of_a_name_or_a_pattern():
    assert [row["name"] for row in listed("legacy_seresnet")] == [*PUBLISHED]
    assert [row["name"] for row in listed("legacy_seresnet1?")] == ["legacy_seresnet18"]


def test_weights_have_their_published_accuracy():
    rows = {row["name"]: row for row in listed("--pretrained", "legacy_seresnet*")}
    for name, (_, _, top1, top5) in PUBLISHED.items():
        row = rows[f"{name}.in1k"]
        assert row["published"] == [{"size": 224, "crop_pct": 0.875, "top1": float(top1), "top5": float(top5)}]
        assert (row["input_size"], row["crop_pct"], row["classes"]) == ([3, 224, 224], 0.875, 1000)
        assert row["source"].startswith("https://github.com/") and row["source"].endswith(".pth")
    (row,) = listed("--pretrained", "seresnet20.cifar10")
    assert row["measured"][0]["top1"] == 88.02 and "published" not in row


def test_every_published_row_is_in_the_table_with_its_size_and_crop():
    lines = [line.split() for line in here("models", "--pretrained").stdout.decode().splitlines()]
    at = next(i for i, line in enumerate(lines) if line[:1] == ["seresnet50.a3_in1k"])
    assert lines[at][1:5] == ["160", "0.95", "75.104", "92.096"]
    assert lines[at + 1] == ["224", "0.95", "77.036", "93.072"]
    rows = sum(len(row.get("published", row.get("measured", []))) for row in listed("--pretrained"))
    assert sum(len(re.findall(r"\d\d\.\d{3}", " ".join(line))) == 2 for line in lines) == rows


def test_the_table_names_what_the_json_names():
    for arguments in ([], ["--pretrained"]):
        lines = here("models", *arguments).stdout.decode().splitlines()
        assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
        first = [line.split()[0] for line in lines if re.match(" \\S", line) and "─" not in line]
        assert first[1:] == [row["name"] for row in listed(*arguments)]


def test_no_match_says_so():
    done = here("models", "alexnet")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"no name matches alexnet; run `seresnet models` to list the names\n"


def test_no_match_suggests_near_names():
    done = here("models", "legacy_serenset50")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"no name matches legacy_serenset50; did you mean legacy_seresnet50")
    assert b"did you mean seresnet50.a1_in1k" in here("models", "seresnet50.a1_in1k").stderr  # with --pretrained


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_tells_published_and_measured_apart(name):
    params, flops, top1, top5 = PUBLISHED[name]
    done = here("card", name)
    text = re.sub(" +", " ", done.stdout.decode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert text.startswith(f"{name}.in1k\n")
    assert f"parameters {params} (measured)" in text
    assert f"FLOPs {flops} (published; " in text
    assert f"224 px, crop 0.875 top-1 {top1} %, top-5 {top5} % (published; " in text
    assert "license " in text and "8x NVIDIA Titan X" in text
    index = text.partition("training (published model index)\n")[2].partition("\n\n")[0]
    assert "batch size 1024\n lr 0.6\n" in index and "epochs 100\n" in index
    assert "tench, goldfish, great white shark" in text
    assert f"seresnet predict IMAGE --model {name}.in1k" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_gives_the_authors_settings_beside_the_index(name):
    """The README of github.com/hujie-frank/SENet: batch 256, rate 0.1. It has no SE-ResNet-18 and -34."""
    text = re.sub(" +", " ", here("card", name).stdout.decode())
    theirs = name not in ("legacy_seresnet18", "legacy_seresnet34")
    assert ("training (authors' README, github.com/hujie-frank/SENet)\n batch size 256\n lr 0.1\n" in text) == theirs
    assert ("settings not published" in text) != theirs
    assert f"released by https://github.com/{'hujie-frank/SENet' if theirs else 'huggingface/'}" in text


def test_a_card_shows_each_accuracy_with_its_size_and_crop():
    text = re.sub(" +", " ", here("card", "seresnet50.a3_in1k").stdout.decode())
    assert "160 px, crop 0.95 top-1 75.104 %, top-5 92.096 %" in text
    assert "224 px, crop 0.95 top-1 77.036 %, top-5 93.072 %" in text
    assert "no published accuracy" in here("card", "resnet50.bamboo").stdout.decode()


def test_measured_work_is_the_sum_over_the_layers():
    """ResNet-18's multiply-accumulates, by hand: convolutions of 7x7, then 3x3 and 1x1, and the classifier."""
    by_hand = 3 * 64 * 49 * 112**2 + 4 * 64 * 64 * 9 * 56**2 + 512 * 1000
    for width, side in ((128, 28), (256, 14), (512, 7)):
        half = width // 2
        by_hand += (half * width * 9 + 3 * width * width * 9 + half * width) * side**2
    assert f"{by_hand:,} at 224 x 224 (measured)" in here("card", "resnet18").stdout.decode()


def test_a_network_without_weights_says_how_to_get_some():
    text = here("card", "seresnet50t").stdout.decode()
    assert "has to be trained" in text and "seresnet train DATA --model seresnet50t" in text
    assert "published;" not in text


def test_a_model_of_ones_own_has_a_card(tmp_path):
    model = seresnet20()
    model.reset_classifier(3)
    model.labels = list(ANIMALS)
    seresnet.save(model, tmp_path / "mine")
    text = here("card", tmp_path / "mine").stdout.decode()
    assert "3: cat, dog, émeu" in text and "32 x 32 pixels" in text
    assert f"{sum(p.numel() for p in model.parameters()):,} (measured)" in text
    assert f"--model {tmp_path / 'mine'}" in text


def test_an_unknown_name_is_an_error_with_a_hint():
    done = here("card", "legacy_seresnet51")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"seresnet: error: ") and b"legacy_seresnet50" in done.stderr
