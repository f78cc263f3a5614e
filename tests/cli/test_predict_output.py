"""What ``seresnet predict`` writes where things go wrong: results whole or named as partial, never mixed or unsafe."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
from PIL import Image

import seresnet
from seresnet.cli.output import Csv, to_json
from seresnet.common.text import printable
from seresnet.inference.prediction import Prediction
from tests.cli.terminal import ENVIRONMENT, here
from tests.networks import seresnet20

ROCKET = Path(skimage.__file__).parent / "data" / "rocket.jpg"
COMMAND = [sys.executable, "-m", "seresnet", "predict"]
HOSTILE = "\x1b[31mred\x9b2J\u202egpj.exe\u2066\x07\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    network = seresnet20()
    network.labels = ["=cmd()" if i % 2 else f"{i}{HOSTILE}" for i in range(10)]
    return seresnet.save(network, tmp_path_factory.mktemp("weights") / "model")


def start(*arguments: object, **streams: object) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], env=ENVIRONMENT, **streams)


def test_of_two_writers_of_one_file_the_last_ones_rows_are_there_whole(model, tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(6)]
    for name in names:
        Image.new("RGB", (8, 8)).save(name)
    lists = [names, names[::-1]]
    out = tmp_path / "two.csv"
    options = ("--model", model, "--format=csv", "--topk=1", "--batch-size=1", "--workers=0", "--out", out)
    writers = [start("-", *options, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in lists]
    for place in range(6):  # both write at once
        for writer, given in zip(writers, lists, strict=True):
            writer.stdin.write(os.fsencode(given[place]) + b"\n")
            writer.stdin.flush()
    for writer in writers:
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    rows = [row["path"] for row in csv.DictReader(out.open())]
    assert rows in [list(map(str, given)) for given in lists]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".png") == ["two.csv"]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_json_on_stdout_is_closed_by_a_signal_and_named_as_partial(model, number, said):
    options = ("--model", model, "--format=json", "--topk=1", "--batch-size=1", "--workers=0")
    process = start("-", *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write((os.fsencode(ROCKET) + b"\n") * 4)
    process.stdin.flush()
    written = b""
    while written.count(b"rocket.jpg") < 2:
        written += os.read(process.stdout.fileno(), 4096)
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    rows = json.loads(written + rest)
    assert process.returncode == 128 + number and 2 <= len(rows) <= 4
    assert errors.decode().splitlines()[-2:] == [
        f"seresnet: cut short after {len(rows)} images",
        f"seresnet: error: {said}",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("out", [(), ("--out", "/dev/full")])
def test_a_full_disk_is_one_line(model, out):
    with Path("/dev/full").open("wb") as full:
        process = start(ROCKET, "--model", model, "--format=jsonl", *out, stdout=full, stderr=subprocess.PIPE)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2 and "Traceback" not in errors and "unexpected" not in errors
    assert "no space left on device" in errors.lower().splitlines()[-1]


def shell(redirection: str, model: Path, *options: object) -> subprocess.CompletedProcess:
    command = " ".join(f"'{part}'" for part in [*COMMAND, ROCKET, "--model", model, "--topk=1", *options])
    return subprocess.run(f"{command} {redirection}", shell=True, capture_output=True, env=ENVIRONMENT, timeout=60)


def test_a_closed_stdout_is_one_line_and_results_go_to_out_all_the_same(model, tmp_path):
    done = shell(">&-", model, "--format=jsonl")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == "seresnet: error: stdout is closed: give --out FILE for the results"
    out = tmp_path / "rows.jsonl"
    assert shell(">&-", model, "--format=jsonl", "--out", out).returncode == 0
    assert json.loads(out.read_text())["path"] == str(ROCKET)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_a_stderr_the_results_hold_no_messages(model, redirection):
    done = shell(redirection, model, "--format=jsonl")
    assert done.returncode == 0
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [str(ROCKET)]


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_on_a_terminal_no_name_or_label_controls_it(model, tmp_path, format):
    name = tmp_path / "\x1b]0;title\x07\u202e\x9b1m.png"
    Image.new("RGB", (8, 8)).save(name)
    leader, follower = pty.openpty()
    process = start(name, "--model", model, "--format", format, stdout=follower, stderr=subprocess.DEVNULL)
    os.close(follower)
    written = b""
    while True:
        try:
            written += os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    text = written.decode()
    assert "exe" in text
    for sequence in ("\x1b[31m" + "red", "\x1b]0;", "\x9b", "\u202e", "\u2066", "\x07"):
        assert sequence not in text


def test_json_is_safe_and_parses_back():
    value = {"label": HOSTILE + "é写真\ud83d\udc08\udcff" + "\U000e0041"}
    text = to_json(value)
    assert text.isprintable() and "é写真" in text
    assert json.loads(text) == json.loads(json.dumps(value))
    assert to_json({"a": [float("nan"), 1.5], "b": float("-inf")}) == '{"a": [null, 1.5], "b": null}'


def test_csv_for_spreadsheets_has_no_formulas():
    prediction = Prediction("+a.jpg", ("=1+1", "@x", "-y", "a=b"), (0, 1, 2, 3), (0.5, 0.25, 0.2, 0.05))
    (plain,) = csv.reader(io.StringIO(Csv(4).row(prediction)))
    assert plain[:3] == ["+a.jpg", "=1+1", "0.5"]
    (safe,) = csv.reader(io.StringIO(Csv(4, spreadsheet=True).row(prediction)))
    assert safe == ["'+a.jpg", "'=1+1", "0.5", "'@x", "0.25", "'-y", "0.2", "a=b", "0.05", ""]


def test_the_option_for_spreadsheets(model):
    done = here("predict", ROCKET, "--model", model, "--format=csv", "--spreadsheet")
    assert ",'=cmd()," in done.stdout.decode()


def test_spaces_of_other_scripts_are_shown_as_they_are():
    assert printable("写真\u3000一 café\u00a0") == "写真\u3000一 café\u00a0"


def test_messages_come_once_and_there_is_no_rate_of_nothing(model, tmp_path):
    done = here("predict", "-", "--model", model)
    assert done.stderr.decode().splitlines()[-1] == "no images"
    both = tmp_path / "both.txt"
    with both.open("wb") as file:
        start(tmp_path / "gone.jpg", "--model", model, stdout=file, stderr=file).wait(60)
    assert both.read_text().count("no such file") == 1
    done = here("predict", tmp_path / "*.webp", "--model", model)
    assert done.stderr.decode().count("*.webp: no file matches this pattern") == 1
