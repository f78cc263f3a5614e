"""Arguments of timm's ``create_model`` and of its networks: which are settings here, and which are refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ArgumentError, ConfigError, WeightsError
from seresnet.models.config import POOL_TYPES, SEResNetConfig
from seresnet.models.variants import VARIANTS
from seresnet.weights.source import ModelSource, resolve

SETTINGS = tuple(item.name for item in fields(SEResNetConfig))
# timm's arguments that change nothing here: every network can be scripted and exported.
NO_EFFECT = ("scriptable", "exportable", "no_jit", "feature_cls", "pretrained_strict")
# Arguments that make another network in timm, with the values that leave the network as it is.
OTHER_NETWORK: dict[str, tuple[Any, ...]] = {
    "act_layer": ("relu",),
    "norm_layer": ("batchnorm2d", "batchnorm", "bn"),
    "aa_layer": (),
    "block_args": ({},),
    "drop_block_rate": (0, 0.0),
    "replace_stem_pool": (False,),
    "stem_type": (),
    "cardinality": (),
    "block_reduce_first": (1,),
    "down_kernel_size": (),
    "avg_down": (),
    "bn_momentum": (0.1,),
    "bn_eps": (1e-5,),
    "bn_tf": (False,),
    "img_size": (),
}
TRANSFORM = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def network_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `SEResNetConfig` among the arguments; None stands for the default, as in timm.

    Raises ArgumentError (a ConfigError and a TypeError) for an argument that is unknown or makes another network.
    """
    found = {}
    for key, value in arguments.items():
        if key == "reduction":  # None means: no excitation
            found[key] = value
        elif value is None or key in NO_EFFECT:
            continue
        elif key in OTHER_NETWORK:
            if not any(value == same and type(value) is type(same) for same in OTHER_NETWORK[key]):
                raise ArgumentError(f"{key}={value!r} makes another network than the named one: use timm for it")
        elif key in SETTINGS:
            found[key] = value
        else:
            near = difflib.get_close_matches(key, SETTINGS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}"
            raise ArgumentError(f"{key} is not a setting of a network; {hint}")
    if found.get("global_pool", "avg") not in POOL_TYPES:
        raise ConfigError(f"global_pool is {found['global_pool']!r}: use 'avg', 'max', 'avgmax', 'catavgmax' or ''")
    return found


def resolve_pretrained(
    name: str, pretrained: bool, offline: bool | None, pretrained_cfg: object = None, overlay: object = None
) -> ModelSource:
    """Return the source of a name with timm's ``pretrained_cfg`` and ``pretrained_cfg_overlay``.

    ``pretrained_cfg`` is a tag (``"a1_in1k"``) or what is known of the weights, as a mapping or timm's object: ``file``
    or ``hf_hub_id`` is where they come from, and the transform, ``num_classes`` and ``label_names`` go with them.
    """
    if isinstance(pretrained_cfg, str):
        name, pretrained_cfg = f"{name.partition('.')[0]}.{pretrained_cfg}", None
    arch, _, tag = name.partition(".")
    if tag == "untrained" and arch in VARIANTS:  # timm's name for a network without weights
        name = arch
    facts = {**_facts(pretrained_cfg), **_facts(overlay)}
    if not facts:
        return resolve(name, pretrained, offline)
    if facts.get("state_dict") is not None:
        raise WeightsError("pretrained_cfg has a state_dict: create the network, then call its load_state_dict")
    source = base = resolve(name, False, offline)
    if pretrained:
        found = resolve(_place(name, facts, overlay), True, offline)
        source = replace(found, arch=found.arch or base.arch, preprocess=found.preprocess or base.preprocess)
    changes: dict[str, Any] = {}
    if transform := {key: facts[key] for key in TRANSFORM if facts.get(key) is not None}:
        known = source.preprocess.to_timm() if source.preprocess else {}
        changes["preprocess"] = Preprocess.from_timm(known | transform)
    if facts.get("num_classes") is not None:
        changes["num_classes"] = int(facts["num_classes"])
    names = facts.get("label_names")
    if names and len(names) == changes.get("num_classes", source.num_classes):
        changes |= {"labels": tuple(map(str, names)), "label_ids": ()}
    return replace(source, **changes)


def _facts(cfg: object) -> dict[str, Any]:
    """Return what a mapping, or an object of timm, says and does not leave open."""
    to_dict = getattr(cfg, "to_dict", None)
    known = to_dict() if callable(to_dict) else cfg or {}
    if not isinstance(known, Mapping):
        raise ArgumentError(f"pretrained_cfg is {cfg!r}: give a tag, or a mapping such as {{'file': 'model.pth'}}")
    return {str(key): value for key, value in known.items() if value is not None and value != ""}


def _place(name: str, facts: Mapping[str, Any], overlay: object) -> str:
    """Return the name to load weights by: a file, the tag's entry, or a repository on the Hub."""
    if facts.get("file"):
        return str(facts["file"])
    if "url" in _facts(overlay):
        raise WeightsError("pretrained_cfg_overlay has a url: download the file, and pass it as 'file'")
    if facts.get("hf_hub_id") and ("hf_hub_id" in _facts(overlay) or not facts.get("tag")):
        return f"hf-hub:{facts['hf_hub_id']}"
    return f"{name.partition('.')[0]}.{facts['tag']}" if facts.get("tag") else name


def resolve_checkpoint(name: str, path: str) -> ModelSource:
    """Return the source of ``create_model``'s ``checkpoint_path``: a file for the architecture ``name``."""
    base, source = resolve(name, False), resolve(path, True)
    return replace(source, arch=base.arch, preprocess=source.preprocess or base.preprocess)
