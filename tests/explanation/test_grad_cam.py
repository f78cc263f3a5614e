"""Grad-CAM against captum, and against the class activation map that it equals behind a mean and one layer."""

import pytest
import torch
from captum.attr import LayerGradCam

from seresnet.explanation.grad_cam import grad_cam
from tests.networks import seresnet20, tiny


@pytest.mark.parametrize("make", [tiny, seresnet20])
@pytest.mark.parametrize("target", [0, 2])
def test_the_map_equals_captums(make, target):
    network, x = make(), torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = LayerGradCam(network, network.stages[-1]).attribute(x, target, relu_attributions=True).detach()
    with torch.no_grad():
        features = network.forward_features(x)
        logits = network(x)
    cam, mine = grad_cam(network, features, target)
    peak = float(theirs.max())
    assert peak > 0
    torch.testing.assert_close(cam / peak, theirs[:, 0] / peak, rtol=0, atol=1e-5)
    torch.testing.assert_close(mine, logits)


def test_behind_the_mean_it_is_the_classifiers_weight_at_each_place():
    network, x = tiny(), torch.randn(1, 3, 16, 16)
    features = network.forward_features(x).detach()
    weights = network.fc.weight[1].detach()
    expected = torch.einsum("c,nchw->nhw", weights, features).relu() / features[0, 0].numel()
    torch.testing.assert_close(grad_cam(network, features, 1)[0], expected, rtol=1e-5, atol=1e-6)
