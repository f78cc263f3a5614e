"""A run's folder belongs to one run at a time, follows no planted links, and takes any name into its pictures."""

import logging

import pytest
from filelock import FileLock

from seresnet.errors import SeresnetError
from seresnet.training import run_folder
from seresnet.training.run_folder import LOCK, RunFolder, draw_curves


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    out = tmp_path / "run"
    first = RunFolder(out, resume=False, exist_ok=False)
    before = (out / "log.txt").stat().st_mtime_ns
    for options in (
        {"resume": False, "exist_ok": False},
        {"resume": True, "exist_ok": False},
        {"resume": False, "exist_ok": True},
    ):
        with pytest.raises(SeresnetError, match="another run is training into this folder; give --out another one"):
            RunFolder(out, **options)
    assert (out / "log.txt").stat().st_mtime_ns == before
    first.close()
    RunFolder(out, resume=False, exist_ok=True).close()


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SeresnetError, match="is not empty"):
        RunFolder(tmp_path, resume=False, exist_ok=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["log.txt", "metrics.csv", "config.json", "curves.png", "train_images.npy", "last", "best", LOCK]
)
def test_a_planted_link_is_refused_and_its_target_untouched(tmp_path, name):
    target = tmp_path / "target"
    target.mkdir() if name in ("last", "best") else target.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(target)
    with pytest.raises(SeresnetError, match="is a symbolic link"):
        RunFolder(tmp_path / "run", resume=False, exist_ok=True)
    assert not list(target.iterdir()) if target.is_dir() else target.read_text() == "precious"
    (tmp_path / "run" / name).unlink()
    RunFolder(tmp_path / "run", resume=False, exist_ok=True).close()  # and the folder is free again


def test_a_run_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    RunFolder(tmp_path / "runs" / "mine", resume=False, exist_ok=False).close()
    assert (tmp_path / "disk" / "mine" / "log.txt").exists()


def test_the_end_of_a_run_is_logged(tmp_path):
    folder = RunFolder(tmp_path / "run", resume=False, exist_ok=False)
    logging.getLogger("seresnet").info("epoch 1")
    folder.log_end(SeresnetError("no space left"))
    folder.close()
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["epoch 1", "ended: no space left"]


def test_a_model_may_have_any_name_in_the_title(tmp_path):
    row = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "train_top1": 0.5, "val_top1": 0.5, "lr": 0.1}
    draw_curves([row], tmp_path / "curves.png", r"m$\frac$")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_curves_are_drawn_from_time_to_time_and_at_the_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run_folder, "draw_curves", lambda rows, path, title: drawn.append((len(rows), title)))
    row = {"epoch": 1, "step": 1, "train_loss": 1.0, "val_loss": 1.0, "train_top1": 0.5, "val_top1": 0.5, "lr": 0.1}
    with pytest.raises(SeresnetError), RunFolder(tmp_path / "run", resume=False, exist_ok=False) as folder:
        folder.write_config({"model": "seresnet20"})
        folder.add_epoch(row)
        assert drawn == []
        monkeypatch.setattr(run_folder, "CURVES_INTERVAL", 0.0)
        folder.add_epoch(row)
        assert drawn == [(2, "seresnet20")]
        monkeypatch.setattr(run_folder, "CURVES_INTERVAL", 1000.0)
        folder.add_epoch(row)
        raise SeresnetError("not finite in 3 steps")
    assert drawn == [(2, "seresnet20"), (3, "seresnet20")]


def test_the_lock_is_an_ordinary_one(tmp_path):
    folder = RunFolder(tmp_path / "run", resume=False, exist_ok=False)
    lock = FileLock(tmp_path / "run" / LOCK)
    with pytest.raises(TimeoutError):
        lock.acquire(timeout=0)
    folder.close()
    lock.acquire(timeout=0)
    lock.release()
