"""`seresnet.fuse`: fuse one of this package's networks, or one of timm's."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.fuse import FusedSEResNet, fuse_network
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.convert import is_legacy, normalized
from seresnet.weights.create import create_model
from seresnet.weights.identify import build_on_meta, declared, matching_architectures
from seresnet.weights.index import default_entry, default_transform, entries
from seresnet.weights.pretrained_cfg import weights_cfg
from seresnet.weights.source import resolve

log = logging.getLogger("seresnet")

SAME = 1e-9  # largest relative difference of float64 logits between one network and its copy


def fuse(model: nn.Module, skip_unused: bool = True) -> FusedSEResNet:
    """Return a fused copy of a network: the same logits by less work (see `seresnet.models.fuse`).

    ``model`` is a `SEResNet`, or one of timm's SENet and SE ResNet models (or of its ResNets without excitation, which
    gain their folded batch norms), with any number of classes and input channels. It is not changed. The form is in
    evaluation mode, whichever mode the model is in, in its number format and on its device. timm's is recognised by its
    tensors, and checked by its answers to an image. ``skip_unused=False`` keeps the feature maps of legacy bottleneck
    networks whole. Raises ConfigError for a network that is fused already or that is none of these.
    """
    if isinstance(model, SEResNet):
        return fuse_network(model, skip_unused)
    like = next(model.parameters(), torch.empty(0))
    network = same_network(model)
    form = fuse_network(network, skip_unused)
    return form.to(like.device, like.dtype)


@torch.no_grad()
def same_network(model: nn.Module) -> SEResNet:
    """Return this package's network with timm's tensors, in float64 and in evaluation mode."""
    theirs = copy.deepcopy(model).to("cpu", torch.float64).eval()
    state = theirs.state_dict()
    state, legacy = normalized(state), is_legacy(state)
    for arch in matching_architectures(state, legacy):
        if (VARIANTS[arch].lineage == "legacy") != legacy:
            continue
        ours = network_of(arch, state, theirs)
        if answers_alike(ours, theirs):
            log.info("%s: recognised as %s", type(model).__name__, arch)
            describe(ours, arch, getattr(model, "pretrained_cfg", None))
            return ours
    raise ConfigError(
        f"{type(model).__name__} cannot be fused here: use a SEResNet, or one of timm's SENet or "
        "SE ResNet models (`seresnet models` lists them) with its own activations, pooling and strides"
    )


def network_of(arch: str, state: dict[str, Tensor], theirs: nn.Module) -> SEResNet:
    """Return the network ``arch`` on the tensors of ``state``."""
    classes, chans = declared(state)
    drop_rate = getattr(theirs, "drop_rate", 0.0)
    ours = build_on_meta(replace(VARIANTS[arch], num_classes=classes or 0, in_chans=chans, drop_rate=drop_rate))
    ours.load_state_dict(state, assign=True)
    if not classes:
        ours.reset_classifier(0, "avg" if getattr(theirs.global_pool, "pool_type", "avg") == "avg" else "")
    return ours.eval()


def answers_alike(ours: SEResNet, theirs: nn.Module) -> bool:
    """Return whether both answer an image alike: strides, pooling and activations, which no tensor's shape tells."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, ours.in_chans, 96, 64, generator=generator, dtype=torch.float64)
    a, b = ours(x), theirs(x)
    if not b.isfinite().all():
        raise WeightsError("the network answers NaN or infinity: use another checkpoint")
    return a.shape == b.shape and bool((a - b).abs().max() <= SAME * b.abs().max())


def describe(model: SEResNet, arch: str, cfg: object) -> None:
    """Take over transform and class names from timm's ``pretrained_cfg``, where they are of this network."""
    facts = cfg if isinstance(cfg, dict) else {}
    model.pretrained_cfg = {**facts, "architecture": arch, "num_classes": model.num_classes}
    model.weights_tag = str(facts.get("tag") or "")
    names = facts.get("label_names") or []
    if len(names) == model.num_classes:
        model.labels = [str(name) for name in names]
    if facts:
        model.preprocess = Preprocess.from_timm(facts).with_channels(model.in_chans)


def register_with_timm(prefix: str = "seresnet_") -> list[str]:
    """Register this package's networks with timm, for timm's own scripts, and return their names there.

    ``seresnet18`` becomes ``seresnet_seresnet18``: timm's own networks keep their names. ``timm.create_model`` of such
    a name calls `seresnet.create_model` with its arguments, and timm knows the transform of each weight. timm has to be
    imported before: this package does not import it. Raises ConfigError where it is not, or where a name is timm's
    already.
    """
    timm_models: Any = sys.modules.get("timm.models")
    if timm_models is None:
        raise ConfigError("timm is not imported: call register_with_timm() after `import timm`")
    registered = []
    sys.modules[__name__].__dict__["default_cfgs"] = timm_models.generate_default_cfgs(_default_cfgs(prefix))
    for arch in VARIANTS:
        name = f"{prefix}{arch}"
        if timm_models.is_model(name):
            if timm_models.model_entrypoint(name).__module__ != __name__:
                raise ConfigError(f"timm has a network {name}: choose another prefix")
        else:
            entrypoint = _entrypoint(name, arch)
            setattr(sys.modules[__name__], name, entrypoint)  # where timm looks for it
            timm_models.register_model(entrypoint)
        registered.append(name)
    return registered


def _default_cfgs(prefix: str) -> dict[str, dict[str, Any]]:
    """Return what timm's scripts ask of a name before they create it: transform, classes and source of each weight."""
    names = [*entries(), *(arch for arch in VARIANTS if default_entry(arch) is None)]
    found = {}
    for name in names:
        arch, _, tag = name.partition(".")
        source = resolve(name, False)
        classes = VARIANTS[arch].num_classes if source.num_classes is None else source.num_classes
        transform = source.preprocess or default_transform(arch)
        found[f"{prefix}{name}"] = weights_cfg(arch, tag, transform, classes, VARIANTS[arch])
    return found


def _entrypoint(name: str, arch: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls for a registered name."""

    def entrypoint(pretrained: bool = False, **arguments: Any) -> nn.Module:
        return create_model(arch, pretrained, **arguments)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    return entrypoint
