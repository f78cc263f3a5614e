"""Several processes: the losses of one, and none left behind when one dies."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from seresnet.recipes import recipe
from seresnet.training.train import train
from seresnet.training.trainer import Trainer
from tests.made_images import color_folder
from tests.training import driver

SETTINGS = {
    **{
        "size": 16,
        "global_batch_size": 8,
        "precision": "float32",
        "epochs": 3,
        "grad_accum_steps": 2,
        "crop": "resized",
    },
    **{"rotation": 10, "random_erasing_prob": 0.5, "drop_rate": 0.2, "drop_path_rate": 0.1, "sync_bn": True},
}
ARGUMENTS = ["--recipe", "debug", "--device", "cpu", *(x for k, v in SETTINGS.items() for x in ("--set", f"{k}={v}"))]


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    return color_folder(tmp_path_factory.mktemp("colors"), per_class=24)


def losses(path: Path) -> list[float]:
    return [float(line.split()[1]) for line in path.read_text().splitlines()]


def two_processes(
    colors: Path, out: Path, *options: str, arguments: Sequence[str] = ARGUMENTS
) -> list[subprocess.Popen]:
    """Start two processes as a cluster would, with nobody who ends one when the other is gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.training.driver", *options, "--", "train", str(colors), *arguments]
    started = []
    for rank in ("0", "1"):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                [*command, "--out", str(out)],
                env={**os.environ, "OMP_NUM_THREADS": "1", **env},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def test_two_processes_have_the_losses_of_one(colors, tmp_path, monkeypatch):
    """By torchrun with gloo; both end well, and the metrics cover the whole validation set."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    driven = ["-m", "tests.training.driver", "--losses", str(tmp_path / "two.txt"), "--", "train", str(colors)]
    command = [*launch, *driven, *ARGUMENTS, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(Trainer, "step", Trainer.step)  # and back again at the end
    driver.record_losses(tmp_path / "one.txt")
    train(recipe("debug").updated(SETTINGS), colors, tmp_path / "one", device="cpu")
    one, two = losses(tmp_path / "one.txt"), losses(tmp_path / "two.txt")
    assert len(one) == len(two) == 21
    assert two == pytest.approx(one, rel=1e-5)
    # 15 validation images: 8 and 7
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    columns = rows[0][0].split(",")
    for a, b in zip(*(lines[1:] for lines in rows), strict=True):
        pairs = {key: (x, y) for key, x, y in zip(columns, a.split(","), b.split(","), strict=True)}
        assert pairs["val_top1"][0] == pairs["val_top1"][1]
        assert float(pairs["val_loss"][0]) == pytest.approx(float(pairs["val_loss"][1]), rel=1e-3)
    last = dict(zip(columns, rows[1][-1].split(","), strict=True))
    for column, images in (("val_top1", 15), ("train_top1", 56)):
        hits = float(last[column]) * images
        assert hits == pytest.approx(round(hits), abs=1e-3)
    assert done.stderr.count("epoch 3/3") == done.stdout.count("validation top-1") == 1  # the first process's
    assert "Grad strides" not in done.stderr


def test_two_processes_fit_the_linear_probe_of_one(colors, tmp_path):
    """Each computes the features of its own images; the statistics of batch norm are averaged over both."""
    settings = {"size": 16, "precision": "float32", "epochs": 1}
    arguments = [
        "--recipe",
        "finetune",
        "--device",
        "cpu",
        *(x for k, v in settings.items() for x in ("--set", f"{k}={v}")),
    ]
    processes = two_processes(colors, tmp_path / "two", arguments=arguments)
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    train(recipe("finetune").updated(settings), colors, tmp_path / "one", device="cpu")
    tables = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two")]
    (probe, _), (probe_of_two, epoch) = tables
    assert probe["val_top1"] == probe_of_two["val_top1"]
    assert float(probe_of_two["val_loss"]) == pytest.approx(float(probe["val_loss"]), rel=1e-2)
    assert float(epoch["val_top1"]) > 0.9
    assert not errors[1]
    assert "cpu:0" not in errors[0]


@pytest.mark.parametrize(("dies", "way", "timeout"), [(1, "kill", "45"), (0, "stop", "10")])
def test_when_a_process_dies_the_other_one_leaves_with_one_line(colors, tmp_path, dies, way, timeout):
    out = tmp_path / "run"
    options = ("--rank", str(dies), "--way", way, "--die-in-step", "10", "0", "--heartbeat-timeout", timeout)
    processes = two_processes(colors, out, *options)
    try:
        error = processes[1 - dies].communicate(timeout=500)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[1 - dies].returncode == 2
    assert error.splitlines()[-1].startswith("seresnet: error: ")
    assert "--resume" in error.splitlines()[-1]
    assert "Traceback" not in error
    result = train(recipe("debug").updated(SETTINGS), colors, out, resume=True, device="cpu")
    assert "resumed at epoch 2, step 7" in (out / "log.txt").read_text()
    assert result.epochs == 3
