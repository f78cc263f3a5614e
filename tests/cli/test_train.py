"""``seresnet train`` as a process: what it prints, what it refuses, and how a signal ends it."""

import logging
import signal
import subprocess
import sys
import time

import pytest

from seresnet.cli.train import Wrapped
from tests.cli.terminal import ENVIRONMENT, here
from tests.made_images import color_folder

SMALL = ["--recipe", "debug", "--set", "size=16", "--batch-size", "8", "--device", "cpu"]


def test_messages_fit_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = "warning: 3 of 1,420 validation images are in the training set as well: " + "a/long/path " * 5
    lines = Wrapped().format(logging.LogRecord("seresnet", logging.INFO, "", 0, text, None, None)).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines) == text.strip()


def seresnet(*arguments, **options):
    command = [sys.executable, "-m", "seresnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT, **options)


def inside(*arguments):
    """Run a command in this process; what it prints as text."""
    done = here(*arguments)
    return subprocess.CompletedProcess([], done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return color_folder(tmp_path_factory.mktemp("colors"), per_class=12)


def test_trains_into_a_new_folder_whose_models_predict(colors, tmp_path, monkeypatch):
    first = seresnet("train", colors, *SMALL, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    second = inside("train", colors, *SMALL)
    for done, number in ((first, ""), (second, "-2")):
        assert done.returncode == 0, done.stderr
        assert "epoch 2/2" in done.stderr
        assert "Traceback" not in done.stderr
        assert f"runs/debug{number}/best" in done.stdout
    image = colors / "red" / "000.png"
    done = inside("predict", image, "--model", tmp_path / "runs" / "debug" / "best", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("path,label_1,probability_1")
    assert {"red", "green", "blue"} & set(done.stdout.splitlines()[1].split(","))


def test_a_recipe_from_a_file_and_the_same_run_again(colors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from seresnet.recipes import recipe\n"
        "def tiny():\n"
        "    return recipe('debug').updated({'size': 16, 'global_batch_size': 16, 'lr_reference_batch': 16})\n"
    )
    done = inside("train", colors, "--recipe", "mine.py:tiny", "--batch-size", 8, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "mine-tiny"
    assert "learning rate 0.025" in done.stderr  # 0.05 for a batch of 16
    done = inside("train", "--config", run / "config.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    weights = [(path / "last" / "model.safetensors").read_bytes() for path in (run, run.with_name("mine-tiny-2"))]
    assert weights[0] == weights[1]
    fixed = ["--config", run / "config.json", "--device", "cpu", "--lr", "0.3", "--epochs", "1"]
    done = inside("train", colors, *fixed)
    assert "learning rate 0.3" in done.stderr  # as it is, whatever the batch


def test_sigterm_saves_and_leaves_with_143_and_resume_goes_on(colors, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", colors, *SMALL, "--out", run]
    command = [sys.executable, "-m", "seresnet", *map(str, arguments), "--epochs", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 90
        while not (run / "last" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM in epoch ")
    assert last in (run / "log.txt").read_text()
    assert "error" not in stderr
    assert "--resume" in last
    epochs = (run / "metrics.csv").read_text().count("\n") - 1
    done = inside(*arguments, "--resume", "--epochs", epochs + 2)
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.csv").read_text().count("\n") - 1 == epochs + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder; give a folder with one sub-folder for each class"),
        (["DATA", "--recipe", "fintune"], "did you mean finetune?"),
        (["DATA", "--set", "lr"], "--set takes key=value, not 'lr'"),
        (["DATA", "--set", "size=4"], "size cannot be '4': it takes a whole number from 8 to 4096"),
        (["DATA", "--resume"], "--resume needs --out"),
        (["DATA", "--resume", "--exist-ok", "--out", "x"], "give one of them"),
        (["DATA", "--recipe", "debug", "--model", "seresnet5O"], "seresnet5O' is not a model"),
        (["DATA", "--device", "cuda"], "--device cuda: torch finds no GPU on this machine; leave --device out"),
        (["DATA", "--device", "tpu"], "--device tpu: training runs on cpu or cuda"),
        ([], "which images? give DATA"),
        (["DATA", "--recipe", "mine.py:f"], "mine.py: no such file; give --recipe FILE.py:function"),
        (["DATA", "--config", "run/config.json"], "run/config.json: cannot be read"),
        (["DATA", "--config", "x", "--recipe", "debug"], "--recipe and --config both bring all settings"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(colors, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = here("train", *(str(colors) if a == "DATA" else a for a in arguments))
    stderr = done.stderr.decode()
    assert done.returncode == 2
    assert stderr.startswith("seresnet: error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
