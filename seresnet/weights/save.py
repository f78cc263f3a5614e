"""Save a model as a directory that this package and timm load: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from seresnet.common.files import atomic_file, json_text, write_text
from seresnet.data.preprocess import Preprocess
from seresnet.errors import WeightsError
from seresnet.models.config import SEResNetConfig
from seresnet.models.fuse import FusedSEResNet
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.convert import to_legacy
from seresnet.weights.model_config import MULTI_LABEL

# Fields of a configuration that stand elsewhere in config.json, or do not matter to a saved model.
_ELSEWHERE = {
    "num_classes",
    "in_chans",
    "drop_rate",
    "drop_path_rate",
    "global_pool",
    "output_stride",
    "zero_init_last",
    "blocks_without_se",
}


def save(model: SEResNet, directory: str | PathLike[str], *, dtype: torch.dtype = torch.float32) -> Path:
    """Write ``config.json`` and ``model.safetensors`` (timm's keys) to ``directory``, each whole or not at all.

    Class names, WordNet ids and preprocessing travel with the weights. ``dtype`` is the floats' type in the file
    (``torch.float16`` halves it); loading gives float32. Returns the directory. Raises WeightsError for weights that
    are not finite, for a network that is none of the named architectures, or has lost stages to
    ``prune_intermediate_layers``, and for a fused network.
    """
    if isinstance(model, FusedSEResNet):
        raise WeightsError("a fused network cannot be saved: save the network that it was made from")
    if not all(model.stages):
        raise WeightsError(
            "a network without its last stages cannot be saved: save it whole, and prune it after loading"
        )
    directory = Path(directory)
    state = file_state(model, dtype)
    config = model_config(model)
    with atomic_file(directory / "model.safetensors") as file:
        file.write(to_bytes(state, {"format": "pt"}))
    write_text(directory / "config.json", json_text(config))
    return directory


def file_state(model: SEResNet, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the state dict as it stands in the file: timm's keys for this lineage, contiguous, on the CPU."""
    state = model.state_dict()
    if model.cfg.lineage == "legacy":
        state = to_legacy(state)
    state = {key: _copy(value, dtype) for key, value in state.items()}
    bad = [key for key, value in state.items() if not value.isfinite().all()]
    if bad:
        wide = dtype in (torch.float32, torch.float64)
        reason = "the training diverged" if wide else f"take float32 if {dtype} is too narrow for them"
        raise WeightsError(f"not saved: {', '.join(bad[:3])} ({len(bad)} in all) hold NaN or infinity; {reason}")
    return state


def _copy(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor of its own memory: safetensors takes no views of one another."""
    kind = dtype if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", kind, copy=True, memory_format=torch.contiguous_format)


def architecture_of(model: SEResNet) -> str:
    """Return the key of ``VARIANTS`` whose network this is. Raises WeightsError where there is none."""
    wanted = _shape_fields(model.cfg)
    for name, row in VARIANTS.items():
        if _shape_fields(row) == wanted:
            return name
    raise WeightsError("this network is none of the named architectures; add its row to VARIANTS to save it")


def _shape_fields(cfg: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(cfg).items() if key not in _ELSEWHERE}


def model_config(model: SEResNet) -> dict[str, Any]:
    """Return ``config.json``, in timm's layout."""
    architecture = architecture_of(model)
    preprocess: Preprocess | None = model.preprocess
    legacy = model.cfg.lineage == "legacy"
    first = "conv1" if model.cfg.stem in ("conv7", "conv3") else "conv1.0"
    tag = model.weights_tag if model.labels else None  # without names, a tag would lend its own
    cfg: dict[str, Any] = {"tag": tag} if tag else {}
    cfg |= preprocess.to_timm() if preprocess else {"input_size": [model.in_chans, 224, 224]}
    cfg |= {
        "num_classes": model.num_classes,
        "first_conv": "layer0.conv1" if legacy else first,
        "classifier": "last_linear" if legacy else "fc",
    }
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool.pool_type,
    }
    if args := _model_args(model, VARIANTS[architecture]):
        config["model_args"] = args
    if model.multi_label:
        config["problem_type"] = MULTI_LABEL
    if model.label_ids:
        config["label_names"] = model.label_ids
        config["label_descriptions"] = dict(zip(model.label_ids, model.labels, strict=True))
    elif model.labels:
        config["label_names"] = model.labels
    return config | {"pretrained_cfg": cfg}


def _model_args(model: SEResNet, row: SEResNetConfig) -> dict[str, Any]:
    """Return what timm has to be told beyond the architecture's name."""
    args: dict[str, Any] = {"in_chans": model.in_chans} if model.in_chans != row.in_chans else {}
    if model.drop_rate != row.drop_rate:
        args["drop_rate"] = model.drop_rate
    if model.cfg.drop_path_rate and row.lineage != "legacy":  # timm's legacy networks have none
        args["drop_path_rate"] = model.cfg.drop_path_rate
    if model.cfg.blocks_without_se:  # timm has no such networks, and refuses the argument
        args["blocks_without_se"] = list(model.cfg.blocks_without_se)
    if model.cfg.output_stride != row.output_stride:
        args["output_stride"] = model.cfg.output_stride
    return args
