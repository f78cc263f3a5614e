"""``seresnet predict`` as a process: results that parse back, order, exit codes, and files with odd names."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skimage
from PIL import Image

import seresnet
from seresnet.cli.output import bar, fitted, percent, to_json
from seresnet.inference.classifier import load
from tests.cli.terminal import ENVIRONMENT, here
from tests.cli.terminal import seresnet as command
from tests.networks import seresnet20

SKIMAGE = Path(skimage.__file__).parent / "data"
ODD = (
    b'b"a\n, \x1b[31m\xffcaf\xc3\xa9.jpg'  # a quote, a line end, a comma, an escape sequence, a byte that is not UTF-8
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    network = seresnet20()
    network.labels[3] = 'tench, "Tinca" tinca'  # as ImageNet's names: with a comma
    directory = tmp_path_factory.mktemp("weights") / "model"
    seresnet.save(network, directory)
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder: two photographs, a text that calls itself one, and below it a photograph with an odd name."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(SKIMAGE / "astronaut.png", folder / "astronaut.png")
    shutil.copy(SKIMAGE / "rocket.jpg", folder / "rocket.jpg")
    (folder / "broken.jpg").write_text("a text")
    (folder / "sub").mkdir()
    shutil.copy(SKIMAGE / "retina.jpg", os.fsencode(folder / "sub") + b"/" + ODD)
    return folder


@pytest.fixture(scope="module")
def expected(model, photos) -> list[dict]:
    """What the library says of the folder, in order."""
    paths = [photos / "astronaut.png", photos / "broken.jpg", photos / "rocket.jpg"]
    return [p.to_dict() for p in load(model, device="cpu").predict([*paths, photos / "sub" / os.fsdecode(ODD)], topk=3)]


def alike(rows: list[dict], expected: list[dict]) -> bool:
    def plain(row: dict) -> tuple:
        return row["path"], row["error"], [(p["label"], p["index"]) for p in row["predictions"]]

    assert list(map(plain, rows)) == list(map(plain, expected))
    pairs = [
        pair
        for a, b in zip(rows, expected, strict=True)
        for pair in zip(a["predictions"], b["predictions"], strict=True)
    ]
    return all(a["probability"] == pytest.approx(b["probability"], rel=1e-4, abs=1e-9) for a, b in pairs)


def test_jsonl_parses_back(model, photos, expected):
    done = command("predict", photos, "--model", model, "--topk", "3", "--format", "jsonl", encoding="ascii")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode("utf-8", "strict").splitlines()]
    assert list(rows[0]) == ["path", "predictions", "error"]
    assert list(rows[0]["predictions"][0]) == ["label", "index", "probability"]
    assert alike(rows, expected)
    message = done.stderr.decode()
    assert f"seresnet: cannot read {photos}/broken.jpg: {expected[1]['error']}\n" in message
    assert "4 images in " in message and "1 of them could not be read" in message


def test_json_is_one_array(model, photos, expected):
    done = here("predict", photos, "--model", model, "--topk=3", "--format=json", "--batch-size", "1")
    assert done.returncode == 1
    assert alike(json.loads(done.stdout.decode("utf-8", "strict")), expected)


def test_csv_parses_back(model, photos, expected):
    done = here("predict", photos, "--model", model, "--topk", "3", "--format", "csv")
    assert done.returncode == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline="")))
    assert list(rows[0]) == [
        "path",
        "label_1",
        "probability_1",
        "label_2",
        "probability_2",
        "label_3",
        "probability_3",
        "error",
    ]
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
    assert [row["error"] or None for row in rows] == [row["error"] for row in expected]
    for row, truth in zip(rows, expected, strict=True):
        labels = [row[f"label_{k}"] for k in (1, 2, 3)]
        assert labels == ([p["label"] for p in truth["predictions"]] or ["", "", ""])
        for k, p in enumerate(truth["predictions"], 1):
            assert float(row[f"probability_{k}"]) == pytest.approx(p["probability"], rel=1e-4, abs=1e-9)


def test_a_table_is_one_plain_line_an_image_where_nobody_looks(model, photos, expected):
    done = here("predict", photos, "--model", model, "--topk", "2")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 4 and "\x1b" not in done.stdout.decode()
    assert lines[0].startswith(f"{photos}/astronaut.png")
    best = expected[0]["predictions"][0]
    assert f"{best['label']} " in lines[0] and f"{100 * best['probability']:.1f} %" in lines[0]
    assert "error: " in lines[1] and expected[1]["error"] in lines[1]
    assert '/sub/b"a\\n, \\x1b[31m\\xffcafé.jpg' in lines[3]


def test_a_list_on_stdin_keeps_its_order(model, photos):
    names = [photos / "rocket.jpg", photos / "astronaut.png", photos / "rocket.jpg"]
    listing = b"\n".join(map(os.fsencode, names)) + b"\n"
    done = command("predict", "-", "--model", model, "--format", "jsonl", "--topk", "1", stdin=listing)
    assert done.returncode == 0
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == list(map(str, names))


def test_files_globs_and_what_is_not_there(model, photos):
    done = here(
        "predict", photos / "*.png", photos / "gone.jpg", photos / "no*thing", "--model", model, "--format=jsonl"
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["astronaut.png", "gone.jpg", "no*thing"]
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert done.returncode == 1


def test_a_file_whose_name_begins_with_a_dash(model, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "rocket.jpg", tmp_path / "-x.jpg")
    done = here("predict", "--model", model, "--format", "jsonl", "--", "-x.jpg")
    assert (done.returncode, json.loads(done.stdout)["path"]) == (0, "-x.jpg")


def test_an_empty_list_is_no_error(model):
    done = here("predict", "-", "--model", model, "--format", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_out_takes_the_results_and_leaves_stdout_empty(model, photos, tmp_path, expected):
    out = tmp_path / "new" / "rows.jsonl"
    done = here("predict", photos, "--model", model, "--topk=3", "--format=jsonl", "--out", out)
    assert (done.returncode, done.stdout) == (1, b"")
    assert alike([json.loads(line) for line in out.read_text().splitlines()], expected)
    assert os.listdir(out.parent) == ["rows.jsonl"]


def test_a_device_stays_what_it_is_and_a_planted_link_is_not_followed(model, photos, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("link.csv", "link.csv.partial"):
        (tmp_path / name).symlink_to(tmp_path / "mine.txt")
    for out in (tmp_path / "link.csv", Path("/dev/null")):
        assert here("predict", photos / "rocket.jpg", "--model", model, "--format=csv", "--out", out).returncode == 0
    assert not (tmp_path / "link.csv").is_symlink() and "rocket.jpg" in (tmp_path / "link.csv").read_text()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_run_keeps_the_rows_that_it_has_and_the_old_file(model, photos, tmp_path, number, said):
    out = tmp_path / "rows.json"
    out.write_text("old")
    arguments = [
        "predict",
        "-",
        "--model",
        model,
        "--format",
        "json",
        "--batch-size",
        "1",
        "--workers",
        "0",
        "--out",
        out,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "seresnet", *map(str, arguments)],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    process.stdin.write((os.fsencode(photos / "rocket.jpg") + b"\n") * 3)
    process.stdin.flush()  # and it waits for more
    for _ in range(1200):
        if process.poll() is not None or sum(p.read_text().count("rocket") for p in tmp_path.glob("*.partial")) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1].decode()
    (partial,) = tmp_path.glob("rows.json.*.partial")
    assert process.returncode == 128 + number
    assert f"the results up to here are in {partial}" in error and error.endswith(f"seresnet: error: {said}\n")
    assert out.read_text() == "old"
    rows = json.loads(partial.read_text())
    assert len(rows) >= 2 and all(row["error"] is None for row in rows)


def test_a_reader_that_leaves_is_no_error(model, photos):
    arguments = ["predict", "-", "--model", str(model), "--format", "jsonl", "--batch-size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "seresnet", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    process.stdin.write((os.fsencode(photos / "rocket.jpg") + b"\n") * 200)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(60) == 141
    assert "Traceback" not in error and "rror" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no/such/model"], "no/such/model"),
        (["--topk", "0"], "topk must be a whole number, 1 or more, not 0"),
        (["--batch-size", "0"], "batch_size must be a whole number, 1 or more, not 0"),
        (["--workers", "-1"], "workers must be a whole number, 0 or more, not -1"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here: use "),
        (["--precision", "float16", "--device", "cpu", "--engine", "torch"], "precision float16 needs a GPU"),
        (["--engine", "openvino", "--device", "cuda"], "engine openvino runs on the cpu"),
        (["--precision", "int8"], "precision int8 needs calibration images: give calibration"),
        (["--calibration", "."], "calibration is for precision int8, not auto"),
        (["--out", "."], "--out . is a folder: give the name of a file"),
        (["--sheet", "/dev/null/x.png"], "--sheet /dev/null/x.png: "),
    ],
)
def test_what_cannot_run_exits_with_2_and_one_line(arguments, message, model, photos):
    given = arguments if "--model" in arguments else ["--model", model, *arguments]
    done = here("predict", photos / "rocket.jpg", *given)
    assert (done.returncode, done.stdout) == (2, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("seresnet: error: ") and message in last
    assert b"Traceback" not in done.stderr


def test_a_contact_sheet_is_a_picture(model, photos, tmp_path):
    done = here("predict", photos, "--model", model, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300 and sheet.height > 100
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000  # photographs


def test_without_a_model_the_bundled_one_answers_and_says_so(photos):
    done = command("predict", photos / "rocket.jpg", "--format", "jsonl", "--offline")
    assert done.returncode == 0
    assert done.stderr.decode().startswith(
        "no --model given: using the bundled seresnet20.cifar10 (10 CIFAR-10 classes)\nseresnet20.cifar10: openvino "
    )
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert {p["label"] for p in json.loads(done.stdout)["predictions"]} < set(labels)


def test_bars_and_columns_have_the_width_that_they_say():
    assert (bar(1.0, 10), bar(0.0, 10), bar(0.25, 10)) == ("█" * 10, "", "██▌")
    assert (percent(0.12345), percent(1.0)) == (" 12.3 %", "100.0 %")
    assert fitted("abc", 5) == "abc  "
    assert fitted("/long/path/cat.jpg", 9) == "…/cat.jpg"
    assert fitted("日本/写真.png", 8) == "…真.png "  # two cells a character
    assert to_json({"a": "é\udcff"}) == '{"a": "é\\udcff"}'
