"""Every engine refuses the same batches, by the same message, before it runs."""

import numpy as np
import pytest
import torch

from seresnet.engines.registry import ENGINES, open_engine
from seresnet.errors import ConfigError
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.networks import randomized, tiny

EVERY_ENGINE = pytest.mark.parametrize("name", ENGINES)


@pytest.fixture(scope="module")
def anti_aliased() -> SEResNet:
    channels = (16, 16, 16, 16)
    return randomized(build("seresnetaa50d", layers=(1, 1, 1, 1), channels=channels, num_classes=3)).eval()


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@EVERY_ENGINE
def test_sizes_that_torch_refuses_are_refused_with_the_reason(name: str, anti_aliased: SEResNet) -> None:
    """ONNX and OpenVINO would repeat an extent of 1 where 2 are needed, and answer."""
    engine = open_engine(name, anti_aliased, "cpu", "float32")
    fault = "images of 48 x 64 pixels do not fit this anti-aliased network: use multiples of 32, such as 64 x 64"
    for run in (engine.logits, engine.embed, lambda x: list(engine.map([x, x]))):
        with pytest.raises(ConfigError) as caught:
            run(images(2, 3, 48, 64))
        assert str(caught.value) == fault
    with pytest.raises(ConfigError, match=r"of 34 x 35 pixels .* such as 34 x 64"):
        engine.logits(images(1, 3, 34, 35))
    with pytest.raises(ConfigError, match="of 16 x 64 pixels are too small for this network: use 31 or more"):
        engine.logits(images(1, 3, 16, 64))
    with pytest.raises(ConfigError, match=r"a batch must be \(N, 3, H, W\), not \(1, 1, 64, 64\)"):
        engine.logits(images(1, 1, 64, 64))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_graph_from_a_file_refuses_them_too(name: str, anti_aliased: SEResNet, tmp_path) -> None:
    file = tmp_path / str(ENGINES[name].file)
    open_engine(name, anti_aliased, "cpu", "float32").save(file)  # type: ignore[attr-defined]
    engine = open_engine(name, file, "cpu", "float32")
    x = images(1, 3, 64, 33)
    with torch.no_grad():
        expected = anti_aliased(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(engine.logits(x), expected, atol=1e-4 * abs(expected).max())
    with pytest.raises(ConfigError, match="48 x 48 pixels do not fit"):
        engine.logits(images(1, 3, 48, 48))


@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])  # compiling takes half a minute a network
@pytest.mark.parametrize(("pool", "reason"), [("max", "pools by 'max'"), ("catavgmax", "pools by"), ("", "no pooling")])
def test_other_poolings_run_on_torch_or_are_refused(name: str, pool: str, reason: str) -> None:
    model = tiny()
    model.reset_classifier(3 if pool else 0, pool)
    x = images(2, 3, 8, 8)
    if name == "torch":
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(x)).numpy()
        engine = open_engine(name, model, "cpu", "float32")
        np.testing.assert_allclose(engine.logits(x), expected, atol=1e-5)
        assert not pool or engine.embed(x[:0]).shape == (0, engine.embed(x).shape[1])
    else:
        with pytest.raises(ConfigError, match=f"{reason} .*engine='torch'"):
            open_engine(name, model, "cpu", "float32")


@EVERY_ENGINE
def test_dilated_networks_are_refused(name: str) -> None:
    model = build("seresnet18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), output_stride=8).eval()
    with pytest.raises(ConfigError, match="output_stride=8 cannot be fused"):
        open_engine(name, model, "cpu", "float32")
