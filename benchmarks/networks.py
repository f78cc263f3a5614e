"""The networks that the speed records measure: random weights that behave like trained ones, and their controls.

Speed does not depend on the values of weights, so nothing is downloaded. But numbers must stay in a sane range, and
top-1 agreement of two precisions means something only where answers have margins. So the batch norms take their
statistics from photographs, and the classifier is fitted, by ridge regression, to tell the photographs apart from
their mirror images; it is then asked about the photographs themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset8
from torch import nn

import seresnet
from seresnet.data.decode import decode
from seresnet.data.preprocess import Preprocess
from seresnet.engines.openvino.graph import openvino_graph
from seresnet.engines.openvino.int8 import quantize
from seresnet.models.fuse import FusedSEResNet, fuse_network, strides_over_its_input
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build

Batch = NDArray[np.float32]
STATISTICS_IMAGES = 48  # in batches of 16
CALIBRATION_IMAGES = 64  # for the ranges of int8, ours and NNCF's alike
RIDGE = 1e-2  # of the mean squared feature
SHARPNESS = 10.0  # logit of the right class, of a photograph that is fitted perfectly


def photographs(folder: Path, most: int = 200) -> list[Path]:
    """Return the first photographs of a folder, by name."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:most]
    if len(found) < STATISTICS_IMAGES:
        raise SystemExit(f"{folder}: holds {len(found)} JPEG photographs; {STATISTICS_IMAGES} are needed")
    return found


def pixels(paths: Sequence[Path], preprocess: Preprocess) -> Batch:
    """Return photographs as the network sees them, float32 (N, 3, H, W)."""
    return preprocess.normalize(np.stack([preprocess.pixels(decode(path)) for path in paths]))


def calibrated(arch: str, images: Batch, **overrides: Any) -> SEResNet:
    """Return a network with random weights, and batch norm statistics from images."""
    torch.manual_seed(0)
    model = build(arch, **overrides)
    model.preprocess = seresnet.create_model(arch).preprocess
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None  # the mean over all batches, not a moving one
    model.train()
    with torch.no_grad():
        for start in range(0, min(len(images), STATISTICS_IMAGES), 16):
            model(torch.from_numpy(images[start : start + 16]))
    return model.eval()


@torch.inference_mode()
def features(model: SEResNet, images: Batch) -> torch.Tensor:
    """Return pooled features, float64 (N, num_features)."""
    chunks = torch.from_numpy(np.ascontiguousarray(images)).split(16)
    return torch.cat([model.forward_head(model.forward_features(chunk), pre_logits=True) for chunk in chunks]).double()


def fit_classifier(model: SEResNet, images: Batch) -> None:
    """Fit the classifier to images, each a class of its own; the remaining classes get no image."""
    x = features(model, images)
    mean = x.mean(0)
    centred = x - mean
    gram = centred @ centred.T  # (N, N)
    ridge = RIDGE * gram.diagonal().mean()
    weight = SHARPNESS * torch.linalg.solve(gram + ridge * torch.eye(len(x)), centred)  # (N, num_features)
    fc = model.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    with torch.no_grad():
        fc.weight.zero_()
        fc.weight[: len(x)] = weight.float()
        fc.bias.fill_(-SHARPNESS)
        fc.bias[: len(x)] = -(weight @ mean).float()


def weights(arch: str, photos: Sequence[Path], work: Path, **overrides: Any) -> Path:
    """Return a model directory with weights of `calibrated` and `fit_classifier`, made when it is not there."""
    directory = work / arch
    if not (directory / "config.json").exists():
        preprocess = seresnet.create_model(arch).preprocess
        images = pixels(photos, preprocess)
        model = calibrated(arch, images, **overrides)
        fit_classifier(model, images[..., ::-1])
        seresnet.save(model, directory)
    return directory


def graphs(arch: str, photos: Sequence[Path], work: Path) -> dict[str, Path]:
    """Return this project's OpenVINO graphs of a network and of its controls, made where they are not there."""
    directory = weights(arch, photos, work)
    model = seresnet.create_model(directory, pretrained=True).eval()
    images = pixels(photos, model.preprocess)
    whole = fuse_network(model, skip_unused=False)
    forms = {"gates first": whole}
    if fuse_network(model).rewrites.unused_pixels:
        forms["all rewrites"] = fuse_network(model)
    control = None
    found = {}
    for name, form in forms.items():
        found |= _float_and_int8(directory, name, form, images)
    for name, full in (("no excitation", False), ("no excitation, all pixels", True)):
        if full and len(forms) == 1:
            continue  # no pixel is dead: the same network
        control = control or calibrated(arch, images, reduction=None)
        found |= _float_and_int8(directory, name, control_form(control, full), images, full)
    return found


def int8_directory(arch: str, photos: Sequence[Path], work: Path) -> Path:
    """Return a directory as ``seresnet quantize`` writes it, with the int8 graph of `graphs`."""
    found, out = graphs(arch, photos, work), work / f"{arch}-int8"
    final = found.get("all rewrites int8", found["gates first int8"])
    out.mkdir(exist_ok=True)
    shutil.copy(work / arch / "config.json", out)
    for suffix in (".xml", ".bin"):
        shutil.copy(final.with_suffix(suffix), out / f"openvino_model{suffix}")
    return out


def control_form(control: SEResNet, full: bool) -> FusedSEResNet:
    """Return the fused form of a network without excitation.

    ``full``: the same pixels are left out as in the network with excitation, whose gates need all of what the 3x3
    convolutions put out; `watched` then keeps OpenVINO from leaving out more.
    """
    form = fuse_network(control)
    if full:
        for index in range(1, len(form.stages)):
            if strides_over_its_input(control.stages[index][0]):
                form.stages[index - 1][-1].compute_quarter()  # type: ignore[operator]
                form.stages[index][0].read_quarter()  # type: ignore[operator]
    return form


def watched(model: ov.Model) -> ov.Model:
    """Return the model with one value taken out of what each last 1x1 convolution of stride 2 reads.

    OpenVINO moves the stride of such a convolution into the 3x3 convolution before it, as long as nobody else reads
    what lies between; a gate does, and so this one value stands for it, at no cost.
    """
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "Convolution" and name.endswith(".last") and tuple(node.get_strides()) == (2, 2):
            bounds = ([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1])
            corner = opset8.slice(node.input_value(0), *(ov.opset8.constant(np.array(b, np.int64)) for b in bounds))
            model.add_results([opset8.result(corner, name=f"{name}.watched")])
    return model


def _float_and_int8(
    directory: Path, name: str, form: FusedSEResNet, images: Batch, full: bool = False
) -> dict[str, Path]:
    """Return the graph of a form, and the same in 8-bit integers, calibrated on images."""
    found = {}
    for kind in ("float", "int8"):
        path = directory / f"{name} {kind}.xml".replace(" ", "-").replace(",", "")
        found[f"{name} {kind}"] = path
        if not path.exists():
            model = openvino_graph(form) if kind == "float" else quantize(form, [images[:CALIBRATION_IMAGES]]).model
            ov.save_model(watched(model) if full else model, path, compress_to_fp16=False)
    return found
