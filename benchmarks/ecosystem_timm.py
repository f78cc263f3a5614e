"""The checks of `ecosystem.py` with timm's parts and scripts: each returns what was compared, and the result."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from ecosystem_checks import digits
from PIL import Image
from torch.nn import functional as F

import seresnet
from tests.models.pairs import difference, make_pair
from tests.timm_import import timm

ROOT = Path(__file__).parents[1]
# What `python script.py` would be, beside a CPU-only torch and with our networks registered.
START = (
    "import runpy, sys; from tests.timm_import import timm; import seresnet; seresnet.register_with_timm();"
    "sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


class NotRun(Exception):
    """A check that lacks what it needs."""


def timm_parts() -> tuple[str, str]:
    seresnet.register_with_timm()
    from timm.models import load_checkpoint
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3

    x, y = digits(32)
    x, models = (
        x.double(),
        [model.double() for model in make_pair("seresnet18", num_classes=10)],
    )  # LAMB divides by norms
    emas, groups = [], []
    for model in models:
        model.train()
        optimizer = create_optimizer_v2(model, opt="lamb", lr=5e-3, weight_decay=0.05, layer_decay=0.75)
        ema = ModelEmaV3(model, decay=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            ema.update(model)
        emas.append(ema.module)
        groups.append([(len(g["params"]), g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups])
    assert groups[0] == groups[1]
    apart = max(difference(a.detach(), b.detach()) for a, b in zip(*(e.parameters() for e in emas), strict=True))
    assert apart <= 1e-8
    with tempfile.TemporaryDirectory() as folder:
        saver = CheckpointSaver(models[0], optimizer, model_ema=ema, checkpoint_dir=folder, recovery_dir=folder)
        saver.model_ema = emas[0]
        saver.save_checkpoint(0, AverageMeter().avg)
        path = Path(folder) / "last.pth.tar"
        again = timm.create_model("seresnet_seresnet18", num_classes=10).double()
        load_checkpoint(again, str(path), use_ema=True)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), emas[0].parameters(), strict=True))
    return (
        "create_optimizer_v2 with layer decay (LAMB, 3 steps in float64), ModelEmaV3, CheckpointSaver, load_checkpoint",
        (f"same groups; averaged weights differ by {apart:.0e}; reloaded weights equal"),
    )


def _folder(root: Path) -> Path:
    """Write digits as class folders, ``train`` and ``validation``."""
    x, y = digits(480)
    for index, (pixels, label) in enumerate(zip(x, y, strict=True)):
        place = root / ("train" if index < 400 else "validation") / str(label.item())
        place.mkdir(parents=True, exist_ok=True)
        image = ((pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(image).save(place / f"{index}.png")
    return root


def _script(name: str, *arguments: str, cwd: str) -> str:
    """Run one of timm's scripts with our networks registered; return what it printed."""
    folder = os.environ.get("TIMM_SCRIPTS")
    if not folder or not (Path(folder) / name).is_file():
        raise NotRun(f"pass --timm-scripts, a folder with timm's {name}")
    command = [sys.executable, "-c", START, folder, str(Path(folder) / name), *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout + done.stderr


def _train(folder: str, arch: str) -> tuple[list[float], float, Path]:
    """Train from ``x.pth`` with train.py; return each epoch's loss, the last top-1, and the run's folder."""
    arguments = [
        "--data-dir",
        f"{folder}/digits",
        "--model",
        arch,
        "--num-classes",
        "10",
        "--input-size",
        "3",
        "32",
        "32",
    ]
    arguments += ["--opt", "adamw", "--lr", "2e-3", "--epochs", "8", "--warmup-epochs", "0", "--batch-size", "400"]
    arguments += ["--model-ema", "--model-ema-decay", "0.7", "--no-aug", "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]
    arguments += ["--initial-checkpoint", "x.pth", "--device", "cpu", "--workers", "0"]
    _script("train.py", *arguments, "--output", folder, "--experiment", arch, cwd=folder)
    run = Path(folder) / arch
    rows = list(csv.DictReader((run / "summary.csv").open()))
    return [float(row["train_loss"]) for row in rows], float(rows[-1]["eval_top1"]), run


def timm_train() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        _folder(Path(folder) / "digits")
        torch.manual_seed(0)
        torch.save(timm.create_model("seresnet18", num_classes=10).state_dict(), Path(folder) / "x.pth")
        (ours, accuracy, run), (theirs, _, _) = (_train(folder, arch) for arch in ("seresnet_seresnet18", "seresnet18"))
        apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        assert apart[0] <= 1e-5 and apart[1] <= 1e-4 and ours[-1] < 0.8 * ours[0], (ours, theirs)
        model = seresnet.create_model(str(run / "last.pth.tar"), pretrained=True, arch="seresnet18").eval()
        with torch.serialization.safe_globals([argparse.Namespace]):
            averaged = torch.load(run / "last.pth.tar", weights_only=True)["state_dict_ema"]
        assert all(torch.equal(value, averaged[key]) for key, value in model.state_dict().items())
        x, y = digits(480)
        reloaded = 100 * (model(x[400:]).argmax(1) == y[400:]).float().mean().item()
        assert abs(reloaded - accuracy) < 1.3, (reloaded, accuracy)  # one image of 80
    return "train.py, 8 epochs of one batch with EMA, `seresnet_seresnet18` and timm's seresnet18, one checkpoint", (
        f"losses {ours[0]:.3f} to {ours[-1]:.3f}, differ by {apart[0]:.0e} then {apart[1]:.0e}; "
        f"create_model reads its averaged weights, top-1 {reloaded:.1f} % in both"
    )


def timm_validate() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        data = _folder(Path(folder) / "digits")
        torch.save(make_pair("seresnet18", num_classes=10)[1].state_dict(), Path(folder) / "x.pth")
        found = []
        for arch in ("seresnet_seresnet18", "seresnet18"):
            arguments = ["--data-dir", str(data), "--split", "validation", "--model", arch, "--num-classes", "10"]
            arguments += ["--checkpoint", "x.pth", "--device", "cpu", "--img-size", "64", "--workers", "0"]
            printed = _script("validate.py", *arguments, "--results-format", "json", cwd=folder)
            row = json.loads(re.findall(r"\{.*\}", printed, re.DOTALL)[-1])
            row["loss"] = re.findall(r"Loss: .*?\(([\d. ]+)\)", printed)[-1]
            found.append(
                {key: row[key] for key in ("loss", "top1", "top5", "param_count", "crop_pct", "interpolation")}
            )
        a, b = found
        assert a == b, (a, b)
    return (
        "validate.py on `seresnet_seresnet18` with timm's seresnet18, the same random checkpoint",
        f"equal: loss {a['loss']}, top-1 {a['top1']} %, top-5 {a['top5']} %",
    )


def timm_inference() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        data = _folder(Path(folder) / "digits")
        torch.save(timm.create_model("seresnet18", num_classes=10).state_dict(), Path(folder) / "x.pth")
        tables = []
        for arch in ("seresnet_seresnet18", "seresnet18"):
            arguments = ["--data-dir", str(data), "--split", "validation", "--model", arch, "--num-classes", "10"]
            arguments += [
                "--checkpoint",
                "x.pth",
                "--device",
                "cpu",
                "--img-size",
                "64",
                "--workers",
                "0",
                "--topk",
                "5",
            ]
            arguments += ["--results-dir", folder, "--results-file", arch, "--results-format", "json"]
            _script("inference.py", *arguments, "--include-index", cwd=folder)
            tables.append(json.loads(next(Path(folder).glob(f"{arch}*.json")).read_text()))
        assert len(tables[0]) == len(tables[1]) > 0
        same = json.dumps(tables[0], sort_keys=True) == json.dumps(tables[1], sort_keys=True)
    return "inference.py, top 5 of 80 images, `seresnet_seresnet18` with timm's seresnet18", (
        "the files are equal" if same else "equal but for rounding"
    )
