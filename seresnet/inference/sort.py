"""Images copied or linked into folders by their predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seresnet.data.placing import Placer, folder_names
from seresnet.errors import ConfigError
from seresnet.inference.prediction import Prediction

UNKNOWN = "unknown"  # the folder of images whose best probability is below the threshold


class ImageSorter:
    """Puts each image into the folder of its most probable class. Nothing is overwritten, and names are kept.

    - `folder`: where the class folders are made.
    - `threshold`: the least probability, 0 to 1; below it an image goes into ``unknown``.
    - `link`: make symbolic links in place of copies.
    """

    def __init__(self, folder: Path, labels: Sequence[str], threshold: float | None = None, link: bool = False) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must lie between 0 and 1, not {threshold}")
        self.folder, self.threshold, self.link = folder, threshold, link
        self.names = folder_names(labels, (UNKNOWN,) if threshold is not None else ())
        self.placer = Placer()

    def put(self, source: Any, prediction: Prediction) -> Path | None:
        """Copy or link an image, and return where; None for one without a prediction."""
        if prediction.error is not None:
            return None
        below = self.threshold is not None and prediction.probabilities[0] < self.threshold
        name = UNKNOWN if below else self.names[prediction.indices[0]]
        return self.placer.copy(source, self.folder / name, self.link)
