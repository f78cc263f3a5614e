"""The files that a run writes: ``config.json``, ``metrics.csv``, ``log.txt``, TensorBoard events, ``curves.png``."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Self

from filelock import BaseFileLock, FileLock, Timeout

from seresnet.common.files import atomic_file, remove_leftovers, write_text
from seresnet.common.plots import BLUE, GREY, new_figure, tidy
from seresnet.common.text import csv_text
from seresnet.data.image_hashes import FILE as TRAIN_IMAGES
from seresnet.errors import SeresnetError
from seresnet.training.signals import TrainingStopped

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top5",
    "val_map",
    "images_per_s",
    "seconds",
)
LOCK = ".lock"
CURVES_INTERVAL = 30.0  # seconds between two drawings of the curves: one takes as long as an epoch of a small run
ENTRIES = ("log.txt", "config.json", "metrics.csv", "curves.png", TRAIN_IMAGES, "last", "best", "last/state.pt")

log = logging.getLogger("seresnet")


class LogFile(logging.FileHandler):
    """A log whose failure, on a full disk, ends the run: logging would print a traceback and continue."""

    def _open(self) -> io.TextIOWrapper:
        """Open the file itself: a link that was put in its place is not followed."""
        flags = os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        flags |= os.O_APPEND if self.mode == "a" else os.O_TRUNC
        file = os.fdopen(os.open(self.baseFilename, flags, 0o666), "ab")
        return io.TextIOWrapper(file, encoding=self.encoding, errors=self.errors, line_buffering=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: D102
        raise


class RunFolder:
    """The files of one run, a context manager. An existing run is only continued, or overwritten where ``exist_ok``."""

    def __init__(self, out: Path, resume: bool, exist_ok: bool) -> None:
        self.out = out
        self.rows: list[dict[str, float]] = []
        self._title = ""
        self._undrawn, self._drawn_at = False, time.monotonic()  # rows that the curves lack, and when they were drawn
        self._lock = lock_folder(out, may_hold_files=resume or exist_ok)
        try:
            self._open(resume)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TrainingStopped):
            log.info("%s", error)
        elif error is not None:
            self.log_end(error)
        try:
            if self._undrawn:
                self._draw()
        except OSError:
            if error is None:
                raise
        finally:
            self.close()

    def _open(self, resume: bool) -> None:
        """Refuse links, remove what an earlier run left, and open the log and the events."""
        out = self.out
        for name in ENTRIES:
            if (out / name).is_symlink():
                raise SeresnetError(f"{out / name} is a symbolic link, which a run does not write through; remove it")
        for folder in (out, out / "last", out / "best"):
            remove_leftovers(folder)
        if not resume:
            for name in ("last/state.pt", TRAIN_IMAGES):
                (out / name).unlink(missing_ok=True)
        mode = "a" if resume else "w"
        self._handler = LogFile(out / "log.txt", mode, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(out))

    def write_config(self, values: dict[str, Any]) -> None:
        """Write the resolved settings."""
        self._title = str(values["model"])
        write_text(self.out / "config.json", json.dumps(values, indent=2) + "\n")

    def add_epoch(self, row: dict[str, float]) -> None:
        """Add the metrics of an epoch to the table, the TensorBoard events and, every 30 seconds, the curves."""
        self.rows.append(row)
        self._write_rows()
        self._undrawn = True
        if time.monotonic() - self._drawn_at > CURVES_INTERVAL:
            self._draw()
        for key in COLUMNS[2:]:
            if key in row:
                self._events.add_scalar(key, row[key], int(row["step"]))
        self._events.flush()

    def restore(self, rows: list[dict[str, float]]) -> None:
        """Restore the table to what it was at a checkpoint."""
        self.rows, self._undrawn = list(rows), bool(rows)
        self._write_rows()

    def _draw(self) -> None:
        draw_curves(self.rows, self.out / "curves.png", self._title)
        self._undrawn, self._drawn_at = False, time.monotonic()

    def _write_rows(self) -> None:
        columns = [key for key in COLUMNS if key != "val_map" or any(key in row for row in self.rows)]
        rows = ([_short(row[key]) if key in row else "" for key in columns] for row in self.rows)
        write_text(self.out / "metrics.csv", csv_text([columns, *rows]))

    def log_end(self, error: BaseException) -> None:
        """Write into ``log.txt`` alone why the run ended before its last epoch."""
        reason = str(error) or type(error).__name__
        self._handler.emit(log.makeRecord(log.name, logging.ERROR, __file__, 0, f"ended: {reason}", (), None))

    def close(self) -> None:
        """Close the log and the events, and let other runs use the folder."""
        log.removeHandler(self._handler)
        try:
            self._events.close()
        finally:
            self._handler.close()
            self._lock.release()


def lock_folder(out: Path, *, may_hold_files: bool) -> BaseFileLock:
    """Create and lock a run's folder, so that no second run writes into it at the same time."""
    if out.exists() and not out.is_dir():
        raise SeresnetError(f"{out} is a file; give --out a folder")
    lock = FileLock(out / LOCK)
    if (out / LOCK).exists() or not out.is_dir() or may_hold_files or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        if (out / LOCK).is_symlink():
            raise SeresnetError(f"{out / LOCK} is a symbolic link; remove it")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SeresnetError(f"{out}: another run is training into this folder; give --out another one") from None
    if not may_hold_files and any(path.name != LOCK for path in out.iterdir()):
        lock.release()
        raise SeresnetError(f"{out} is not empty; give --out another folder, or --resume or --exist-ok")
    return lock


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def draw_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw loss and accuracy over the epochs, with the learning rate below, as a PNG."""
    epochs = [row["epoch"] for row in rows]
    multi_label = "val_map" in rows[0]
    figure = new_figure(11, 4.2, title, layout="none")
    figure.subplots_adjust(left=0.045, right=0.985, bottom=0.12, top=0.84, wspace=0.22)
    for axes, parts, label in zip(
        figure.subplots(1, 3, width_ratios=(3, 3, 2)),
        (("train_loss", "val_loss"), ("val_map",) if multi_label else ("train_top1", "val_top1"), ("lr",)),
        ("loss", "mean average precision (%)" if multi_label else "top-1 accuracy (%)", "learning rate"),
        strict=True,
    ):
        for key, color in zip(parts, (GREY, BLUE) if len(parts) == 2 else (BLUE,), strict=True):
            values = [row[key] * (100 if key.endswith(("top1", "map")) else 1) for row in rows]
            name = {"train": "training", "val": "validation"}.get(key.split("_")[0], "")
            axes.plot(epochs, values, color=color, label=name or None, marker="o" if len(rows) == 1 else None)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.set_title(label, fontsize=10)
        tidy(axes)
        if len(parts) == 2:
            axes.legend(frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
