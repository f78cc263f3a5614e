"""Explain the prediction of one image: the places and the channels that it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from seresnet.data.decode import MAX_PIXELS, decode
from seresnet.data.names import few
from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, ImageError
from seresnet.explanation.gates import Recorded, record, reference_gates
from seresnet.explanation.grad_cam import grad_cam
from seresnet.explanation.heat_map import Region, heat_map, hottest_box, overlay
from seresnet.models.fuse import FusedSEResNet
from seresnet.models.resnet import SEResNet

Array = NDArray[np.float32]
EXTREMES = 4  # channels that are shown as raised, and as many as lowered
REFERENCE = "the gate at the mean of the training images, from the batch norms of the model"


@dataclass(frozen=True)
class Channel:
    """A channel that an image raises or lowers: its gate, the reference's, and its feature map before the gate."""

    block: str
    index: int
    gate: float
    reference: float
    features: Array = field(repr=False)  # (h, w)

    @property
    def change(self) -> float:
        """The gate without the reference's: above 0 where the image raises the channel."""
        return self.gate - self.reference


@dataclass(frozen=True)
class Explanation:
    """Why a model predicts a class for an image.

    - `index`, `label`: the class that is explained.
    - `probabilities`: of each class (num_classes,).
    - `cam`: the Grad-CAM map (h, w) of the last feature map, not negative; all 0 where no place speaks for the class.
    - `region`: the part of the image that the network sees (left, top, right, bottom), in the image's pixels.
    - `box`: the hottest place (left, top, right, bottom) in the image's pixels, or None.
    - `gates`: of each block by its name (C,), between 0 and 1; `reference`: those that they are compared with.
    - `channels`: those with the largest changes, raised ones first.
    """

    image: Image.Image = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    index: int
    probabilities: Array = field(repr=False)
    cam: Array = field(repr=False)
    region: Region
    box: list[int] | None
    gates: dict[str, Array] = field(repr=False)
    reference: dict[str, Array] = field(repr=False)
    channels: tuple[Channel, ...] = field(repr=False)

    @property
    def label(self) -> str:
        """The class that is explained."""
        return self.labels[self.index]

    @property
    def probability(self) -> float:
        """The probability of the class that is explained."""
        return float(self.probabilities[self.index])

    def heat_map(self) -> Array:
        """Return the heat of each pixel of the image (H, W), 0 to 1; NaN where the network does not see it."""
        return heat_map(self.cam, self.region, self.image.size)

    def overlay(self) -> Image.Image:
        """Return the image with the heat map over it, at full size."""
        return overlay(self.image, self.cam, self.region)

    def top(self, count: int = 5) -> list[tuple[str, int, float]]:
        """Return label, index and probability of the most probable classes, the first one the most."""
        best = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return [(self.labels[i], i, float(self.probabilities[i])) for i in best]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain values: what ``seresnet explain`` writes as JSON, without the path."""
        keys = "label", "index", "probability"
        return {
            "explained": {"label": self.label, "index": self.index, "probability": _short(self.probability)},
            "predictions": [dict(zip(keys, (*row[:2], _short(row[2])), strict=True)) for row in self.top()],
            "size": list(self.image.size),
            "seen": [round(edge, 2) for edge in self.region],
            "hottest_box": self.box,
            "cam": [[_short(value) for value in row] for row in self.cam.tolist()],
            "reference": REFERENCE if self.gates else None,
            "channels": [
                {
                    "block": channel.block,
                    "channel": channel.index,
                    "gate": _short(channel.gate),
                    "reference": _short(channel.reference),
                }
                for channel in self.channels
            ],
            "gates": {name: [_short(value) for value in gate.tolist()] for name, gate in self.gates.items()},
        }


class Explainer:
    """Explains predictions of a network, which it takes over and puts into evaluation mode.

    - `preprocess`, `labels`: in place of the network's own.
    - `device`: that the network is moved to; None leaves it where it is.
    """

    def __init__(
        self,
        network: SEResNet,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        if isinstance(network, FusedSEResNet):
            raise ConfigError("a fused network has no gates to record: explain the network that it was made of")
        self.network = (network if device is None else network.to(device)).eval()
        transform = preprocess or network.preprocess
        if transform is None:
            raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
        if not network.num_classes:
            raise ConfigError("this model has no classifier, so that there is no class to explain")
        self.preprocess: Preprocess = transform
        given = tuple(labels or network.labels)
        known = len(given) == network.num_classes
        self.labels = given if known else tuple(f"class {i}" for i in range(network.num_classes))
        self._independent = network.multi_label or network.num_classes == 1
        self._reference = {name: _array(gate) for name, gate in reference_gates(self.network).items()}

    def explain(self, source: Any, label: str | int | None = None, max_pixels: int = MAX_PIXELS) -> Explanation:
        """Return the explanation of one image.

        - `source`: what `seresnet.data.decode.decode` takes: a path, the bytes of a file, a Pillow image, an array.
        - `label`: the class to explain, by its name or its index; None: the most probable one.

        Raises ImageError for an image that cannot be read, ConfigError for a class that the model does not have.
        """
        target = None if label is None else self.index_of(label)
        image = decode(source, max_pixels=max_pixels)
        pixels = torch.from_numpy(self.preprocess.array(image))[None].to(next(self.network.parameters()).device)
        with record(self.network, inputs=True) as recorded, torch.no_grad():
            features = self.network.forward_features(pixels)
            if target is None:
                target = int(self.network.forward_head(features)[0].argmax())
        cam, logits = grad_cam(self.network, features, target)
        if not bool(logits.isfinite().all()):
            raise ImageError("the network's output is not finite (NaN or infinity): check the weights")
        probabilities = logits.sigmoid() if self._independent else logits.softmax(-1)
        region, heat = self.preprocess.region(image.size), _array(cam[0])
        return Explanation(
            image=image,
            labels=self.labels,
            index=target,
            probabilities=_array(probabilities[0]),
            cam=heat,
            region=region,
            box=hottest_box(heat, region, image.size, self.preprocess),
            gates={name: _array(gate[0]) for name, gate in recorded.gates.items()},
            reference=self._reference,
            channels=self._extremes(recorded),
        )

    def index_of(self, label: str | int) -> int:
        """Return the index of a class by its name, or an index as it is. Raises ConfigError where there is none."""
        if isinstance(label, int):
            if 0 <= label < len(self.labels):
                return label
            raise ConfigError(f"class {label}: the model has the classes 0 to {len(self.labels) - 1}")
        found = [i for i, name in enumerate(self.labels) if name == label]
        found = found or [i for i, name in enumerate(self.labels) if name.casefold() == label.casefold()]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"{label!r} is the name of {len(found)} classes: give one index of {few(map(str, found))}"
            )
        near = get_close_matches(label, self.labels, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the classes are {few(self.labels)}"
        raise ConfigError(f"the model has no class {label!r}: {hint}")

    def _extremes(self, recorded: Recorded) -> tuple[Channel, ...]:
        """Return the channels that an image raises most, then those that it lowers most."""
        if not recorded.gates:
            return ()
        places = [(name, i) for name, gate in self._reference.items() for i in range(len(gate))]
        gates = np.concatenate([_array(recorded.gates[name][0]) for name in self._reference])
        changes = gates - np.concatenate(list(self._reference.values()))
        order = np.argsort(changes, kind="stable")
        raised, lowered = order[: -EXTREMES - 1 : -1], order[:EXTREMES]
        chosen = [i for i in raised if changes[i] > 0] + [i for i in lowered if changes[i] < 0]
        channels = []
        for place in chosen:
            name, index = places[place]
            maps = recorded.inputs[name]
            gate, reference = float(gates[place]), float(self._reference[name][index])
            channels.append(Channel(name, index, gate, reference, _array(maps[0, index])))
        return tuple(channels)


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().float().cpu().numpy().copy()


def _short(value: float) -> float:
    """Return a number with the six digits that a float32 is good for."""
    return float(f"{value:.6g}")
