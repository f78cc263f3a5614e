"""What people see on stderr while images are processed: which model runs, how many are done, and a summary."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from seresnet.common.progress import Progress
from seresnet.common.text import printable

if TYPE_CHECKING:
    from seresnet.data.dataset import ImageSet
    from seresnet.inference.classifier import Classifier


def announce(clf: Classifier, model: str | None) -> None:
    """Print the model, and the engine that runs it; ``model`` is None if the user gave none."""
    if model is None:
        data = {"cifar10": "CIFAR-10 "}.get(clf.model_name.rpartition(".")[2], "")
        print(
            f"no --model given: using the bundled {clf.model_name} ({clf.num_classes} {data}classes)", file=sys.stderr
        )
    print(f"{printable(clf.model_name)}: {clf.engine.describe()}", file=sys.stderr, flush=True)


def or_default(model: str | None) -> str:
    """Return the model that the user gave, or the bundled one, and print that it is used."""
    from seresnet.inference.classifier import DEFAULT_MODEL

    if model is None:
        print(f"no --model given: using the bundled {DEFAULT_MODEL}", file=sys.stderr)
    return model or DEFAULT_MODEL


def note_trained_on(model: str, images: ImageSet, advice: str = "") -> None:
    """Print how many of the images a model directory was trained on, by content, where that is known and not none."""
    from seresnet.data.dataset import Stream
    from seresnet.data.image_hashes import count_trained_on

    if not Path(model).is_dir() or isinstance(images.samples, Stream):
        return
    if known := count_trained_on(Path(model), (image for image, _ in images.samples)):
        end = f"; {advice}" if advice else ""
        print(f"note: {printable(model)} was trained on {known:,} of these images{end}", file=sys.stderr)


class ImageProgress:
    """Count images as they are done, name those that could not be read, and sum up at the end.

    ``bar=False`` keeps a terminal free for the results themselves. ``count``, where given, is called in a thread of
    its own to find out how many images there are.
    """

    def __init__(self, *, bar: bool, count: Callable[[], int] | None = None) -> None:
        self.done = self.unreadable = 0
        self._progress = Progress(bar=bar)
        self._count = count
        self._start = time.perf_counter()

    def __enter__(self) -> ImageProgress:
        self._progress.__enter__()
        if self._count and self._progress.has_bar:
            threading.Thread(target=self._find_total, args=(self._count,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def advance(self, path: str | None, error: str | None, *, shown: bool = False) -> None:
        """Count one image; ``shown`` says that the results on this very terminal name it already."""
        self.done += 1
        if error is not None:
            self.unreadable += 1
            if not shown:
                self._progress.say(f"seresnet: cannot read {printable(path or 'an image')}: {printable(error)}")
        self._progress.update("images", self.done, info=f"{self.rate:,.1f} images/s")

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return self.done / max(1e-9, time.perf_counter() - self._start)

    def summary(self) -> str:
        """Return what was done, in one line."""
        if not self.done:
            return "no images"
        seconds = time.perf_counter() - self._start
        text = f"{self.done:,} image{'' if self.done == 1 else 's'} in {seconds:.1f} s ({self.rate:,.1f} images/s)"
        return f"{text}, {self.unreadable:,} of them could not be read" if self.unreadable else text

    def _find_total(self, count: Callable[[], int]) -> None:
        with contextlib.suppress(OSError):  # a folder that went away is named where it is read
            total = count()
            self._progress.update("images", self.done, total)
