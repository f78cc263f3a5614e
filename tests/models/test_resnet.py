"""The conventions that timm's users rely on: classifier, features, dropout, checkpointing, parameter groups."""

import re

import pytest
import torch
from torch import nn

from seresnet.models.blocks import DropPath
from seresnet.models.resnet import SEResNet
from seresnet.models.squeeze_excite import SqueezeExcite, squeeze_width
from seresnet.models.variants import VARIANTS, build
from tests.meta import on_meta_device
from tests.models.pairs import ARCHS, difference, images, make_pair
from tests.timm_import import timm

FAMILIES = ["legacy_seresnet18", "legacy_seresnext26_32x4d", "seresnet18", "seresnext26t_32x4d", "resnet18"]


def perturbed(arch: str, **overrides: object) -> SEResNet:
    """Return a small network of our own whose norms and biases are no longer the special values of a new one."""
    torch.manual_seed(0)
    model = build(arch, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.empty_like(parameter).uniform_(0.1, 0.5))
    return model


@pytest.mark.parametrize("arch", [*FAMILIES, "seresnet20"])
def test_forward_is_its_parts(arch: str) -> None:
    model = perturbed(arch).eval()
    x = images(2, 40, 56)
    with torch.no_grad():
        logits = model(x)
        features = model.forward_features(x)
        pooled = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model.fc(pooled), logits)
        assert torch.allclose(pooled, features.flatten(2).mean(2), atol=1e-6)
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, features)
        assert torch.equal(maps[-1], features)
        gates = [
            m.gate(torch.randn(2, m.fc1.in_channels, 3, 3)) for m in model.modules() if isinstance(m, SqueezeExcite)
        ]
    assert all(g.min() > 0 and g.max() < 1 and g.shape[2:] == (1, 1) for g in gates)
    assert len(gates) == (sum(model.cfg.layers) if model.cfg.reduction else 0)


