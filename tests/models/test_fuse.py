"""The fused network against the network it is made of: the same function, by another order of arithmetic."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import skimage
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, WeightsError
from seresnet.inference.classifier import load
from seresnet.models.config import SEResNetConfig
from seresnet.models.count import count_macs
from seresnet.models.fuse import FusedSEResNet, fuse_network
from seresnet.models.gates import BorderGate, Gate
from seresnet.models.resnet import SEResNet
from seresnet.models.squeeze_excite import SqueezeExcite
from seresnet.models.variants import VARIANTS
from seresnet.weights.create import create_model
from seresnet.weights.identify import build_on_meta
from seresnet.weights.save import save
from tests.models.pairs import difference, images, randomise

EXACT, SINGLE = 1e-10, 1e-5  # relative differences: float64, float32


def network(cfg: SEResNetConfig, seed: int = 0) -> SEResNet:
    """Return a network in evaluation mode whose weights, biases and statistics are all random."""
    generator = torch.Generator().manual_seed(seed)
    model = build_on_meta(cfg)
    state = {name: randomise(name, tensor, generator) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def variant(arch: str, **overrides: object) -> SEResNet:
    return network(replace(VARIANTS[arch], num_classes=10, **overrides))


def small(**settings: object) -> SEResNetConfig:
    """Return a configuration of three narrow stages, two blocks each."""
    narrow = {"layers": (2, 2, 2), "channels": (16, 32, 48), "stem_width": 8, "num_classes": 5, "base_width": 64}
    return SEResNetConfig(**{**narrow, **settings})  # type: ignore[arg-type]


CAFFE = small(stride_in="conv1", stem_pool="max_ceil", squeeze_divisor=1, lineage="legacy")
BASIC = small(block="basic")


def narrow(arch: str) -> SEResNet:
    """Return a variant whose stages have three blocks at most, at a part of its width (which no rewrite depends on)."""
    cfg = VARIANTS[arch]
    quarter = (16, 32, 64, 128)
    channels = cfg.channels if cfg.lineage == "cifar" else tuple(c * cfg.first_width_divisor for c in quarter)
    return variant(arch, channels=channels, layers=tuple(min(count, 3) for count in cfg.layers))


@pytest.mark.parametrize("arch", VARIANTS)
def test_every_variant_keeps_its_logits(arch: str) -> None:
    assert_same_logits(narrow(arch))


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_seresnet50", "seresnext26t_32x4d", "seresnet18"])
def test_full_width_keeps_its_logits(arch: str) -> None:
    assert_same_logits(variant(arch))


@torch.no_grad()
def assert_same_logits(model: SEResNet) -> None:
    x = images(2, 33, 34 if model.cfg.anti_alias else 47)
    single = model(x)
    assert (single - single.mean(0)).abs().max() > 0.02 * single.abs().max()  # the images matter
    assert difference(fuse_network(model)(x), single) <= SINGLE
    model, x = model.double(), x.double()
    assert difference(fuse_network(model)(x), model(x)) <= EXACT


@st.composite
def configurations(draw: st.DrawFn) -> SEResNetConfig:
    """Draw a small network of any family, and of mixtures that have no name."""
    family = draw(st.sampled_from(["caffe", "basic", "anti_alias", "bottleneck", "bottleneck"]))
    groups = 1 if family == "basic" else draw(st.sampled_from([1, 2, 4]))
    settings_ = {
        "block": "basic" if family == "basic" else "bottleneck",
        "layers": tuple(draw(st.lists(st.integers(1, 2), min_size=3, max_size=3))),
        "groups": groups,
        "base_width": 64 // groups,
        "first_width_divisor": draw(st.sampled_from([1, 2])),
        "stem": draw(st.sampled_from(["conv7", "deep", "tiered", "conv3"])),
        "stem_pool": draw(st.sampled_from(["max", "max", "max_ceil", "avg", "none"])),
        "stride_in": draw(st.sampled_from(["conv1", "conv2"])),
        "downsample": draw(st.sampled_from(["conv", "avg"])),
        "downsample_kernel": draw(st.sampled_from([1, 3])),
        "reduction": draw(st.sampled_from([2, 4, 16, None])),
        "squeeze_divisor": draw(st.sampled_from([1, 8])),
        "relu_before_se": draw(st.sampled_from([False, False, True])),
    }
    if family == "caffe":
        settings_ |= {"stride_in": "conv1", "downsample": "conv", "downsample_kernel": 1, "relu_before_se": False}
    if family == "anti_alias":
        settings_ |= {"anti_alias": True, "stride_in": "conv2", "downsample": "avg"}
    return small(**settings_)


@given(
    cfg=configurations(),
    height=st.one_of(st.integers(1, 9), st.integers(10, 320)),
    width=st.one_of(st.integers(1, 9), st.integers(10, 64)),
    turned=st.booleans(),
    seed=st.integers(0, 9),
    skip_unused=st.booleans(),
)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@torch.no_grad()
def test_any_network_at_any_size(
    cfg: SEResNetConfig, height: int, width: int, turned: bool, seed: int, skip_unused: bool
) -> None:
    model = network(cfg, seed).double()
    x = images(2, *((width, height) if turned else (height, width))).double()
    form = fuse_network(model, skip_unused)
    try:
        expected = model(x)
    except RuntimeError:  # too small for its pooling: then for the form as well
        event("refused")
        with pytest.raises(RuntimeError):
            form(x)
        return
    event(f"unused pixels in {form.rewrites.unused_pixels} stages")
    assert difference(form(x), expected) <= EXACT


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_the_gate_equals_the_excitation_of_the_convolutions_output(kernel: int) -> None:
    """Also where edges and corners are the same pixels: heights and widths from 1."""
    torch.manual_seed(0)
    se = SqueezeExcite(12, 2, 1).double()
    weight, bias = torch.randn(12, 7, kernel, kernel).double(), torch.randn(12).double()
    gate = (BorderGate if kernel == 3 else Gate)(se, weight, bias)
    for height in range(1, 6):
        for width in range(1, 6):
            h = torch.randn(2, 7, height, width).double()
            expected = se.gate(F.conv2d(h, weight, bias, padding=kernel // 2))
            assert difference(gate(h), expected) <= 1e-13, (height, width)


@torch.no_grad()
def test_each_of_the_nine_sums_matters() -> None:
    """Any edge or corner left out of the gate shows in the logits, far beyond what the other tests allow."""
    model = network(BASIC).double()
    x = images(1, 64, 48).double()
    for part in range(9):
        form = fuse_network(model)
        for gate in (m for m in form.modules() if isinstance(m, BorderGate)):
            gate.fc1.weight.data.unflatten(1, (9, -1))[:, part] = 0
        assert difference(form(x), model(x)) > 1e5 * EXACT, part


ROWS = {
    "legacy_seresnet18": (20, 0, 8, 0),
    "legacy_seresnet50": (53, 16, 0, 3),
    "legacy_seresnext26_32x4d": (29, 8, 0, 0),
    "seresnet18": (20, 8, 0, 0),
    "seresnext26t_32x4d": (31, 8, 0, 0),
    "seresnet20": (21, 9, 0, 0),
    "seresnet50t": (55, 16, 0, 0),
    "resnet18": (20, 0, 0, 0),
}


@pytest.mark.parametrize(("arch", "counts"), ROWS.items())
def test_rewrites_tell_what_was_done(arch: str, counts: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "seresnet"):
        form = fuse_network(variant(arch))
    done = form.rewrites
    assert (done.batch_norms_folded, done.gates_first, done.gates_last, done.unused_pixels) == counts
    assert str(done) in caplog.text
    assert ("a ReLU stands between" in caplog.text) == (counts[2] > 0)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in form.modules())


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (5, 6)])
@torch.no_grad()
def test_feature_maps(size: tuple[int, int]) -> None:
    """Skipping unused pixels keeps every other row and column where the next stage strides; else all are kept."""
    model = network(CAFFE).double()
    x = images(1, *size).double()
    maps = model.forward_intermediates(x, intermediates_only=True)
    whole, quarter = fuse_network(model, skip_unused=False), fuse_network(model)
    for a, b in zip(whole.forward_intermediates(x, intermediates_only=True), maps, strict=True):
        assert difference(a, b) <= EXACT
    skipped = quarter.forward_intermediates(x, intermediates_only=True)
    for index, (a, b) in enumerate(zip(skipped, maps, strict=True)):
        assert difference(a, b[:, :, ::2, ::2] if index in (1, 2) else b) <= EXACT, index
    assert [f["reduction"] for f in model.feature_info] == [2, 4, 8, 16]
    assert [f["reduction"] for f in whole.feature_info] == [2, 4, 8, 16]
    assert [f["reduction"] for f in quarter.feature_info] == [2, 8, 16, 16]


@pytest.mark.parametrize("cfg", [CAFFE, replace(CAFFE, relu_before_se=True), BASIC])
@pytest.mark.parametrize("last", range(4))
@torch.no_grad()
def test_a_pruned_network(cfg: SEResNetConfig, last: int) -> None:
    """Stages that `prune_intermediate_layers` removed are missing from the fused network too."""
    model = network(cfg).double()
    model.prune_intermediate_layers([last])
    x = images(2, 40, 33).double()
    form = fuse_network(model)
    assert [len(stage) for stage in form.stages] == [2] * last + [0] * (3 - last)
    assert difference(form(x), model(x)) <= EXACT
    (kept,) = form.forward_intermediates(x, [last], intermediates_only=True)
    assert difference(kept, model(x)) <= EXACT
    model.preprocess = Preprocess()
    embedded = load(model.float(), engine="torch", precision="float32").embed([Image.new("RGB", (40, 40), "red")])
    assert next(iter(embedded)).shape[0] == model.num_features


@torch.no_grad()
def test_a_gate_behind_its_convolution_needs_all_pixels() -> None:
    model = network(replace(CAFFE, relu_before_se=True)).double()
    x = images(1, 40, 40).double()
    form = fuse_network(model)
    assert form.rewrites.unused_pixels == 0
    assert difference(form(x), model(x)) <= EXACT


def test_unused_pixels_save_what_they_should() -> None:
    """Three quarters of conv3 in the last block of each stage but the last; the excitation's first layer shrinks."""
    model = network(CAFFE)
    whole, quarter = fuse_network(model, skip_unused=False), fuse_network(model)
    saved = 3 / 4 * 16 * 64 * 16**2 + 3 / 4 * 32 * 128 * 8**2  # 64 x 64 pixels: stage 1 has 16 x 16, stage 2 8 x 8
    assert count_macs(whole, (64, 64)) - count_macs(quarter, (64, 64)) == saved
    assert count_macs(whole, (64, 64)) < count_macs(model, (64, 64))


