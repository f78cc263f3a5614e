"""What timm's users and their tools do with a model: every tool that works on timm's network works on ours."""

import copy

import pytest
import torch
from torch import nn

from seresnet.models.features import FeatureNet
from seresnet.models.pooling import GlobalPool2d
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.meta import on_meta_device
from tests.models.pairs import difference, images, make_pair, our_key
from tests.networks import TINY, randomized
from tests.timm_import import timm

FAMILIES = ["legacy_seresnet18", "legacy_seresnext26_32x4d", "seresnet18", "seresnetaa50d"]
POOLS = ["avg", "max", "avgmax", "catavgmax"]


def on_meta(arch: str, **settings: object) -> SEResNet:
    with on_meta_device():
        return build(arch, **settings)


@pytest.mark.parametrize("arch", [*FAMILIES, "seresnext26t_32x4d"])
def test_parameters_stand_in_timms_order(arch: str) -> None:
    """An optimizer's state goes by position."""
    ours = on_meta(arch)
    with on_meta_device():
        theirs = timm.create_model(arch)
    deep, legacy = isinstance(ours.conv1, nn.Sequential), ours.cfg.lineage == "legacy"
    for kind in ("named_parameters", "named_buffers"):
        names = [our_key(name, deep) if legacy else name for name, _ in getattr(theirs, kind)()]
        assert [name for name, _ in getattr(ours, kind)()] == names


@pytest.mark.parametrize("arch", FAMILIES)
def test_children_one_after_the_other_are_the_network(arch: str) -> None:
    """fastai's cut, and everybody's ``nn.Sequential(*list(model.children())[:-2])``; no batch norm is zero here."""
    ours, theirs = make_pair(arch)
    x = images(2, 64, 64)
    with torch.no_grad():
        assert difference(nn.Sequential(*ours.children())(x), theirs(x)) <= 1e-5
        assert difference(nn.Sequential(*list(ours.children())[:-2])(x), theirs.forward_features(x)) <= 1e-5


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_same_activations_are_modules_as_in_timm(arch: str) -> None:
    ours, theirs = make_pair(arch)
    counts = []
    for model in (ours, theirs):
        ran: list[int] = []
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        model(images(1, 64, 64))
        counts.append(len(ran))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet50t"])
def test_features_by_timms_and_torchvisions_extractors(arch: str) -> None:
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.feature_extraction import create_feature_extractor

    ours, theirs = make_pair(arch)
    x = images(1, 64, 64)
    expected = theirs.forward_intermediates(x, intermediates_only=True)
    names = [info["module"] for info in ours.feature_info]
    assert names == ["act1", "layer1", "layer2", "layer3", "layer4"]
    layers = {name: name for name in names}
    found = [
        list(IntermediateLayerGetter(copy.deepcopy(ours), layers)(x).values()),
        list(create_feature_extractor(copy.deepcopy(ours), layers)(x).values()),
        timm.models.FeatureListNet(copy.deepcopy(ours), out_indices=(0, 1, 2, 3, 4))(x),
        FeatureNet(copy.deepcopy(ours))(x),
        torch.jit.script(FeatureNet(copy.deepcopy(ours)))(x),
    ]
    for maps in found:
        assert all(difference(a, b) <= 1e-5 for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize("indices", [None, (1, 3), 2, (0,)])
def test_feature_networks_equal_timms(indices: object) -> None:
    ours, theirs = make_pair("seresnet18")
    x = images(1, 64, 64)
    chosen = list(indices) if isinstance(indices, tuple) else indices
    expected = theirs.forward_intermediates(x, indices=chosen, intermediates_only=True)
    features = FeatureNet(ours, indices)  # type: ignore[arg-type]
    maps = features(x)
    assert all(difference(a, b) <= 1e-5 for a, b in zip(maps, expected, strict=True))
    assert features.feature_info.channels() == [m.shape[1] for m in maps]
    assert features.feature_info.reduction() == [64 // m.shape[2] for m in maps]
    assert features.feature_info.module_name() == [f["module"] for f in features.feature_info.get_dicts()]
    assert [n for n, _ in features.named_children()][-1] == features.feature_info.module_name()[-1]
    features.train().set_grad_checkpointing()
    sum(m.square().mean() for m in features(x)).backward()
    assert all(p.grad is not None for p in features.parameters())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet18"])
def test_every_pooling_equals_timms(arch: str, pool: str) -> None:
    ours, theirs = make_pair(arch, global_pool=pool)
    x = images(2, 64, 48)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) <= 1e-5
        features = theirs.forward_features(x)
        pooled = theirs.forward_head(features, pre_logits=True)
        assert difference(ours.forward_head(features, pre_logits=True), pooled) <= 1e-5
    assert ours.head_hidden_size == theirs.head_hidden_size == pooled.shape[1]
    ours.reset_classifier(5)
    assert ours(x).shape == (2, 5) and ours.global_pool.pool_type == pool


def test_other_poolings_are_refused() -> None:
    with pytest.raises(ValueError, match="'median': use 'avg'"):
        GlobalPool2d("median")
    with pytest.raises(ValueError, match="num_classes=0"):
        build("seresnet18", global_pool="")
    assert build("seresnet18", global_pool="", num_classes=0).eval()(images(1, 32, 32)).shape == (1, 512, 1, 1)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("arch", ["seresnet18", "seresnext26t_32x4d", "seresnetaa50d"])
def test_output_stride_equals_timms(arch: str, stride: int) -> None:
    ours, theirs = make_pair(arch, output_stride=stride)
    x = images(1, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours.forward_intermediates(x)[1], theirs.forward_intermediates(x)[1], strict=True):
            assert difference(a, b) <= 1e-5
        assert difference(ours(x), theirs(x)) <= 1e-5
    assert [f["reduction"] for f in ours.feature_info] == [f["reduction"] for f in theirs.feature_info]


@pytest.mark.parametrize(("arch", "stride"), [("legacy_seresnet18", 16), ("seresnet18", 4)])
def test_other_output_strides_are_refused(arch: str, stride: int) -> None:
    with pytest.raises(ValueError, match="output_stride"):
        on_meta(arch, output_stride=stride)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (40, 40), (97, 64), (64, 64)])
