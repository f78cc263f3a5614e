"""Keys of state dicts, both ways, against timm's own names and shapes."""

from __future__ import annotations

import pytest
import torch

from seresnet.models.variants import VARIANTS, build
from seresnet.weights.convert import from_legacy, is_legacy, normalized, recorded_architecture, to_legacy, unwrap
from tests.timm_import import timm

LEGACY = [arch for arch, row in VARIANTS.items() if row.lineage == "legacy"]


def on_meta(arch: str) -> tuple[dict, dict]:
    with torch.device("meta"):
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


def state(value: float) -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.full((2, 2), value), "fc.bias": torch.full((2,), value)}


def found(checkpoint: object) -> float:
    result = unwrap(checkpoint)
    assert result is not None and set(result) == {"fc.weight", "fc.bias"}
    return result["fc.bias"][0].item()


def prefixed(prefix: str, value: float) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state(value).items()}


@pytest.mark.parametrize(
    "checkpoint",
    [
        state(1.0),
        prefixed("module.", 1.0),
        prefixed("_orig_mod.", 1.0),
        prefixed("module._orig_mod.", 1.0),
        {"state_dict": state(1.0), "epoch": 3, "optimizer": {"state": {}}},
        {"model": prefixed("module.", 1.0), "args": None},
        {"model": {"state_dict": state(1.0)}},
        {"state_dict": state(2.0), "state_dict_ema": state(1.0)},
        {"model_ema": prefixed("module.", 1.0), "model": state(2.0)},
        {"state_dict": state(1.0), "state_dict_ema": None},
        {"n_averaged": torch.tensor(7), **prefixed("module.", 1.0)},
    ],
    ids=lambda checkpoint: "+".join(list(checkpoint)[:2]),
)
def test_wrappers_come_off_and_averaged_weights_win(checkpoint: dict) -> None:
    assert found(checkpoint) == 1.0


def test_what_holds_no_state_dict() -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    for thing in (None, 3, [state(1.0)], {}, {"epoch": 3}, {"state_dict": {}}, torch.zeros(2), endless):
        assert unwrap(thing) is None


def test_architecture_that_a_checkpoint_names() -> None:
    assert recorded_architecture({"arch": "seresnet50.ra2_in1k", "state_dict": {}}) == "seresnet50"
    assert recorded_architecture({"state_dict": {}}) is recorded_architecture({"arch": 3}) is None