@pytest.mark.parametrize("cfg", [CAFFE, BASIC, small(stem="deep", downsample="avg"), small(reduction=None)])
@torch.no_grad()
def test_the_network_stays_as_it_is(cfg: SEResNetConfig) -> None:
    model = network(cfg).train()
    model.labels = ["a", "b", "c", "d", "e"]
    before = copy.deepcopy(model.state_dict())
    form = fuse_network(model)
    assert model.training and all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))
    assert model.labels == form.labels and model.labels is not form.labels
    for parameter in form.parameters():
        parameter.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not {id(m) for m in model.modules()} & {id(m) for m in form.modules()}


@torch.no_grad()
def test_a_form_computes_what_the_network_does_in_evaluation() -> None:
    model = network(replace(CAFFE, drop_rate=0.5, drop_path_rate=0.5)).double()
    x = images(2, 40, 40).double()
    expected = model(x)
    form = fuse_network(model.train())
    assert not any(m.training for m in form.modules())
    assert difference(form(x), expected) <= EXACT
    features = form.forward_features(x)
    assert torch.equal(form.forward_head(features), form(x))
    assert difference(form.forward_head(features, pre_logits=True), features.mean((2, 3))) <= EXACT


def test_what_a_form_cannot_do(tmp_path: Path) -> None:
    form = fuse_network(network(BASIC))
    with pytest.raises(ConfigError, match="train the network it was made from"):
        form.train()
    assert form.eval() is form
    with pytest.raises(ConfigError, match="keeps its classifier"):
        form.reset_classifier(3)
    with pytest.raises(ConfigError, match="already"):
        fuse_network(form)
    with pytest.raises(WeightsError, match="save the network"):
        save(form, tmp_path / "form")
    assert not (tmp_path / "form").exists()