def test_anti_aliased_networks_take_the_sizes_that_timms_take(size: tuple[int, int], training: bool) -> None:
    ours, theirs = (model.train(training) for model in make_pair("seresnetaa50d"))
    x = images(2, *size)
    try:
        expected = theirs(x)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            ours(x)
    else:
        assert difference(ours(x), expected) <= 1e-5


@pytest.mark.parametrize("indices", [1, [0], [2], [1, 4]])
def test_pruned_networks_equal_timms(indices: object) -> None:
    ours, theirs = make_pair("seresnet18")
    x = images(1, 64, 64)
    assert ours.prune_intermediate_layers(indices) == theirs.prune_intermediate_layers(indices)
    with torch.no_grad():
        for a, b in zip(ours.forward_intermediates(x)[1], theirs.forward_intermediates(x)[1], strict=True):
            assert difference(a, b) <= 1e-5
        assert difference(ours(x), theirs(x)) <= 1e-5
    assert (ours.num_features, ours.num_classes) == (theirs.num_features, 0)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnetaa50d", "seresnet20"])
def test_scripted_and_symbolically_traced_networks_are_the_same(arch: str) -> None:
    model = randomized(build(arch)).eval()
    x = images(1, 64, 64)
    expected = model(x)
    for other in (torch.jit.script(model), torch.fx.symbolic_trace(model)):
        torch.testing.assert_close(other(x), expected)
    torch.jit.script(torch.fx.symbolic_trace(model))(x)
    assert torch.fx.symbolic_trace(model.train())(images(2, 64, 64)).shape == expected.repeat(2, 1).shape


def test_exports_with_dynamic_shapes_in_training_too() -> None:
    model = randomized(SEResNet(TINY))
    dims = {0: torch.export.Dim("batch", min=2, max=64), 2: torch.export.Dim("height", min=8, max=256)}
    for mode in (False, True):
        program = torch.export.export(model.train(mode), (torch.randn(3, 3, 32, 32),), dynamic_shapes=(dims,))
        x = torch.randn(5, 3, 48, 32)
        torch.testing.assert_close(program.module()(x), copy.deepcopy(model)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet50", "seresnet20"])
def test_a_training_step_makes_no_tensor_on_another_device(arch: str) -> None:
    """On the meta device, where no GPU is at hand: a tensor made on the CPU fails here as it would there."""
    with torch.device("meta"):
        model = build(arch, drop_rate=0.2, drop_path_rate=0.1).train()
        x, target = torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.long)
    for module in model.modules():
        if hasattr(module, "batch_shard"):
            module.batch_shard = (1, 2)  # the second of two ranks
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"meta"}
    assert model.eval()(x).shape == (4, model.num_classes)
