"""timm's ``pretrained_cfg`` (``default_cfg``) of a network: its weights, transform and layers."""

from __future__ import annotations

from typing import Any

from seresnet.data.preprocess import Preprocess
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet
from seresnet.weights.index import Entry, default_entry, find_entry

UNTRAINED_TEST = (288, 0.95)  # size and crop that timm proposes for modern networks without weights
TIMM_URL = "https://github.com/huggingface/pytorch-image-models"


def timm_cfg(network: SEResNet, arch: str, tag: str) -> dict[str, Any]:
    """Return timm's keys with timm's types (tuples) for a network whose ``preprocess`` is set.

    ``tag`` names its weights; without one, those that the architecture's name alone stands for are described.
    """
    return weights_cfg(arch, tag, network.preprocess, network.num_classes, network.cfg)


def weights_cfg(
    arch: str, tag: str, preprocess: Preprocess, num_classes: int, network: SEResNetConfig
) -> dict[str, Any]:
    """Return timm's keys with timm's types for weights by their architecture and tag (see `timm_cfg`)."""
    entry = find_entry(f"{arch}.{tag}") if tag else default_entry(arch)
    cfg: dict[str, Any] = {"url": (entry.url if entry else None) or ""}
    if entry and entry.hub:
        cfg["hf_hub_id"] = entry.hub
    cfg |= {"architecture": arch, "tag": tag or (entry.tag if entry else "untrained"), "custom_load": False}
    cfg |= _transform(preprocess, network.lineage, entry)
    first = "conv1" if network.stem in ("conv7", "conv3") else "conv1.0"
    cfg |= {"num_classes": num_classes, "pool_size": _pool_size(network, cfg["input_size"])}
    cfg |= {"first_conv": first, "classifier": "fc", "license": (entry.license if entry else None) or "apache-2.0"}
    if network.lineage == "modern":
        cfg["origin_url"] = TIMM_URL
    if entry and entry.papers:
        papers = tuple(paper.replace("arXiv ", "arXiv:") for paper in entry.papers)
        cfg["paper_ids"] = papers[0] if len(papers) == 1 else papers
    return cfg


def _transform(preprocess: Preprocess, lineage: str, entry: Entry | None) -> dict[str, Any]:
    """Return the evaluation transform, with the other size and crop that the weights' authors evaluate at."""
    facts = preprocess.to_timm()
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    found["fixed_input_size"] = False
    test = entry.test if entry else UNTRAINED_TEST if lineage == "modern" else None
    if test:
        size, crop_pct = test
        found |= {"test_input_size": (found["input_size"][0], size, size), "test_crop_pct": crop_pct}
    return found


def _pool_size(network: SEResNetConfig, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """Return height and width of the last feature map."""
    stem = (1 if network.stem == "conv3" else 2) * (1 if network.stem_pool == "none" else 2)
    reduction = min(network.output_stride, stem * 2 ** (len(network.layers) - 1))
    return -(-input_size[1] // reduction), -(-input_size[2] // reduction)
