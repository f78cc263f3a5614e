"""`seresnet.fuse` on timm's own models: the same logits, the model untouched, other networks refused."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import seresnet
from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.fuse import FusedSEResNet
from tests.meta import on_meta_device
from tests.models.pairs import difference, images, randomise
from tests.networks import tiny
from tests.timm_import import timm


def timm_model(arch: str, **settings: object) -> nn.Module:
    """Return one of timm's models in evaluation mode with random weights and statistics."""
    with on_meta_device():
        model = timm.create_model(arch, **{"num_classes": 7, **settings})
    generator = torch.Generator().manual_seed(0)
    state = {name: randomise(name, tensor, generator) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


# gates first, gates last, unused pixels. seresnet50 has the shapes of legacy_seresnet50, seresnetaa50d those of a plain
# network; resnet18 has no excitation.
ROWS = {
    "legacy_seresnet18": (0, 8, 0),
    "legacy_seresnet50": (16, 0, 3),
    "legacy_seresnext26_32x4d": (8, 0, 0),
    "seresnet18": (8, 0, 0),
    "seresnet50": (16, 0, 0),
    "seresnext26t_32x4d": (8, 0, 0),
    "seresnetaa50d": (16, 0, 0),
    "resnet18": (0, 0, 0),
}


@pytest.mark.parametrize(("arch", "counts"), ROWS.items())
@torch.no_grad()
def test_timm_models_keep_their_logits(arch: str, counts: tuple[int, int, int]) -> None:
    model = timm_model(arch)
    x = (
        images(2, 64, 32) if arch == "seresnetaa50d" else images(2, 71, 50)
    )  # its shortcuts round other than its strides
    expected = model(x)
    form = seresnet.fuse(model)
    assert isinstance(form, FusedSEResNet)
    assert difference(form(x), expected) <= 1e-5
    done = form.rewrites
    assert (done.gates_first, done.gates_last, done.unused_pixels) == counts
    assert form.pretrained_cfg["architecture"] == arch
    assert form.num_classes == 7
    model, x = model.double(), x.double()
    exact = seresnet.fuse(model)
    assert {p.dtype for p in exact.parameters()} == {torch.float64}
    assert difference(exact(x), model(x)) <= 1e-10


@torch.no_grad()
def test_the_model_stays_as_it_is() -> None:
    model = timm_model("seresnet18").train()
    before = copy.deepcopy(model.state_dict())
    form = seresnet.fuse(model)
    assert not form.training and all(m.training for m in model.modules())
    for parameter in form.parameters():
        parameter.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet18"])
@pytest.mark.parametrize("settings", [{"in_chans": 1}, {"num_classes": 0}, {"num_classes": 0, "global_pool": ""}])
@torch.no_grad()
def test_channels_and_classifiers(arch: str, settings: dict[str, object]) -> None:
    model = timm_model(arch, **settings)
    x = images(1, 64, 64)[:, : settings.get("in_chans", 3)]  # type: ignore[misc]
    assert difference(seresnet.fuse(model)(x), model(x)) <= 1e-5


@torch.no_grad()
def test_transform_labels_and_number_format_come_along() -> None:
    model = timm_model("legacy_seresnet18").half()
    names = [f"kind {i}" for i in range(7)]
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": names}
    form = seresnet.fuse(model)
    assert form.labels == names
    assert form.preprocess == Preprocess.from_timm(model.pretrained_cfg)
    assert {p.dtype for p in form.parameters()} == {torch.float16}


def test_own_networks_are_taken_and_forms_refused() -> None:
    model = tiny()
    form = seresnet.fuse(model)
    x = images(2, 8, 8)
    with torch.no_grad():
        assert difference(form(x), model(x)) <= 1e-5
    assert form.labels == model.labels
    with pytest.raises(ConfigError, match="already"):
        seresnet.fuse(form)


OTHERS = {
    "another activation": lambda: timm_model("seresnet18", act_layer=nn.SiLU),
    "another stride": lambda: timm_model("seresnet18", output_stride=8),
    "another pooling": lambda: timm_model("seresnet18", global_pool="avgmax"),
    "another gate": lambda: timm_model("seresnet18", block_args={"attn_layer": "ese"}),
    "another family": lambda: timm_model("resnetv2_50"),
    "no network": lambda: nn.Identity(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be fused here"):
        seresnet.fuse(OTHERS[name]())


def test_a_network_of_nan_is_refused() -> None:
    model = timm_model("seresnet18")
    model.layer3[0].conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match="NaN"):
        seresnet.fuse(model)


def test_the_public_name_imports_torch_only_when_it_is_used() -> None:
    code = (
        "import sys, seresnet; assert 'fuse' in dir(seresnet) and 'torch' not in sys.modules;"
        "from tests.networks import tiny;"
        "print(seresnet.fuse(tiny()).rewrites)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "6 batch norms folded, 2 gates" in done.stdout
