"""What a run writes down: ``config.json``, ``metrics.csv``, ``log.txt``, TensorBoard events, ``curves.png``."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

from seresnet.common.files import atomic_file, remove_leftovers, write_text
from seresnet.errors import SeresnetError

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
log = logging.getLogger("seresnet")


class LogFile(logging.FileHandler):
    """A log whose failure, on a full disk, is the run's: logging would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: D102
        raise


class RunFolder:
    """The files of one run. An existing run is only continued, or overwritten where ``exist_ok``."""

    def __init__(self, out: Path, *, resume: bool, exist_ok: bool) -> None:
        if out.exists() and not out.is_dir():
            raise SeresnetError(f"{out} is a file; give --out a folder")
        if not (resume or exist_ok) and out.is_dir() and any(out.iterdir()):
            raise SeresnetError(f"{out} is not empty; give --out another folder, or --resume or --exist-ok")
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.rows: list[dict[str, float]] = []
        for folder in (out, out / "last", out / "best"):
            remove_leftovers(folder)
        if not resume:
            (out / "last" / "state.pt").unlink(missing_ok=True)
        mode = "a" if resume else "w"
        self._handler = LogFile(out / "log.txt", mode, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(out))

    def write_config(self, values: dict[str, Any]) -> None:
        """Write the resolved settings."""
        write_text(self.out / "config.json", json.dumps(values, indent=2) + "\n")

    def add_epoch(self, row: dict[str, float]) -> None:
        """Add the metrics of an epoch to the table and the TensorBoard events."""
        self.rows.append(row)
        self._write_rows()
        for key in COLUMNS[2:]:
            if key in row:
                self._events.add_scalar(key, row[key], int(row["step"]))
        self._events.flush()

    def restore(self, rows: list[dict[str, float]]) -> None:
        """Restore the table to what it was at a checkpoint."""
        self.rows = list(rows)
        self._write_rows()

    def _write_rows(self) -> None:
        text = io.StringIO()
        columns = [key for key in COLUMNS if key != "val_map" or any(key in row for row in self.rows)]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(row[key]) for key in columns if key in row} for row in self.rows)
        write_text(self.out / "metrics.csv", text.getvalue())

    def close(self) -> None:
        """Close the log and the events."""
        log.removeHandler(self._handler)
        try:
            self._events.close()
        finally:
            self._handler.close()


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def draw_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw loss and accuracy over the epochs, with the learning rate below, as a PNG."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    multi_label = "val_map" in rows[0]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    for axes, parts, label in zip(
        figure.subplots(1, 3, width_ratios=(3, 3, 2)),
        (("train_loss", "val_loss"), ("val_map",) if multi_label else ("train_top1", "val_top1"), ("lr",)),
        ("loss", "mean average precision (%)" if multi_label else "top-1 accuracy (%)", "learning rate"),
        strict=True,
    ):
        for key, color in zip(parts, ("#9aa5b1", "#1f6feb") if len(parts) == 2 else ("#1f6feb",), strict=True):
            values = [row[key] * (100 if key.endswith(("top1", "map")) else 1) for row in rows]
            name = {"train": "training", "val": "validation"}.get(key.split("_")[0], "")
            axes.plot(epochs, values, color=color, label=name or None, marker="o" if len(rows) == 1 else None)
        axes.set_xlabel("epoch")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(parts) == 2:
            axes.legend(frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