@pytest.mark.parametrize("indices", [None, 1, 3, [0], [2, 4], (-1,), [-2, 0], range(1, 4)])
@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet18"])
def test_forward_intermediates_equals_timm(arch: str, indices: object, stop_early: bool) -> None:
    ours, theirs = make_pair(arch)
    x = images(1, 64, 64)
    arguments = {"indices": list(indices) if isinstance(indices, range) else indices, "stop_early": stop_early}
    with torch.no_grad():
        our_last, our_maps = ours.forward_intermediates(x, **arguments)
        last, maps = theirs.forward_intermediates(x, **arguments)
        only = ours.forward_intermediates(x, **arguments, intermediates_only=True)
    assert difference(our_last, last) <= 1e-5
    assert [m.shape for m in our_maps] == [m.shape for m in maps]
    assert all(difference(a, b) <= 1e-5 for a, b in zip(our_maps, maps, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(only, our_maps, strict=True))


def test_forward_intermediates_runs_no_stage_behind_the_last_one_asked_for() -> None:
    model = build("seresnet18").eval()
    ran: list[str] = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model.forward_intermediates(images(1, 32, 32), indices=[0, 2], stop_early=True)
    assert ran == ["layer1", "layer2"]


@pytest.mark.parametrize("indices", [0, 6, [5], [-6], []])
def test_forward_intermediates_refuses_indices_out_of_range(indices: object) -> None:
    with pytest.raises(ValueError, match="feature maps 0 to 4"):
        build("seresnet18").forward_intermediates(images(1, 32, 32), indices=indices)


def test_forward_intermediates_refuses_other_layouts() -> None:
    with pytest.raises(ValueError, match="NCHW"):
        build("seresnet18").forward_intermediates(images(1, 32, 32), output_fmt="NLC")


@pytest.mark.parametrize("arch", VARIANTS)
def test_feature_info_tells_the_real_shapes(arch: str) -> None:
    with on_meta_device():
        model = build(arch).eval()
    model.to_empty(device="cpu")  # some numbers or other: the shapes are what counts, which on "meta" takes longer
    with torch.inference_mode():
        maps = model.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)
    expected = [(1, f["num_chs"], 64 // f["reduction"], 64 // f["reduction"]) for f in model.feature_info]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(isinstance(model.get_submodule(f["module"]), nn.Module) for f in model.feature_info)
    assert maps[-1].shape[1] == model.num_features


def test_reset_classifier() -> None:
    model = perturbed("seresnet18", num_classes=10).eval()
    model.labels, model.label_ids = ["a"] * 10, ["n1"] * 10
    x = images(2, 32, 32)
    before = model.forward_features(x)

    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.num_classes == model.cfg.num_classes == 3
    assert (model.labels, model.label_ids) == ([], [])
    assert not model.fc.training
    assert model.get_classifier() is model.fc
    assert model.get_classifier(name_only=True) == "fc"
    assert torch.equal(model.forward_features(x), before)

    model.reset_classifier(0)
    assert torch.equal(model(x), before.mean((2, 3)))
    model.reset_classifier(0, global_pool="")
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(5, global_pool="")
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(0, global_pool="median")
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)


def test_reset_classifier_keeps_the_precision() -> None:
    model = build("seresnet18").double()
    model.reset_classifier(4)
    assert model.fc.weight.dtype == torch.float64


def test_a_network_without_classifier_gives_pooled_features() -> None:
    model = build("seresnet18", num_classes=0).eval()
    assert model(images(2, 32, 32)).shape == (2, 512)


def test_drop_rate_drops_that_share_in_training_alone() -> None:
    model = build("seresnet18", drop_rate=0.2)
    features = torch.ones(64, 512, 1, 1)
    torch.manual_seed(0)
    dropped = model.train().forward_head(features, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)  # 5 standard deviations: 0.011
    assert torch.equal(model.eval().forward_head(features, pre_logits=True), features.flatten(1))


def test_drop_path_drops_whole_branches_in_training_alone() -> None:
    path = DropPath(0.25)
    x = torch.ones(10_000, 2, 2, 1)
    torch.manual_seed(0)
    out = path.train()(x)
    assert torch.equal(out, out[:, :1, :1, :1].expand_as(out))
    values = out[:, 0, 0, 0]
    assert torch.allclose(values.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (values == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(path.eval()(x), x)


def test_drop_path_rate_grows_linearly_from_zero() -> None:
    model = build("seresnet18", drop_path_rate=0.7)
    rates = [getattr(block.drop_path, "rate", 0.0) for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnext26t_32x4d", "seresnet20"])
def test_grad_checkpointing_gives_the_same_gradients(arch: str) -> None:
    x = images(2, 64, 64)
    gradients, ran = [], []
    for enable in (False, True):
        model = perturbed(arch, drop_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        calls = []
        model.layer1[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
        ran.append(len(calls))
    assert ran == [1, 2]  # run again in the backward pass
    assert all(difference(a, b) <= 1e-5 for a, b in zip(*gradients, strict=True))
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


def test_grad_checkpointing_leaves_the_running_statistics_alike() -> None:
    """Recomputation in the backward pass must not move batch norm's running statistics a second time."""
    states = []
    for enable in (False, True):
        model = perturbed("seresnet20").train()
        model.set_grad_checkpointing(enable)
        model(images(4, 32, 32)).square().mean().backward()
        states.append(dict(model.named_buffers()))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_grad_checkpointing_keeps_less_in_memory() -> None:
    """Bytes that autograd keeps between the passes, without what the parameters hold anyway."""
    kept = []
    for enable in (False, True):
        model = perturbed("seresnet20").train()
        model.set_grad_checkpointing(enable)
        parameters = {p.data_ptr() for p in model.parameters()}
        saved: dict[int, int] = {}

        def keep(t: torch.Tensor, saved: dict[int, int] = saved, parameters: set[int] = parameters) -> torch.Tensor:
            if t.data_ptr() not in parameters:
                saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model(images(4, 32, 32))
        kept.append(sum(saved.values()))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_senet154", "seresnet50t", "seresnetaa50d", "seresnet20"])
def test_group_matcher_puts_every_parameter_into_one_group(arch: str, coarse: bool) -> None:
    with on_meta_device():
        model = build(arch)
    patterns = model.group_matcher(coarse)
    for name, _ in model.named_parameters():
        hits = [group for group, pattern in patterns.items() if re.search(pattern, name)]
        assert len(hits) == 1 or (hits == [] and name.startswith(f"{model.get_classifier(name_only=True)}.")), name

    groups = timm.models.group_parameters(model, patterns, reverse=True)  # timm's reader of such patterns
    stem, last = groups["conv1.weight" if "conv1.weight" in groups else "conv1.0.weight"], groups["fc.weight"]
    depth = len(model.cfg.layers) if coarse else sum(model.cfg.layers)
    assert (stem, last) == (0, depth + 1)
    assert sorted(set(groups.values())) == list(range(depth + 2))


@pytest.mark.parametrize("arch", [*FAMILIES, "seresnet20", "resnet20"])
def test_new_weights(arch: str) -> None:
    """He's normal by fan-out for convolutions; a zero behind each branch, but for the legacy basic blocks."""
    torch.manual_seed(0)
    model = build(arch)
    weight = model.layer1[0].conv2.weight
    fan_out = weight.shape[0] * 9  # as torch and timm count it, groups or not
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    for stage in model.stages:
        for block in stage:
            last = block.bn3 if model.cfg.block == "bottleneck" else block.bn2
            assert last.weight.unique().tolist() == ([1.0] if model.cfg.relu_before_se else [0.0])
    model.train()
    loss = nn.functional.cross_entropy(model(images(4, 64, 64)), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.layer1[0].bn2.weight.grad.abs().max() > 0 or model.cfg.block == "bottleneck"


@pytest.mark.parametrize(
    ("channels", "divisor", "width"), [(64, 1, 4), (512, 1, 32), (64, 8, 8), (256, 8, 16), (16, 8, 8), (448, 8, 32)]
)
def test_squeeze_width(channels: int, divisor: int, width: int) -> None:
    assert squeeze_width(channels, 16, divisor) == width


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(TypeError, match="num_clases"):
        build("seresnet18", num_clases=3)


def test_networks_export_as_one_graph() -> None:
    model = build("seresnet20").eval()
    exported = torch.export.export(model, (images(2, 32, 32),))
    with torch.no_grad():
        assert difference(exported.module()(images(2, 32, 32)), model(images(2, 32, 32))) <= 1e-5


def test_all_timm_rows_are_tested() -> None:
    assert len(ARCHS) == 34
