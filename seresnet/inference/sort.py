"""Images copied or linked into folders by their predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seresnet.data.placing import Placer, folder_names
from seresnet.inference.prediction import UNKNOWN, Prediction


class ImageSorter:
    """Puts each image into the folder of its most probable class. Nothing is overwritten, and names are kept.

    - `folder`: where the class folders are made.
    - `unknown`: whether there may be images without a class, which go into ``unknown``.
    - `link`: make symbolic links in place of copies.
    """

    def __init__(self, folder: Path, labels: Sequence[str], unknown: bool = False, link: bool = False) -> None:
        self.folder, self.link = folder, link
        self.names = folder_names(labels, (UNKNOWN,) if unknown else ())
        self.placer = Placer()

    def put(self, source: Any, prediction: Prediction) -> Path | None:
        """Copy or link an image, and return where; None for one without a prediction."""
        if prediction.error is not None:
            return None
        index = prediction.indices[0]
        name = UNKNOWN if index is None else self.names[index]
        return self.placer.copy(source, self.folder / name, self.link)
