"""Keys of state dicts, both ways, against timm's own names and shapes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import seresnet
from seresnet.models.variants import VARIANTS, build
from seresnet.weights.convert import from_legacy, is_legacy, normalized, to_legacy
from tests.meta import on_meta_device
from tests.models.pairs import difference, make_pair
from tests.timm_import import timm
from tests.weights.nets import logits

LEGACY = [arch for arch, row in VARIANTS.items() if row.lineage == "legacy"]


def on_meta(arch: str) -> tuple[dict, dict]:
    with on_meta_device():
        return build(arch).state_dict(), timm.create_model(arch).state_dict()


def shapes(state) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("arch", LEGACY)
def test_legacy_keys_both_ways(arch: str) -> None:
    ours, theirs = on_meta(arch)
    assert is_legacy(theirs) and not is_legacy(ours)
    assert shapes(from_legacy(theirs)) == shapes(ours)
    assert shapes(to_legacy(ours)) == shapes(theirs)
    assert all(to_legacy(from_legacy(theirs))[key] is value for key, value in theirs.items())


def test_modern_keys_are_left_alone() -> None:
    ours, theirs = on_meta("seresnext26t_32x4d")
    assert not is_legacy(theirs)
    assert shapes(normalized(theirs)) == shapes(ours)


def test_linear_excitations_become_convolutions() -> None:
    """Old files hold ``nn.Linear`` excitations."""
    ours, theirs = on_meta("legacy_seresnet18")
    linear = {k: v[..., 0, 0] if ".se_module.fc" in k and k.endswith("weight") else v for k, v in theirs.items()}
    assert shapes(linear) != shapes(theirs)
    assert shapes(normalized(linear)) == shapes(ours)


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_seresnet50"])
@pytest.mark.parametrize("linear", [False, True])
def test_load_state_dict_takes_timms_keys(arch: str, linear: bool) -> None:
    """Code that was written for timm's networks, and Cadene's files with linear excitations and without counters."""
    ours, theirs = make_pair(arch, num_classes=7)
    state = theirs.state_dict()
    if linear:
        state = {k: v[..., 0, 0] if ".se_module." in k and v.ndim == 4 else v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    kept = dict(state)
    for model in (
        seresnet.create_model(arch, num_classes=7),
        copy.deepcopy(seresnet.create_model(arch, num_classes=7)),
    ):
        assert model.load_state_dict(state, strict=True).missing_keys == []
        assert state.keys() == kept.keys() and all(state[key] is value for key, value in kept.items())
        assert difference(logits(model), logits(theirs)) <= 1e-5
        assert set(model.state_dict()) == set(ours.state_dict())


def test_load_state_dict_takes_them_within_another_module_and_in_part() -> None:
    _, theirs = make_pair("legacy_seresnet18", num_classes=7)
    model = seresnet.create_model("legacy_seresnet18", num_classes=7)
    whole = nn.ModuleDict({"backbone": model, "head": nn.Linear(3, 3)})
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    result = whole.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["head.weight", "head.bias"], [])
    assert torch.equal(model.fc.weight, theirs.last_linear.weight)
    head = {"last_linear.weight": torch.ones(7, 512), "last_linear.bias": torch.ones(7)}
    assert model.load_state_dict(head, strict=False).unexpected_keys == []
    assert bool((model.fc.weight == 1).all())


def test_a_modern_network_does_not_take_legacy_keys() -> None:
    _, theirs = make_pair("legacy_seresnet50", num_classes=7)
    with pytest.raises(RuntimeError, match="Missing key"):
        seresnet.create_model("seresnet50", num_classes=7).load_state_dict(theirs.state_dict())
