"""Whole runs on small data: they learn, they resume exactly, they refuse what does not fit, they survive a NaN."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seresnet.errors import DataError, SeresnetError
from seresnet.models.variants import build
from seresnet.recipes import recipe
from seresnet.training.auto_config import activation_bytes
from seresnet.training.config import TrainConfig
from seresnet.training.network import create_network
from seresnet.training.train import train
from seresnet.training.trainer import Trainer, TrainingStopped
from tests.made_images import color_folder


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    return color_folder(tmp_path_factory.mktemp("colors"), per_class=24)


def config(**settings) -> TrainConfig:
    return recipe("debug").updated({"size": 16, "global_batch_size": 8, "precision": "float32", **settings})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    tables = [list(csv.DictReader((run / "metrics.csv").open())) for run in (one, other)]
    for row in tables[0] + tables[1]:
        del row["seconds"], row["images_per_s"]
    assert tables[0] == tables[1]


def stop_after(monkeypatch, steps: int) -> None:
    """Make SIGTERM arrive after a number of steps, as it would from outside."""
    step = Trainer.step

    def stepped(self, group):
        result = step(self, group)
        if self.state.step == steps and self.stop.number is None:  # a second signal would end the tests
            assert callable(signal.getsignal(signal.SIGTERM)), "nobody listens, and the tests would end here"
            signal.raise_signal(signal.SIGTERM)  # to this very thread: no other one may be chosen
        return result

    monkeypatch.setattr(Trainer, "step", stepped)


def test_a_run_learns_and_leaves_its_record(colors, tmp_path):
    result = train(config(epochs=4, lr=0.1), colors, tmp_path / "run")
    assert result.last_score == 1.0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 4
    assert "4/4" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000
    assert list((tmp_path / "run").glob("events.*"))
    for model in ("last", "best"):
        saved = json.loads((tmp_path / "run" / model / "config.json").read_text())
        assert saved["num_classes"] == 3
        assert saved["label_names"] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("workers", "grad_accum_steps", "crop"), [(0, 1, "resized"), (2, 2, "resized"), (1, 1, "center")]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    colors, tmp_path, monkeypatch, workers, grad_accum_steps, crop
):
    settings = config(
        workers=workers, grad_accum_steps=grad_accum_steps, crop=crop, drop_rate=0.2, drop_path_rate=0.1, rotation=5
    )
    train(settings, colors, tmp_path / "whole")
    stop_after(monkeypatch, 10)  # of 14: in the middle of the second epoch
    with pytest.raises(TrainingStopped) as stopped:
        train(settings, colors, tmp_path / "parts")
    assert stopped.value.exit_code == 143
    monkeypatch.undo()
    other_workers = settings.updated({"workers": 2 - workers})
    train(other_workers, colors, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_seed_decides_everything(colors, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        train(config(epochs=1, seed=seed), colors, tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert not torch.equal(weights(tmp_path / "one")["fc.weight"], weights(tmp_path / "other")["fc.weight"])


def test_one_process_can_train_in_one_precision_after_the_other(colors, tmp_path):
    for precision in ("bfloat16", "float32"):
        train(config(epochs=1, precision=precision), colors, tmp_path / precision)
        used = json.loads((tmp_path / precision / "config.json").read_text())["precision_used"]
        assert used == precision


def test_accumulation_adds_up_to_the_same_gradient(colors, tmp_path, monkeypatch):
    """Two micro-batches with the same images have the gradient of one of them."""
    gradients = {}
    step = Trainer.step

    def recording(self, group):
        original = torch.optim.SGD.step

        def keeping(optimizer, *arguments):
            gradients.setdefault(len(group), self.model.fc.weight.grad.clone())
            return original(optimizer, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", keeping)
            return step(self, [group[0]] * len(group))

    monkeypatch.setattr(Trainer, "step", recording)
    for copies in (1, 2):
        settings = config(
            epochs=1, pad=0, hflip=0, crop="center", grad_accum_steps=copies, global_batch_size=8 * copies
        )
        train(settings, colors, tmp_path / str(copies))
    torch.testing.assert_close(gradients[1], gradients[2])


def test_a_run_is_not_overwritten(colors, tmp_path):
    train(config(epochs=1), colors, tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(SeresnetError, match="not empty"):
        train(config(epochs=1, seed=5), colors, tmp_path / "run")
    assert torch.equal(before["fc.weight"], weights(tmp_path / "run")["fc.weight"])
    train(config(epochs=1, seed=5), colors, tmp_path / "run", exist_ok=True)
    assert not torch.equal(before["fc.weight"], weights(tmp_path / "run")["fc.weight"])


def test_resume_refuses_another_run(colors, tmp_path):
    with pytest.raises(SeresnetError, match="no checkpoint"):
        train(config(), colors, tmp_path / "nothing", resume=True)
    train(config(epochs=1), colors, tmp_path / "run")
    with pytest.raises(SeresnetError, match="model: seresnet20 then, resnet20 now"):
        train(config(model="resnet20"), colors, tmp_path / "run", resume=True)
    shutil.copytree(colors, tmp_path / "renamed")
    (tmp_path / "renamed" / "red").rename(tmp_path / "renamed" / "rose")
    with pytest.raises(SeresnetError, match=r"classes: 3 then, 3 now \(gone \['red'\], new \['rose'\]\)"):
        train(config(), tmp_path / "renamed", tmp_path / "run", resume=True)
    (tmp_path / "run" / "last" / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(SeresnetError, match=r"cannot resume, and nothing was changed: .* not a weights file"):
        train(config(), colors, tmp_path / "run", resume=True)


def test_a_run_that_diverges_stops_with_its_files_and_a_finite_checkpoint(colors, tmp_path):
    train(config(epochs=1), colors, tmp_path / "run")
    settings = config(epochs=3, lr=1000, weight_decay=1, ema_decay=None, warmup_epochs=0)
    with pytest.raises(SeresnetError, match=r"not finite in 3 steps.*lower --lr.*\.png"):
        train(settings, colors, tmp_path / "run", resume=True)
    state = torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_unreadable_images_are_named_and_left_out(colors, tmp_path):
    data = shutil.copytree(colors, tmp_path / "data")
    (data / "red" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    train(config(epochs=1), data, tmp_path / "run")
    assert f"skipped {data / 'red' / '003.png'}" in (tmp_path / "run" / "log.txt").read_text()


def test_data_that_is_too_small_or_wrong_is_refused(tmp_path, colors):
    with pytest.raises(DataError, match="no such folder"):
        train(config(), tmp_path / "missing", tmp_path / "run")
    with pytest.raises(SeresnetError, match="fewer than one batch"):
        train(config(global_batch_size=1024), colors, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_takes_less_memory_and_leaves_the_weights(colors, tmp_path):
    model, kept = build("seresnet20").train(), {}
    for name in (False, True):
        model.set_grad_checkpointing(name)
        kept[name] = activation_bytes(model, 32)
    assert kept[True] < 0.5 * kept[False]
    for name in (False, True):
        train(config(epochs=1, grad_checkpointing=name), colors, tmp_path / str(name))
    assert_same_run(tmp_path / "False", tmp_path / "True")


def test_without_zero_init_the_last_norms_start_at_one():
    def last_norms(**settings) -> list[torch.Tensor]:
        model = create_network(config(**settings), ("a", "b"), False, None)
        return [block.bn2.weight for stage in model.stages for block in stage]

    assert all((weight == 0).all() for weight in last_norms())
    assert all((weight == 1).all() for weight in last_norms(zero_init_last=False))


def test_a_step_waits_for_the_device_once(colors, tmp_path, monkeypatch):
    """Whatever turns a tensor into Python numbers would wait for a GPU."""
    waits: list[int] = []
    step, inside = Trainer.step, []

    def counted(self, group):
        waits.append(0)
        inside.append(True)
        try:
            return step(self, group)
        finally:
            inside.pop()

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spy(tensor, *arguments, _original=original, **options):
            if inside:
                waits[-1] += 1
            return _original(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, spy)
    monkeypatch.setattr(Trainer, "step", counted)
    full = {
        "mixup": 0.2,
        "cutmix": 1.0,
        "rotation": 5,
        "random_erasing_prob": 0.5,
        "clip_grad": 1.0,
        "grad_accum_steps": 2,
    }
    train(
        config(epochs=1, drop_rate=0.2, drop_path_rate=0.1, optimizer="lamb", lr=0.005, **full),
        colors,
        tmp_path / "run",
    )
    assert set(waits) == {1}
