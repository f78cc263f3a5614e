"""timm's ``pretrained_cfg`` (``default_cfg``) of a network: its weights, transform and layers."""

from __future__ import annotations

from typing import Any

from seresnet.models.resnet import SEResNet
from seresnet.weights.index import Entry, default_entry, find_entry

UNTRAINED_TEST = (288, 0.95)  # size and crop that timm proposes for modern networks without weights
TIMM_URL = "https://github.com/huggingface/pytorch-image-models"


def timm_cfg(network: SEResNet, arch: str, tag: str) -> dict[str, Any]:
    """Return timm's keys with timm's types (tuples) for a network whose ``preprocess`` is set.

    ``tag`` names its weights; without one, those that the architecture's name alone stands for are described.
    """
    entry = find_entry(f"{arch}.{tag}") if tag else default_entry(arch)
    cfg: dict[str, Any] = {"url": (entry.url if entry else None) or ""}
    if entry and entry.hub:
        cfg["hf_hub_id"] = entry.hub
    cfg |= {"architecture": arch, "tag": tag or (entry.tag if entry else "untrained"), "custom_load": False}
    cfg |= _transform(network, entry)
    first = "conv1" if network.cfg.stem in ("conv7", "conv3") else "conv1.0"
    cfg |= {"num_classes": network.num_classes, "pool_size": _pool_size(network, cfg["input_size"])}
    cfg |= {"first_conv": first, "classifier": "fc", "license": (entry.license if entry else None) or "apache-2.0"}
    if network.cfg.lineage == "modern":
        cfg["origin_url"] = TIMM_URL
    if entry and entry.papers:
        papers = tuple(paper.replace("arXiv ", "arXiv:") for paper in entry.papers)
        cfg["paper_ids"] = papers[0] if len(papers) == 1 else papers
    return cfg


def _transform(network: SEResNet, entry: Entry | None) -> dict[str, Any]:
    """Return the evaluation transform, with the other size and crop that the weights' authors evaluate at."""
    facts = network.preprocess.to_timm()
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    found["fixed_input_size"] = False
    test = entry.test if entry else UNTRAINED_TEST if network.cfg.lineage == "modern" else None
    if test:
        size, crop_pct = test
        found |= {"test_input_size": (found["input_size"][0], size, size), "test_crop_pct": crop_pct}
    return found


def _pool_size(network: SEResNet, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """Return height and width of the last feature map."""
    reduction = network.feature_info[-1]["reduction"]
    return -(-input_size[1] // reduction), -(-input_size[2] // reduction)
