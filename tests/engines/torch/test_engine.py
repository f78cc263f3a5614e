from dataclasses import replace

import numpy as np
import pytest
import torch

from seresnet.common import machine
from seresnet.engines.registry import open_engine
from seresnet.engines.torch import engine as engine_module
from seresnet.engines.torch.engine import TorchEngine
from seresnet.errors import ConfigError
from seresnet.models.resnet import SEResNet
from tests.models.one_device import META, OneDevice
from tests.networks import TINY, randomized, seresnet20


def batch(count: int = 5, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def by_hand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and pooled features by the network's own forward passes."""
    model = seresnet20()
    with torch.no_grad():
        features = model.forward_features(torch.from_numpy(x))
        return model(torch.from_numpy(x)).numpy(), model.forward_head(features, pre_logits=True).numpy()


def test_float32_gives_the_networks_own_numbers():
    logits, features = by_hand(batch())
    engine = TorchEngine(seresnet20(), "cpu", "float32")
    np.testing.assert_allclose(engine.logits(batch()), logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(engine.embed(batch()), features, rtol=1e-5, atol=1e-5 * np.abs(features).max())


def test_takes_tensors_and_arrays_of_any_layout():
    engine = TorchEngine(seresnet20(), "cpu", "float32")
    expected = engine.logits(batch())
    np.testing.assert_array_equal(engine.logits(torch.from_numpy(batch())), expected)
    channels_last = torch.from_numpy(batch()).to(memory_format=torch.channels_last)
    np.testing.assert_array_equal(engine.logits(channels_last), expected)
    np.testing.assert_array_equal(engine.logits(batch().transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)), expected)


def test_bfloat16_is_near_and_really_another_format():
    logits, features = by_hand(batch())
    engine = TorchEngine(seresnet20(), "cpu", "bfloat16")
    for got, exact in ((engine.logits(batch()), logits), (engine.embed(batch()), features)):
        difference = np.abs(got - exact).max() / np.abs(exact).max()
        assert got.dtype == np.float32
        assert 1e-5 < difference < 0.03  # 8 bits of mantissa, 19 layers


def test_bfloat16_keeps_the_classifier_in_float32():
    engine = TorchEngine(seresnet20(), "cpu", "bfloat16")
    formats = {name: parameter.dtype for name, parameter in engine.model.named_parameters()}
    assert formats["layer1.0.last.weight"] == formats["layer3.2.gate.fc1.bias"] == torch.bfloat16
    assert formats["fc.weight"] == torch.float32


def test_the_network_stays_as_it_is():
    model = seresnet20().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TorchEngine(model, "cpu", "bfloat16").logits(batch())
    assert model.training and model.conv1.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dropout_is_off():
    model = seresnet20()
    model.drop_rate = 0.5
    engine = TorchEngine(model.train(), "cpu", "float32")
    np.testing.assert_array_equal(engine.logits(batch()), engine.logits(batch()))


def test_an_empty_batch_gives_empty_results():
    engine = TorchEngine(seresnet20(), "cpu", "float32")
    assert engine.logits(batch(0)).shape == (0, 10)
    assert engine.embed(batch(0)).shape == (0, 64)


def test_describes_itself():
    engine = TorchEngine(seresnet20(), "cpu", "auto")
    assert (engine.name, engine.device) == ("torch", "cpu")
    assert engine.describe().startswith(f"torch {torch.__version__}, cpu (")


@pytest.mark.parametrize(
    ("flags", "precision"), [("fma avx2 avx512f", "float32"), ("avx512_bf16", "bfloat16"), ("asimd bf16", "bfloat16")]
)
def test_auto_is_the_fastest_that_the_processor_has(flags, precision, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert TorchEngine(seresnet20(), "cpu", "auto").precision == precision


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 4, 32, 32), (2, 32, 32, 3)])
def test_a_batch_of_another_shape_is_refused(shape):
    with pytest.raises(ConfigError, match=r"must be \(N, 3, H, W\), not \("):
        TorchEngine(seresnet20(), "cpu").logits(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here: use cpu"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here: use cpu"),
        ({"name": "torch", "device": "cpu", "precision": "float16"}, "float16 needs a GPU: use bfloat16 or float32"),
        ({"device": "cpu", "precision": "int3"}, "precision 'int3' is unknown: use auto, float32, bfloat16, float16"),
        ({"name": "steam"}, "engine 'steam' is unknown: use auto or openvino, "),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_engine(settings.pop("name", "auto"), seresnet20(), **settings)
    assert "\n" not in str(caught.value)


def compiled_with(backend, monkeypatch):
    """A small network on the compiled engine, without the half minute of the C++ compiler."""
    compile_ = torch.compile

    def other(function, dynamic, options):
        assert options == {"freezing": True}
        return compile_(function, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", other)
    model = randomized(SEResNet(replace(TINY, layers=(1,), channels=(8,)))).eval()
    return model, open_engine("torch-compile", model, "cpu", "float32")


def test_compiled_it_gives_the_same_numbers_at_any_size(monkeypatch):
    captured = []
    model, engine = compiled_with(lambda graph, _: captured.append(graph) or graph.forward, monkeypatch)
    assert engine.describe().startswith("torch-compile ")
    for count, size in ((5, 16), (2, 12), (7, 20), (4, 40)):
        x = batch(count, size)
        expected = model(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(engine.logits(x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert len(captured) == 1


def test_without_a_compiler_it_says_so(monkeypatch):
    def backend(graph, _):
        raise torch._inductor.exc.InvalidCxxCompiler

    _, engine = compiled_with(backend, monkeypatch)
    with pytest.raises(ConfigError, match=r"No working C.. compiler found.* install g.., or") as caught:
        engine.logits(batch(2, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-2), ("float16", 1e-2), ("bfloat16", 3e-2)])
def test_a_gpu_agrees_with_the_cpu(precision, bound):
    logits, _ = by_hand(batch())
    engine = open_engine("torch", seresnet20(), "cuda", precision)
    assert np.abs(engine.logits(batch()) - logits).max() / np.abs(logits).max() < bound


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_no_tensor_is_left_on_another_device(precision, monkeypatch):
    """No GPU is at hand: on the meta device a tensor that stays on the CPU fails as it would there."""
    monkeypatch.setattr(engine_module, "torch_device", lambda name: META)
    engine = TorchEngine(seresnet20(), "cuda", precision)
    assert {p.device for p in engine.model.parameters()} == {META}
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: torch.zeros(t.shape))  # a meta tensor has no values to copy
    with OneDevice() as mode:
        assert engine.logits(batch()).shape == (5, 10) and engine.embed(batch()).shape == (5, 64)
    assert mode.seen > 100