@pytest.mark.parametrize("cfg", [CAFFE, BASIC, small(stem="deep", downsample="avg", anti_alias=True)])
def test_forms_export_as_one_graph(cfg: SEResNetConfig) -> None:
    form = fuse_network(network(cfg))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(form, (images(2, 64, 48),), dynamic_shapes=(batch,))
    assert "batch_norm" not in str(exported.graph)
    x = images(3, 64, 48)
    assert difference(exported.module()(x), form(x)) <= SINGLE


def test_a_gate_exports_for_any_size() -> None:
    form = fuse_network(network(BASIC))
    sizes = {axis: torch.export.Dim(name, min=17, max=512) for axis, name in ((2, "height"), (3, "width"))}
    exported = torch.export.export(form, (images(2, 64, 48),), dynamic_shapes=(sizes,))
    for size in [(33, 47), (96, 64)]:
        x = images(2, *size)
        assert difference(exported.module()(x), form(x)) <= SINGLE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_other_number_formats_stay(dtype: torch.dtype) -> None:
    model = network(BASIC)
    x = images(1, 32, 32)
    form = fuse_network(copy.deepcopy(model).to(dtype))
    assert {p.dtype for p in form.parameters()} == {dtype}
    assert difference(form(x.to(dtype)).float(), model(x)) <= 0.05


def photographs() -> list[str]:
    folder = Path(skimage.__file__).parent / "data"
    return sorted(str(p) for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".jpeg", ".tif"))


def test_the_trained_networks_top1_stays_on_photographs() -> None:
    """By way of the classifier, which takes a fused network as it takes a network."""
    paths = photographs()
    model = create_model("seresnet20.cifar10", pretrained=True, offline=True)
    form = fuse_network(model)
    assert isinstance(form, FusedSEResNet)
    answers = []
    for network_ in (model, form):
        answers.append(list(load(network_, engine="torch").predict(paths, topk=3)))
    for ours, expected in zip(answers[1], answers[0], strict=True):
        assert ours.labels[:1] == expected.labels[:1]
        assert ours.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    read = [row for row in answers[0] if row.error is None]
    assert len(read) >= 8
    assert len({row.labels[0] for row in read}) > 2  # they are not all one to it


def test_gradients_reach_the_image() -> None:
    """For explanations: what a form cannot do is change its weights, not answer for them."""
    model = network(BASIC).double()
    gradients = []
    for part in (model, fuse_network(model)):
        x: Tensor = images(1, 32, 32).double().requires_grad_()
        (gradient,) = torch.autograd.grad(part(x)[0, 0], x)
        gradients.append(gradient)
    assert difference(gradients[1], gradients[0]) <= EXACT
