"""Our networks against timm's with the same random weights: logits, features, gradients, batch norm statistics."""

import pytest
import torch
from torch import Tensor, nn

from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from tests.models.pairs import ARCHS, difference, images, make_pair

TOLERANCE = 1e-5  # relative, float32


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return logits, the feature maps, and the gradient of a random projection of the logits."""
    x = x.clone().requires_grad_()
    last, features = model.forward_intermediates(x)
    logits = model.forward_head(last)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
    return logits.detach(), [f.detach() for f in features], gradient


def assert_equal_outputs(ours: nn.Module, theirs: nn.Module, x: Tensor, tolerance: float = TOLERANCE) -> None:
    our_logits, our_features, our_gradient = run(ours, x)
    logits, features, gradient = run(theirs, x)
    assert (logits - logits.mean(0)).abs().max() > 0.02 * logits.abs().max()  # the images matter, not the biases alone
    assert difference(our_logits, logits) <= tolerance
    assert len(our_features) == len(features) == 5
    for index, (a, b) in enumerate(zip(our_features, features, strict=True)):
        assert difference(a, b) <= tolerance, f"feature map {index}"
    assert difference(our_gradient, gradient) <= tolerance


def running_statistics(model: nn.Module) -> list[Tensor]:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return sorted((torch.cat([m.running_mean, m.running_var]) for m in norms), key=lambda t: (t.numel(), t[0].item()))


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_equal_timm(arch: str) -> None:
    ours, theirs = make_pair(arch)
    x = images(2, 64, 64)
    with torch.no_grad():
        logits = theirs(x)
        assert difference(ours(x), logits) <= TOLERANCE
    assert (logits - logits.mean(0)).abs().max() > 0.02 * logits.abs().max()  # the images matter, not the biases alone


@pytest.mark.parametrize("arch", ARCHS)
def test_features_and_gradients_equal_timm_in_evaluation_and_in_training(arch: str) -> None:
    """Two blocks a stage at a quarter of the width; timm's legacy networks, which cannot be cut down, whole."""
    cfg = VARIANTS[arch]
    channels = tuple(c * cfg.first_width_divisor for c in (16, 32, 64, 128))
    cut = {} if cfg.lineage == "legacy" else {"channels": channels, "layers": (2, 2, 2, 2)}
    ours, theirs = make_pair(arch, **cut)
    x = images(2, 64, 64)
    assert_equal_outputs(ours, theirs, x)

    ours.drop_rate = theirs.drop_rate = 0.0
    ours.train(), theirs.train()
    assert_equal_outputs(ours, theirs, x)
    pairs = zip(running_statistics(ours), running_statistics(theirs), strict=True)
    assert max(difference(a, b) for a, b in pairs) <= TOLERANCE


SIZES = [(32, 32), (33, 47), (71, 50), (5, 5), (224, 224)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_seresnet50", "seresnet18", "seresnext26t_32x4d"])
def test_small_and_odd_sizes_equal_timm(arch: str, height: int, width: int) -> None:
    ours, theirs = make_pair(arch)
    x = images(1, height, width)
    with torch.no_grad():
        assert difference(ours(x), theirs(x)) <= TOLERANCE
        for a, b in zip(ours.forward_intermediates(x)[1], theirs.forward_intermediates(x)[1], strict=True):
            assert difference(a, b) <= TOLERANCE


@pytest.mark.parametrize("arch", ["legacy_seresnext26_32x4d", "seresnext26d_32x4d", "seresnetaa50d"])
def test_double_precision_equals_timm(arch: str) -> None:
    ours, theirs = make_pair(arch)
    assert_equal_outputs(ours.double(), theirs.double(), images(2, 64, 64).double(), tolerance=1e-12)


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_senet154", "seresnet50t", "seresnet18"])
def test_in_chans_and_num_classes_equal_timm(arch: str, in_chans: int) -> None:
    ours, theirs = make_pair(arch, in_chans=in_chans, num_classes=7)
    x = images(1, 64, 64)[:, :1].repeat(1, in_chans, 1, 1)
    with torch.no_grad():
        assert ours(x).shape == (1, 7)
        assert difference(ours(x), theirs(x)) <= TOLERANCE
    assert ours.in_chans == in_chans


@pytest.mark.parametrize("arch", ["seresnet18", "seresnext26t_32x4d", "resnet34"])
def test_stochastic_depth_and_dropout_equal_timm(arch: str) -> None:
    """Both draw the same numbers in the same order, so that training itself is the same."""
    ours, theirs = make_pair(arch, drop_path_rate=0.4, drop_rate=0.3)
    our_rates = [b.drop_path.rate if hasattr(b.drop_path, "rate") else 0.0 for s in ours.stages for b in s]
    rates = [
        0.0 if b.drop_path is None else b.drop_path.drop_prob for i in range(1, 5) for b in getattr(theirs, f"layer{i}")
    ]
    assert our_rates == rates
    ours.train(), theirs.train()
    x = images(4, 64, 64)
    torch.manual_seed(5)
    a = ours(x)
    torch.manual_seed(5)
    assert difference(a, theirs(x)) <= TOLERANCE
    assert difference(ours(x), a) > 0.01  # another draw gives other logits


# One row's setting wrong, and the comparison above has to notice.
MISTAKES = [
    ("legacy_seresnet18", {"relu_before_se": False}),
    ("legacy_seresnet18", {"stem_pool": "max"}),
    ("legacy_seresnet50", {"stride_in": "conv2"}),
    ("seresnet18", {"relu_before_se": True}),
    ("seresnet18", {"stem_pool": "max_ceil"}),
    ("seresnetaa50d", {"anti_alias": False}),
    ("seresnext26d_32x4d", {"stem_pool": "avg"}),
]


@pytest.mark.parametrize(("arch", "mistake"), MISTAKES)
def test_a_wrong_setting_is_noticed(arch: str, mistake: dict[str, object]) -> None:
    right, theirs = make_pair(arch)
    wrong = SEResNet(right.cfg, **mistake)
    wrong.load_state_dict(right.state_dict())
    wrong.eval()
    x = images(2, 64, 64)
    with torch.no_grad():
        assert difference(wrong(x), theirs(x)) > 100 * TOLERANCE


def test_legacy_18_and_34_have_a_relu_between_bn2_and_the_excitation() -> None:
    """A hook sees the excitation's input: in the legacy basic block it has no negative values, elsewhere it has."""
    for arch, negative in [("legacy_seresnet18", False), ("legacy_seresnet34", False), ("seresnet18", True)]:
        ours, _ = make_pair(arch)
        seen: list[bool] = []

        def look(_: nn.Module, args: tuple[Tensor], seen: list[bool] = seen) -> None:
            seen.append(bool((args[0] < 0).any()))

        for stage in ours.stages:
            for block in stage:
                block.se.register_forward_pre_hook(look)
        ours(images(2, 64, 64))
        assert seen == [negative] * sum(ours.cfg.layers)
